"""A causal transformer (Vaswani et al. 2017), normalised before each branch (Radford et al. 2019), over codes 0, ..., K - 1."""

import dataclasses
import math
from typing import Annotated
from typing import NamedTuple

from flax import linen as nn
import jax
from jax import numpy as jnp

from imagegen_jax import keys as keys_lib
from imagegen_jax.networks import blocks


class Cache(NamedTuple):
    """What one layer remembers of the positions so far; both (n, length, heads, width / heads), zero where none was yet."""

    keys: jax.Array
    values: jax.Array


class Block(nn.Module):
    """Attention to this position and those before it, then a hidden layer of 4 times the width; each begins as the identity."""

    heads: int
    dropout: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, cache, position, train):
        """(n, l, width) at positions position, ..., position + l - 1 -> (the same shape, Cache with them in it)."""
        h, cache = self._attend(nn.LayerNorm(dtype=self.dtype)(x), cache, position)
        x = x + nn.Dropout(self.dropout, deterministic=not train)(h)
        h = nn.gelu(nn.Dense(4 * x.shape[-1], dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x)))
        h = nn.Dense(x.shape[-1], kernel_init=blocks.near_zero, dtype=self.dtype)(h)
        return x + nn.Dropout(self.dropout, deterministic=not train)(h), cache

    def _attend(self, x, cache, position):
        width = x.shape[-1]
        features = width // self.heads
        projected = nn.DenseGeneral((3, self.heads, features), dtype=self.dtype, name="query_key_value")(x)
        query, *fresh = jnp.moveaxis(projected, 2, 0)
        cache = Cache(*(jax.lax.dynamic_update_slice_in_dim(old, new, position, 1) for old, new in zip(cache, fresh)))
        scores = jnp.einsum("nqhd,nkhd->nhqk", query, cache.keys, preferred_element_type=jnp.float32)
        visible = jnp.arange(cache.keys.shape[1]) <= position + jnp.arange(x.shape[1])[:, None]
        weights = nn.softmax(jnp.where(visible, scores / math.sqrt(features), -jnp.inf)).astype(self.dtype)
        attended = jnp.einsum("nhqk,nkhd->nqhd", weights, cache.values)
        out = nn.DenseGeneral(width, (-2, -1), kernel_init=blocks.near_zero, dtype=self.dtype, name="out")(attended)
        return out, cache


class Transformer(nn.Module):
    """p(code_i | code_0, ..., code_{i - 1}, label) for i = 0, ..., length - 1.

    A sequence's inputs are a start token, of which there is one for each class, and the codes but for the last (`inputs`).

    Attributes:
      codes: K.
      length: codes in a sequence.
      width: features of a position; a multiple of heads.
      layers: blocks.
      heads: of attention.
      dropout: of embeddings and branches.
      classes: labels; 0 for none.
      dtype: of the computation; logits are float32.
    """

    codes: int
    length: int
    width: Annotated[int, keys_lib.AtLeast(1)] = 128
    layers: Annotated[int, keys_lib.AtLeast(1)] = 4
    heads: Annotated[int, keys_lib.AtLeast(1)] = 4
    dropout: Annotated[float, keys_lib.AtLeast(0), keys_lib.Below(1)] = 0.1
    classes: int = 0
    dtype: jnp.dtype = jnp.float32

    def start(self, n, condition):
        """(n,) int32, the first inputs of n sequences; the condition has 'label', (n,) int32, unless classes is 0."""
        return self.codes + (condition["label"] if self.classes else jnp.zeros(n, jnp.int32))

    def inputs(self, codes, condition):
        """(n, length) int32 codes -> (n, length) int32, what the network is given to predict them."""
        return jnp.concatenate([self.start(len(codes), condition)[:, None], codes[:, :-1]], 1)

    def empty_cache(self, n):
        """For n sequences, before their first position."""
        zeros = jnp.zeros((n, self.length, self.heads, self.width // self.heads), self.dtype)
        return (Cache(zeros, zeros),) * self.layers

    @nn.compact
    def __call__(self, inputs, cache, position=0, train=False):
        """The next positions of n sequences, all of them at once or one after the other.

        Args:
          inputs: (n, l) int32.
          cache: of `empty_cache`, or as the position before left it.
          position: () int, that of inputs[:, 0].
          train: with dropout, whose key is 'dropout'.

        Returns:
          (logits (n, l, codes) float32, cache).
        """
        tokens = nn.Embed(self.codes + max(self.classes, 1), self.width, dtype=self.dtype, name="tokens")(inputs)
        places = self.param("places", nn.initializers.normal(0.02), (self.length, self.width))
        x = tokens + jax.lax.dynamic_slice_in_dim(places, position, inputs.shape[1]).astype(self.dtype)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        layers = []
        for layer in cache:
            x, layer = Block(self.heads, self.dropout, self.dtype)(x, layer, position, train)
            layers.append(layer)
        x = nn.LayerNorm()(x)
        return nn.Dense(self.codes, kernel_init=blocks.near_zero, name="logits")(x), tuple(layers)


@dataclasses.dataclass(frozen=True)
class Config(keys_lib.section(Transformer, without=("codes", "length", "classes"))):
    """The section `network` of a transformer."""

    def objections(self):
        """See keys.objections."""
        if self.width % self.heads:
            yield "heads", f"it must divide config.network.width ({self.width})"
