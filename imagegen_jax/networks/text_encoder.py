"""A transformer (Vaswani et al. 2017) that reads the bytes of a text, trained with the network that it tells of it.

A convolution over neighbouring bytes comes first, since the parts of words say more than letters do (Clark et al. 2022, section
3.2, has attention between neighbours there).
"""

import dataclasses
from typing import Annotated
from typing import Any
from typing import NamedTuple

from flax import linen as nn
import jax
from jax import numpy as jnp

from imagegen_jax import conditions
from imagegen_jax import keys
from imagegen_jax.networks import blocks

_NEIGHBOURS = 5  # bytes that a token is made of
_unit = nn.initializers.normal(1.0)
_small = nn.initializers.normal(0.02)


class Words(NamedTuple):
    """What a text says.

    Attributes:
      tokens: (n, l, width), of the text's start and of each of its bytes.
      visible: (n, l) bool, False behind its end.
      pooled: (n, width), their mean.
    """

    tokens: jax.Array
    visible: jax.Array
    pooled: jax.Array


class Block(nn.Module):
    """Attention of all to all that is visible, then a hidden layer of 4 times the width; each normalised before."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x, visible):
        n, length, width = x.shape
        norm, dense = (lambda name: nn.LayerNorm(name=name)), self._dense
        qkv = dense(3 * width, "query_key_value")(norm("norm1")(x))
        q, k, v = jnp.moveaxis(qkv.reshape(n, length, 3, self.heads, width // self.heads), 2, 0)
        h = jax.nn.dot_product_attention(q, k, v, mask=visible[:, None, None])
        x = x + dense(width, "out", blocks.near_zero)(h.reshape(x.shape))
        return x + dense(width, "mlp_out", blocks.near_zero)(nn.gelu(dense(4 * width, "mlp_in")(norm("norm2")(x))))

    def _dense(self, features, name, init=blocks.fan_avg):
        return nn.Dense(features, kernel_init=init, dtype=self.dtype, name=name)


class TextEncoder(nn.Module):
    """Tokens of conditions.Text -> Words.

    Attributes:
      width: features of a token.
      layers: blocks.
      heads: of attention.
      dtype: of the computation; parameters, norms and softmax are float32.
    """

    width: Annotated[int, keys.AtLeast(1)] = 128
    layers: Annotated[int, keys.AtLeast(1)] = 2
    heads: Annotated[int, keys.AtLeast(1)] = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, text):
        """(n, length) int32 -> Words with l = length + 1: a token of its own comes first, which an empty text has, too."""
        n, length = text.shape
        start = self.param("start", _small, (1, self.width)).astype(self.dtype)
        places = self.param("places", _small, (length, self.width)).astype(self.dtype)
        there = text != conditions.Text.PAD
        table = nn.Embed(conditions.Text.PAD, self.width, embedding_init=_unit, dtype=self.dtype, name="bytes")
        x = jnp.where(there[..., None], table(jnp.where(there, text, 0)), 0)
        x = nn.gelu(nn.Conv(self.width, (_NEIGHBOURS,), dtype=self.dtype, name="neighbours")(x)) + places
        x = jnp.concatenate([jnp.broadcast_to(start, (n, 1, self.width)), x], 1)
        visible = jnp.concatenate([jnp.ones((n, 1), bool), there], 1)
        for i in range(self.layers):
            x = Block(self.heads, self.dtype, name=f"block{i}")(x, visible)
        x = nn.LayerNorm(name="norm_out")(x).astype(self.dtype)
        return Words(x, visible, x.mean(1, where=visible[..., None]))


@dataclasses.dataclass(frozen=True)
class Config(keys.section(TextEncoder)):
    """The section `text_encoder`."""

    def objections(self):
        """See keys.objections."""
        if self.width % self.heads:
            yield "heads", f"it must divide config.text_encoder.width ({self.width})"
