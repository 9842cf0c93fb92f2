"""The text encoder of CLIP (Radford et al. 2021, section 2.4), as transformers' CLIPTextModel has it."""

from typing import Any

from flax import linen as nn
import jax
from jax import numpy as jnp

from imagegen_jax.networks import words

ACTIVATIONS = {"quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x), "gelu": lambda x: nn.gelu(x, approximate=False)}


class ClipText(nn.Module):
    """Tokens of conditions.Text -> words.Words: tokens as the last layer and its norm have them, pooled that of the text's end.

    Attributes:
      vocabulary: tokens that there are.
      width: features of a token.
      layers: blocks.
      heads: of attention.
      hidden: features of the hidden layer of a block.
      positions: tokens that a text has at most.
      activation: name of one of ACTIVATIONS.
      epsilon: of the norms.
      dtype: of the computation; parameters, norms and softmax are float32.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    hidden: int
    positions: int
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, text):
        """(n, length) int32 -> Words."""
        n, length = text.shape
        there = text < self.vocabulary
        x = nn.Embed(self.vocabulary, self.width, dtype=self.dtype, name="tokens")(jnp.where(there, text, 0))
        x = x + nn.Embed(self.positions, self.width, dtype=self.dtype, name="positions")(jnp.arange(length))
        like = dict(causal=True, activation=ACTIVATIONS[self.activation], epsilon=self.epsilon)
        for i in range(self.layers):
            x = words.Block(self.heads, self.dtype, self.hidden, **like, name=f"block{i}")(x, there)
        x = nn.LayerNorm(self.epsilon, name="norm_out")(x)
        end = jnp.maximum(there.sum(1) - 1, 0)  # no tokenizer leaves a text without its end
        return words.Words(x.astype(self.dtype), there, x[jnp.arange(n), end].astype(self.dtype))
