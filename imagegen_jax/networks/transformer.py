"""A transformer (Vaswani et al. 2017), normalised before each branch (Radford et al. 2019), over codes 0, ..., K - 1.

Each position attends to itself and to those before it, for a prior that draws codes one after the other; or to all, for one
that draws many at once (Chang et al. 2022), whose codes may be masked. The words of a text stand before the codes, so that
what is remembered of positions holds those of words, too (Ramesh et al. 2021, section 2.2).
"""

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
    """What one layer remembers of the positions so far; both (n, heads, l, width / heads), zero where none was yet.

    With positions innermost but one, scores and sums over them are products of matrices as they lie in memory.
    """

    keys: jax.Array
    values: jax.Array


class Block(nn.Module):
    """Attention, then a hidden layer of 4 times the width; each begins as the identity."""

    heads: int
    dropout: float
    causal: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, cache, position, train):
        """(n, l, width) at positions position, ..., position + l - 1 -> (the same shape, the cache with them in it).

        Without a cache they are the first, and alone in it.
        """
        h, cache = self._attend(nn.LayerNorm(dtype=self.dtype)(x), cache, position)
        x = x + nn.Dropout(self.dropout, deterministic=not train)(h)
        h = nn.gelu(nn.Dense(4 * x.shape[-1], dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x)))
        h = nn.Dense(x.shape[-1], kernel_init=blocks.near_zero, dtype=self.dtype)(h)
        return x + nn.Dropout(self.dropout, deterministic=not train)(h), cache

    def _attend(self, x, cache, position):
        width = x.shape[-1]
        features = width // self.heads
        projected = nn.DenseGeneral((3, self.heads, features), dtype=self.dtype, name="query_key_value")(x)
        query, *fresh = jnp.moveaxis(projected, (2, 3), (0, 2))
        known = Cache(*fresh)
        if cache is not None:
            known = jax.tree.map(lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, position, 2), cache, known)
        scores = jnp.einsum("nhqd,nhkd->nhqk", query, known.keys, preferred_element_type=jnp.float32) / math.sqrt(features)
        if self.causal:
            visible = jnp.arange(scores.shape[-1]) <= position + jnp.arange(x.shape[1])[:, None]
            scores = jnp.where(visible, scores, -jnp.inf)
        attended = jnp.einsum("nhqk,nhkd->nqhd", nn.softmax(scores).astype(self.dtype), known.values)
        out = nn.DenseGeneral(width, (-2, -1), kernel_init=blocks.near_zero, dtype=self.dtype, name="out")(attended)
        return out, known


class Transformer(nn.Module):
    """p(code_i | code_0, ..., code_{i - 1}, condition) for i = 0, ..., length - 1; unless causal, given all not masked.

    Its inputs (`inputs`) are a start token, of which there is one for each label, and the codes. Where it is causal they lack
    the last one, and each code is predicted at the place of the one before; otherwise each is predicted where it stands.

    Attributes:
      codes: K.
      length: codes in a sequence.
      width: features of a position; a multiple of heads.
      layers: blocks.
      heads: of attention.
      dropout: of embeddings and branches.
      starts: start tokens.
      causal: whether a position attends to those before it and to itself alone.
      text: makes words.Words of a text that it is told; None for none.
      dtype: of the computation; logits are float32.
    """

    codes: int
    length: int
    width: Annotated[int, keys_lib.AtLeast(1)] = 128
    layers: Annotated[int, keys_lib.AtLeast(1)] = 4
    heads: Annotated[int, keys_lib.AtLeast(1)] = 4
    dropout: Annotated[float, keys_lib.AtLeast(0), keys_lib.Below(1)] = 0.1
    starts: int = 1
    causal: bool = True
    text: nn.Module | None = None
    dtype: jnp.dtype = jnp.float32

    @property
    def mask(self):
        """The input in place of a code that is masked; none is where it is causal."""
        return self.codes + self.starts

    def start(self, n, condition):
        """(n,) int32, the first inputs of n sequences; a condition may have 'label', (n,) int32 below `starts`."""
        return self.codes + condition.get("label", jnp.zeros(n, jnp.int32))

    def inputs(self, codes, condition):
        """(n, length) int32, codes or `mask` -> (n, l) int32, what the network is given to predict them."""
        shown = codes[:, :-1] if self.causal else codes
        return jnp.concatenate([self.start(len(codes), condition)[:, None], shown], 1)

    def empty_cache(self, n, positions):
        """For the first so many positions of n sequences, before the first."""
        zeros = jnp.zeros((n, self.heads, positions, self.width // self.heads), self.dtype)
        return (Cache(zeros, zeros),) * self.layers

    @nn.compact
    def __call__(self, inputs, cache=None, position=0, train=False, text=None, words=0):
        """All positions of n sequences at once or, where it is causal, the next ones.

        Args:
          inputs: (n, l) int32; l is 0 to read the text alone.
          cache: of `empty_cache`, or as the position before left it; None before the first position.
          position: () int, that of inputs[:, 0].
          train: with dropout, whose key is 'dropout'.
          text: (n, its length) int32, tokens of a conditions.Text; None where it is told none, or the cache has its words.
          words: how many of those the cache has.

        Returns:
          (logits float32 (n, l, codes), or (n, length, codes) unless it is causal; cache).
        """
        tokens = self.codes + self.starts + (not self.causal)
        tokens = nn.Embed(tokens, self.width, dtype=self.dtype, name="tokens")(inputs)
        places = self.param("places", nn.initializers.normal(0.02), (self.length + (not self.causal), self.width))
        x = tokens + jax.lax.dynamic_slice_in_dim(places, position, inputs.shape[1]).astype(self.dtype)
        if text is not None:
            x = jnp.concatenate([self._read(text), x], 1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        layers = []
        for layer in cache or (None,) * self.layers:
            x, layer = Block(self.heads, self.dropout, self.causal, self.dtype)(x, layer, words + position, train)
            layers.append(layer)
        x = x[:, x.shape[1] - inputs.shape[1] :]
        x = nn.LayerNorm()(x if self.causal else x[:, 1:])
        return nn.Dense(self.codes, kernel_init=blocks.near_zero, name="logits")(x), tuple(layers)

    def _read(self, text):
        """(n, l, width) of the words of a text; behind its end there is a learned one for each place (section 2.2)."""
        said = self.text(text)
        tokens = nn.Dense(self.width, kernel_init=blocks.fan_avg, dtype=self.dtype, name="text_tokens")(said.tokens)
        padding = self.param("padding", nn.initializers.normal(0.02), tokens.shape[1:])
        return jnp.where(said.visible[..., None], tokens, padding.astype(self.dtype))


def grown(cache, positions):
    """A cache with room for so many positions."""
    more = positions - cache[0].keys.shape[2]
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0))), cache)


@dataclasses.dataclass(frozen=True)
class Config(keys_lib.section(Transformer, without=("codes", "length", "starts", "causal", "text"))):
    """The section `network` of a transformer."""

    def objections(self):
        """See keys.objections."""
        if self.width % self.heads:
            yield "heads", f"it must divide config.network.width ({self.width})"
