"""DCGAN (Radford et al. 2016): a generator and a discriminator of convolutions alone.

Weights start at N(0, .02), leaky rectifiers have slope .2. The generator at 64 pixels and widths (512, 256, 128, 64) is the
classic one: dense to 4x4x512, and four transposed convolutions to 256, 128, 64 and the image's channels.
"""

import functools
import math

from flax import linen as nn
from jax import numpy as jnp

from imagegen_jax.networks import blocks
from imagegen_jax.networks import gan_blocks

_normal = nn.initializers.normal(0.02)
_rectified = functools.partial(nn.leaky_relu, negative_slope=0.2)


def sides(size, levels):
    """A side at each of so many halvings, rounded up, the coarsest first: 28 at two levels is [7, 14, 28]."""
    return [-(-size // 2**level) for level in range(levels, -1, -1)]


class Generator(nn.Module):
    """(n, d) noise and a condition -> (n, h, w, c) float32 in [-1, 1]; where h or w is odd at a level, a last row is left out.

    Attributes:
      image_shape: (h, w, c).
      widths: channels from the coarsest level up; each doubles the sides.
      upsampling: 'transposed' (convolutions) or 'resize' (nearest neighbour, then a convolution; Odena et al. 2016, against
        checkerboards).
      classes: labels that it is told; 0 for none.
      text: what reads the text that it is told instead; None for none.
      conditioning: how: 'projection' by scale and bias of normalisation, 'concat' beside the noise.
      attention: side of the maps with self-attention; 0 for none.
      dtype: of the computation; the last layer is float32.
    """

    image_shape: tuple[int, int, int]
    widths: tuple[int, ...] = (512, 256, 128, 64)
    upsampling: str = "transposed"
    classes: int = 0
    text: nn.Module | None = None
    conditioning: str = "projection"
    attention: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z, condition, train=False):
        said, told = gan_blocks.said(condition, self.classes, self.text)
        if told and self.conditioning == "concat":
            z, told = jnp.concatenate([z, gan_blocks.as_numbers(said, told)], -1), 0
        *shape, channels = self.image_shape
        coarsest, *finer = zip(*(sides(size, len(self.widths)) for size in shape))
        coarsest = (*coarsest, self.widths[0])
        x = nn.Dense(math.prod(coarsest), kernel_init=_normal, dtype=self.dtype)(z).reshape(-1, *coarsest)
        dtypes = (*[self.dtype] * (len(self.widths) - 1), jnp.float32)
        for features, dtype, (height, width) in zip((*self.widths[1:], channels), dtypes, finer):
            x = _rectified(gan_blocks.BatchNorm(told, self.dtype)(x, said, train))
            if x.shape[1] == self.attention:
                x = gan_blocks.SelfAttention(self.dtype)(x)
            x = self._doubled(x, features, dtype)[:, :height, :width]
        return jnp.tanh(x)

    def _doubled(self, x, features, dtype):
        if self.upsampling == "transposed":
            return blocks.TransposedConv(features, 4, _normal, dtype)(x)
        x = blocks.upsample_nearest(x, 2 * x.shape[1], 2 * x.shape[2])
        return nn.Conv(features, (3, 3), kernel_init=_normal, dtype=dtype)(x)


def _halved(x, features, dtype):
    """A convolution of stride 2, of maps that get a last row and column of zeros where their sides are odd."""
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    return blocks.StridedConv(features, 4, _normal, dtype)(x)


class Discriminator(nn.Module):
    """(n, h, w, c) in [-1, 1] and a condition -> gan_blocks.DiscriminatorOutput.

    Attributes:
      widths: channels of each level; each halves the sides.
      batch_norm: normalise all levels but the first, as the paper does.
      mbstd_group_size: images of a group of gan_blocks.MinibatchStddev; 0 for none.
      classes: labels that it is told; 0 for none.
      text: what reads the text that it is told instead; None for none.
      conditioning: how: 'projection' or 'concat', as planes beside the image.
      aux_classes: labels that it classifies images by; 0 for none.
      attention: side of the maps with self-attention; 0 for none.
      dtype: of the computation; the output is float32.
    """

    widths: tuple[int, ...] = (64, 128, 256)
    batch_norm: bool = False
    mbstd_group_size: int = 0
    classes: int = 0
    text: nn.Module | None = None
    conditioning: str = "projection"
    aux_classes: int = 0
    attention: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, condition, train=False):
        said, told = gan_blocks.said(condition, self.classes, self.text)
        if told and self.conditioning == "concat":
            x, told = gan_blocks.with_planes(x, said, told), 0
        for i, width in enumerate(self.widths):
            x = _halved(x, width, self.dtype)
            if self.batch_norm and i:
                x = gan_blocks.BatchNorm(0, self.dtype)(x, None, train)
            x = _rectified(x)
            if x.shape[1] == self.attention:
                x = gan_blocks.SelfAttention(self.dtype)(x)
        features = x
        if self.mbstd_group_size:
            x = gan_blocks.MinibatchStddev(self.mbstd_group_size)(x, train)
        return gan_blocks.Head(told, self.aux_classes, _normal)(x.reshape(len(x), -1), x.mean((1, 2)), said, features)


class Encoder(nn.Module):
    """(n, h, w, c) in [-1, 1] and a condition -> (n, features) float32: the discriminator's layers, normalised.

    Attributes:
      widths: channels of each level; each halves the sides.
      features: numbers made.
      classes: labels that it is told, as planes beside the image; 0 for none.
      text: what reads the text that it is told instead; None for none.
      dtype: of the computation.
    """

    widths: tuple[int, ...]
    features: int
    classes: int = 0
    text: nn.Module | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, condition, train=False):
        said, told = gan_blocks.said(condition, self.classes, self.text)
        if told:
            x = gan_blocks.with_planes(x, said, told)
        for width in self.widths:
            x = _halved(x, width, self.dtype)
            x = _rectified(gan_blocks.BatchNorm(0, self.dtype)(x, None, train))
        return nn.Dense(self.features, kernel_init=_normal)(x.reshape(len(x), -1).astype(jnp.float32))
