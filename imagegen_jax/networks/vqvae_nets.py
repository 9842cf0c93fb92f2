"""What stands before and behind the codebook of a VQ-VAE (van den Oord et al. 2017, section 4.1): encoder and decoder."""

import dataclasses
from typing import Annotated

from flax import linen as nn
from jax import numpy as jnp

from imagegen_jax import keys
from imagegen_jax.networks import blocks
from imagegen_jax.networks import vae_nets


class Encoder(nn.Module):
    """(n, h, w, c) -> (n, h', w', dimensions): each of `widths` halves the sides, then come the residual blocks."""

    widths: tuple[int, ...]
    blocks: int
    groups: int
    dimensions: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        for level, width in enumerate(self.widths):
            x = nn.Conv(width, (4, 4), 2, dtype=self.dtype)(nn.swish(x) if level else x)
        for _ in range(self.blocks):
            x = vae_nets.Residual(self.groups, self.dtype)(x)
        x = nn.swish(blocks.GroupNorm(self.groups)(x))
        return nn.Conv(self.dimensions, (1, 1), dtype=jnp.float32)(x)


class Decoder(nn.Module):
    """(n, h', w', d) -> (n, h, w, c) of `image_shape`: the residual blocks, then each of `widths` doubles the sides."""

    widths: tuple[int, ...]
    blocks: int
    groups: int
    image_shape: tuple[int, int, int]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z):
        height, width, channels = self.image_shape
        x = nn.Conv(self.widths[-1], (3, 3), dtype=self.dtype)(z)
        for _ in range(self.blocks):
            x = vae_nets.Residual(self.groups, self.dtype)(x)
        x = blocks.GroupNorm(self.groups)(x)
        for level in reversed(range(len(self.widths))):
            x = blocks.TransposedConv(self.widths[max(level - 1, 0)], 4, dtype=self.dtype)(nn.swish(x))
            x = x[:, : -(-height // 2**level), : -(-width // 2**level)]  # an odd side was rounded up when it was halved
        return nn.Conv(channels, (3, 3), dtype=jnp.float32)(nn.swish(x))


class Coder(nn.Module):
    """Both, for images of one shape.

    Attributes:
      image_shape: (h, w, c).
      dimensions: of a code.
      widths: channels of each level; each halves the sides, an odd one rounded up.
      blocks: residual blocks, of encoder and decoder each, at the resolution of the codes.
      groups: of GroupNorm.
      dtype: of the computation; the last layer of each is float32.
    """

    image_shape: tuple[int, int, int]
    dimensions: int
    widths: Annotated[tuple[int, ...], keys.Each(keys.AtLeast(1))] = (32, 64)
    blocks: Annotated[int, keys.AtLeast(1)] = 2
    groups: Annotated[int, keys.AtLeast(1)] = 8
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.encoder = Encoder(self.widths, self.blocks, self.groups, self.dimensions, self.dtype)
        self.decoder = Decoder(self.widths, self.blocks, self.groups, self.image_shape, self.dtype)

    @property
    def code_shape(self):
        """(h', w', dimensions)."""
        return (*(-(-side // 2 ** len(self.widths)) for side in self.image_shape[:2]), self.dimensions)

    def __call__(self, x):
        return self.decode(self.encode(x))

    def encode(self, x):
        """(n, h, w, c) in [-1, 1] -> (n, *code_shape) float32."""
        return self.encoder(x)

    def decode(self, z):
        """(n, *code_shape) -> (n, h, w, c) float32, about [-1, 1]."""
        return self.decoder(z)


@dataclasses.dataclass(frozen=True)
class Config(keys.section(Coder, without=("image_shape", "dimensions"))):
    """The section `network` of a VQ-VAE."""

    def objections(self):
        """See keys.objections."""
        if not self.widths:
            yield "widths", "give one at least"
