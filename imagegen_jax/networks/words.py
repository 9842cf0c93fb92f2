"""What a text encoder makes of a text, and the block of a transformer that reads one."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

from flax import linen as nn
import jax
from jax import numpy as jnp

from imagegen_jax.networks import blocks


class Words(NamedTuple):
    """What a text says.

    Attributes:
      tokens: (n, l, width), of each token.
      visible: (n, l) bool, False behind the text's end.
      pooled: (n, width), of the text as a whole.
    """

    tokens: jax.Array
    visible: jax.Array
    pooled: jax.Array


class Block(nn.Module):
    """Attention to all that is visible, then a hidden layer; each normalised before (Radford et al. 2019).

    Attributes:
      heads: of attention.
      dtype: of the computation; parameters, norms and softmax are float32.
      hidden: features of the hidden layer; 0 for 4 times the width.
      causal: each token attends to itself and to those before it.
      activation: of the hidden layer.
      epsilon: of the norms.
    """

    heads: int
    dtype: Any
    hidden: int = 0
    causal: bool = False
    activation: Callable = nn.gelu
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x, visible):
        n, length, width = x.shape
        norm, dense = (lambda name: nn.LayerNorm(self.epsilon, name=name)), self._dense
        qkv = dense(3 * width, "query_key_value")(norm("norm1")(x))
        q, k, v = jnp.moveaxis(qkv.reshape(n, length, 3, self.heads, width // self.heads), 2, 0)
        h = jax.nn.dot_product_attention(q, k, v, mask=visible[:, None, None], is_causal=self.causal)
        x = x + dense(width, "out", blocks.near_zero)(h.reshape(x.shape))
        h = self.activation(dense(self.hidden or 4 * width, "mlp_in")(norm("norm2")(x)))
        return x + dense(width, "mlp_out", blocks.near_zero)(h)

    def _dense(self, features, name, init=blocks.fan_avg):
        return nn.Dense(features, kernel_init=init, dtype=self.dtype, name=name)
