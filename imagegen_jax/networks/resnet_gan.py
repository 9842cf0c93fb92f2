"""The residual networks of SNGAN (Miyato et al. 2018, appendix B.4), for 32 pixels and with other widths for other sizes.

Layers and initialisers are those of kwotsin/mimicry (nets/sngan/sngan_32.py, nets/cgan_pd/cgan_pd_32.py, modules/resblocks.py),
at widths (256, 256, 256) for noise of 128 numbers and three channels 4.28 M parameters for the generator, at (128, 128) and two
plain blocks 1.05 M for the discriminator. Spectral normalisation is not part of the network: see adversarial/spectral_norm.py.
"""

import functools
import math

from flax import linen as nn
from jax import numpy as jnp

from imagegen_jax.networks import blocks
from imagegen_jax.networks import gan_blocks

# Xavier's of gain 1 and sqrt(2).
_xavier = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
_xavier_relu = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")


def _halved(x):
    """The mean over 2x2 places."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


class _UpBlock(nn.Module):
    """norm, ReLU, twice the sides, conv3, norm, ReLU, conv3; and the input through twice the sides and conv1."""

    features: int
    told: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, said, train):
        conv = functools.partial(nn.Conv, self.features, (3, 3), kernel_init=_xavier_relu, dtype=self.dtype)
        norm = functools.partial(gan_blocks.BatchNorm, self.told, self.dtype)
        h = conv()(blocks.upsample_bilinear(nn.relu(norm()(x, said, train))))
        h = conv()(nn.relu(norm()(h, said, train)))
        # A convolution of single places comes to the same before the sides are doubled, at a quarter of the work.
        shortcut = nn.Conv(self.features, (1, 1), kernel_init=_xavier, dtype=self.dtype)(x)
        return h + blocks.upsample_bilinear(shortcut)


class _DownBlock(nn.Module):
    """ReLU, conv3, ReLU, conv3, half the sides; and the input through conv1 and half the sides.

    The first block has no ReLU before it. A plain one leaves the sides and the input as they are.
    """

    features: int
    dtype: jnp.dtype
    first: bool = False
    plain: bool = False

    @nn.compact
    def __call__(self, x):
        conv = functools.partial(nn.Conv, kernel_size=(3, 3), kernel_init=_xavier_relu, dtype=self.dtype)
        h = conv(self.features if self.first else x.shape[-1])(x if self.first else nn.relu(x))
        h = conv(self.features)(nn.relu(h))
        if self.plain:
            return x + h
        # The mean before a convolution of single places comes to the same as after it, at a quarter of the work.
        shortcut = nn.Conv(self.features, (1, 1), kernel_init=_xavier, dtype=self.dtype)(_halved(x))
        return shortcut + _halved(h)


class Generator(nn.Module):
    """(n, d) noise and a condition -> (n, h, w, c) float32 in [-1, 1]; h and w are multiples of 2^levels.

    Attributes:
      image_shape: (h, w, c).
      widths: channels of each block, from the coarsest up; each doubles the sides.
      classes: labels that it is told by scale and bias of normalisation; 0 for none.
      text: what reads the text that it is told instead; None for none.
      attention: side of the maps with self-attention; 0 for none.
      dtype: of the computation; the last layer is float32.
    """

    image_shape: tuple[int, int, int]
    widths: tuple[int, ...] = (256, 256, 256)
    classes: int = 0
    text: nn.Module | None = None
    attention: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z, condition, train=False):
        said, told = gan_blocks.said(condition, self.classes, self.text)
        height, width, channels = self.image_shape
        coarsest = (height >> len(self.widths), width >> len(self.widths), self.widths[0])
        x = nn.Dense(math.prod(coarsest), kernel_init=_xavier, dtype=self.dtype)(z).reshape(-1, *coarsest)
        for features in self.widths:
            x = _UpBlock(features, told, self.dtype)(x, said, train)
            if x.shape[1] == self.attention:
                x = gan_blocks.SelfAttention(self.dtype)(x)
        x = nn.relu(gan_blocks.BatchNorm(0, self.dtype)(x, None, train))
        return jnp.tanh(nn.Conv(channels, (3, 3), kernel_init=_xavier, dtype=jnp.float32)(x))


class Discriminator(nn.Module):
    """(n, h, w, c) in [-1, 1] and a condition -> gan_blocks.DiscriminatorOutput; h and w are multiples of 2^levels.

    Attributes:
      widths: channels of each block that halves the sides.
      plain: blocks after those.
      mbstd_group_size: images of a group of gan_blocks.MinibatchStddev; 0 for none.
      classes: labels that it is told by a projection; 0 for none.
      text: what reads the text that it is told instead; None for none.
      aux_classes: labels that it classifies images by; 0 for none.
      attention: side of the maps with self-attention; 0 for none.
      dtype: of the computation; the output is float32.
    """

    widths: tuple[int, ...] = (128, 128)
    plain: int = 2
    mbstd_group_size: int = 0
    classes: int = 0
    text: nn.Module | None = None
    aux_classes: int = 0
    attention: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, condition, train=False):
        said, told = gan_blocks.said(condition, self.classes, self.text)
        for i, features in enumerate(self.widths):
            x = _DownBlock(features, self.dtype, first=i == 0)(x)
            if x.shape[1] == self.attention:
                x = gan_blocks.SelfAttention(self.dtype)(x)
        for _ in range(self.plain):
            x = _DownBlock(x.shape[-1], self.dtype, plain=True)(x)
        x = features = nn.relu(x)
        if self.mbstd_group_size:
            x = gan_blocks.MinibatchStddev(self.mbstd_group_size)(x, train)
        pooled = x.sum((1, 2))
        return gan_blocks.Head(told, self.aux_classes, _xavier)(pooled, pooled, said, features)
