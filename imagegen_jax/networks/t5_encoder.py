"""The encoder of T5 (Raffel et al. 2020, section 2.1) and of its version 1.1, as transformers' T5EncoderModel has it."""

import math
from typing import Any

from flax import linen as nn
import jax
from jax import numpy as jnp

from imagegen_jax.networks import blocks
from imagegen_jax.networks import words

ACTIVATIONS = {"relu": nn.relu, "gated-gelu": nn.gelu}


class T5Encoder(nn.Module):
    """Tokens of conditions.Text -> words.Words, the tokens as the last layer and its norm have them, pooled their mean.

    Attributes:
      vocabulary: tokens that there are.
      width: features of a token.
      layers: blocks.
      heads: of attention.
      head_width: features of a head.
      hidden: features of the hidden layer of a block.
      activation: name of one of ACTIVATIONS; the gated one multiplies what it makes by a second linear layer.
      buckets: distances between tokens that attention tells apart.
      furthest: distance from which on all are one.
      epsilon: of the norms.
      dtype: of the computation; parameters, norms and softmax are float32.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    head_width: int
    hidden: int
    activation: str = "relu"
    buckets: int = 32
    furthest: int = 128
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, text):
        """(n, length) int32 -> Words."""
        length = text.shape[1]
        there = text < self.vocabulary
        x = nn.Embed(self.vocabulary, self.width, dtype=self.dtype, name="tokens")(jnp.where(there, text, 0))
        distance = jnp.arange(length)[None] - jnp.arange(length)[:, None]
        bias = nn.Embed(self.buckets, self.heads, name="distances")(bucket(distance, self.buckets, self.furthest))
        sizes = self.heads, self.head_width, self.hidden, self.activation, self.epsilon, self.dtype
        for i in range(self.layers):
            x = _Block(*sizes, name=f"block{i}")(x, there, bias.transpose(2, 0, 1)[None])
        x = nn.RMSNorm(self.epsilon, name="norm_out")(x).astype(self.dtype)
        return words.Words(x, there, x.mean(1, where=there[..., None]))


class _Block(nn.Module):
    """Attention without scale, with a bias for each distance; then a hidden layer. Fields are those of T5Encoder."""

    heads: int
    head_width: int
    hidden: int
    activation: str
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x, visible, bias):
        width, seen = x.shape[-1], visible[:, None, None]
        norm, dense = (lambda name: nn.RMSNorm(self.epsilon, name=name)), self._dense
        h = norm("norm1")(x)
        q, k, v = (dense(self.heads * self.head_width, name)(h).reshape(*x.shape[:2], self.heads, -1) for name in "qkv")
        h = jax.nn.dot_product_attention(q, k, v, bias.astype(q.dtype), seen, scale=1.0)
        x = x + dense(width, "o", blocks.near_zero)(h.reshape(*x.shape[:2], -1))
        h = norm("norm2")(x)
        hidden = ACTIVATIONS[self.activation](dense(self.hidden, "wi")(h))
        if self.activation.startswith("gated"):
            hidden = hidden * dense(self.hidden, "gate")(h)
        return x + dense(width, "wo", blocks.near_zero)(hidden)

    def _dense(self, features, name, init=blocks.fan_avg):
        return nn.Dense(features, use_bias=False, kernel_init=init, dtype=self.dtype, name=name)


def bucket(distance, buckets, furthest):
    """Number of the bucket of a distance, of any shape: half of them for each direction.

    Of those one half is for each distance from 0 on, and the other widens logarithmically up to `furthest` (section 2.1).
    """
    half, exact = buckets // 2, buckets // 4
    far = jnp.abs(distance)
    widening = exact + jnp.log(jnp.maximum(far, 1) / exact) / math.log(furthest / exact) * (half - exact)
    found = jnp.where(far < exact, far, jnp.minimum(widening.astype(jnp.int32), half - 1))
    return found + half * (distance > 0)
