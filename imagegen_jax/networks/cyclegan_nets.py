"""The generators and discriminators of image translation (Zhu et al. 2017, appendix 7.2; Isola et al. 2017, appendix 6.1).

Layers, their order and their initialisation are those of the authors' code (junyanz/pytorch-CycleGAN-and-pix2pix,
models/networks.py) with instance normalisation and without dropout: at 64 channels and three-channel images 11.378 M
parameters for the generator of nine blocks, 2.765 M for the 70x70 discriminator.
"""

import dataclasses
import functools
from typing import Annotated
from typing import ClassVar
from typing import Literal

from flax import linen as nn
from jax import numpy as jnp

from imagegen_jax import keys
from imagegen_jax.networks import blocks

_normal = nn.initializers.normal(0.02)


def _conv(features, kernel, stride=1, padding=0, dtype=jnp.float32):
    return nn.Conv(features, (kernel, kernel), (stride, stride), [(padding, padding)] * 2, kernel_init=_normal, dtype=dtype)


def _reflect(x, width):
    return jnp.pad(x, ((0, 0), (width, width), (width, width), (0, 0)), mode="reflect")


class _ResidualBlock(nn.Module):
    """reflect, conv3, norm, ReLU, reflect, conv3, norm, and the input added."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        h = blocks.instance_norm(_conv(x.shape[-1], 3, dtype=self.dtype)(_reflect(x, 1)))
        h = blocks.instance_norm(_conv(x.shape[-1], 3, dtype=self.dtype)(_reflect(nn.relu(h), 1)))
        return x + h


class ResNetGenerator(nn.Module):
    """(n, h, w, c) in [-1, 1] -> (n, h, w, out_channels) float32 in [-1, 1], h and w multiples of 4 and at least 16.

    Attributes:
      out_channels: of the other domain.
      channels: width at full resolution.
      blocks: residual blocks at a quarter of it.
      upsampling: 'transposed' (convolutions, the paper's) or 'resize' (nearest neighbour, then a convolution; Odena et al.
        2016, against checkerboards).
      dtype: of the computation; normalisation and the last layer are float32.
      multiple: of which the sides of an image must be.
    """

    multiple: ClassVar[int] = 4

    out_channels: int
    channels: int = 64
    blocks: int = 9
    upsampling: str = "transposed"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        conv = functools.partial(_conv, dtype=self.dtype)
        x = nn.relu(blocks.instance_norm(conv(self.channels, 7)(_reflect(x, 3))))
        for multiplier in (2, 4):
            x = nn.relu(blocks.instance_norm(conv(multiplier * self.channels, 3, 2, 1)(x)))
        for i in range(self.blocks):
            x = _ResidualBlock(self.dtype, name=f"block{i}")(x)
        for multiplier in (2, 1):
            if self.upsampling == "transposed":
                x = blocks.TransposedConv(multiplier * self.channels, 3, _normal, self.dtype)(x)
            else:
                x = blocks.upsample_nearest(x, 2 * x.shape[1], 2 * x.shape[2])
                x = conv(multiplier * self.channels, 3)(_reflect(x, 1))
            x = nn.relu(blocks.instance_norm(x))
        return jnp.tanh(_conv(self.out_channels, 7)(_reflect(x, 3)))


class UNetGenerator(nn.Module):
    """The same map by a U-Net whose sides are multiples of 2^levels: at 8 levels the paper's for 256 pixels.

    Attributes:
      out_channels: of the other domain.
      channels: width after the first halving; it doubles up to eightfold.
      levels: halvings.
      dtype: of the computation; normalisation and the last layer are float32.
    """

    out_channels: int
    channels: int = 64
    levels: int = 8
    dtype: jnp.dtype = jnp.float32

    @property
    def multiple(self):
        """Of which the sides of an image must be."""
        return 2**self.levels

    @nn.compact
    def __call__(self, x):
        def down(x, i):
            x = _conv(self.channels * min(2**i, 8), 4, 2, 1, self.dtype)(nn.leaky_relu(x, 0.2) if i else x)
            return x if i in (0, self.levels - 1) else blocks.instance_norm(x)

        def up(x, i):
            width = self.channels * min(2 ** (i - 1), 8) if i else self.out_channels
            x = blocks.TransposedConv(width, 4, _normal, self.dtype if i else jnp.float32)(nn.relu(x))
            return blocks.instance_norm(x) if i else x

        skips = []
        for i in range(self.levels):
            x = down(x, i)
            skips.append(x)
        for i in reversed(range(self.levels)):
            x = up(x if i == self.levels - 1 else jnp.concatenate([skips[i], x], -1), i)
        return jnp.tanh(x)


class PatchDiscriminator(nn.Module):
    """(n, h, w, c) in [-1, 1] -> (n, h', w', 1) float32 logits, each of a patch; with 3 layers of 70x70 pixels.

    Attributes:
      channels: width of the first layer.
      layers: convolutions of stride 2.
      dtype: of the computation; normalisation and the last layer are float32.
    """

    channels: int = 64
    layers: int = 3
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = nn.leaky_relu(_conv(self.channels, 4, 2, 1, self.dtype)(x), 0.2)
        for i in range(1, self.layers + 1):
            stride = 2 if i < self.layers else 1
            x = _conv(self.channels * min(2**i, 8), 4, stride, 1, self.dtype)(x)
            x = nn.leaky_relu(blocks.instance_norm(x), 0.2)
        return _conv(1, 4, 1, 1)(x)


class PixelDiscriminator(nn.Module):
    """(n, h, w, c) in [-1, 1] -> (n, h, w, 1) float32 logits, each of one pixel's colour.

    Attributes:
      channels: width of the first layer.
      dtype: of the computation; normalisation and the last layer are float32.
    """

    channels: int = 64
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = nn.leaky_relu(_conv(self.channels, 1, dtype=self.dtype)(x), 0.2)
        x = nn.leaky_relu(blocks.instance_norm(_conv(2 * self.channels, 1, dtype=self.dtype)(x)), 0.2)
        return _conv(1, 1)(x)


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """The section `network`, of both generators."""

    name: Literal["resnet", "unet"] = "resnet"
    channels: Annotated[int, keys.AtLeast(2)] = 64
    blocks: Annotated[int, keys.AtLeast(1)] = 9  # residual blocks (resnet)
    upsampling: Literal["transposed", "resize"] = "transposed"  # (resnet)
    levels: Annotated[int, keys.AtLeast(1)] = 8  # halvings (unet)
    dtype: keys.Dtype = "float32"  # of the computation of all four networks
    remat: bool = keys.resumable(False)  # recompute the generators' activations in the backward pass to save memory


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """The section `discriminator`, of both."""

    name: Literal["patch", "pixel"] = "patch"
    channels: Annotated[int, keys.AtLeast(1)] = 64
    layers: Annotated[int, keys.AtLeast(1)] = 3  # convolutions of stride 2 (patch); 3 see 70x70 pixels, 2 34x34, 1 16x16

    @property
    def least_side(self):
        """Pixels that a side of an image must have."""
        return max(16, 3 * 2**self.layers if self.name == "patch" else 1)


def generator(config, out_channels):
    """The module of a GeneratorConfig."""
    shared = dict(out_channels=out_channels, channels=config.channels, dtype=jnp.dtype(config.dtype))
    if config.name == "unet":
        return UNetGenerator(levels=config.levels, **shared)
    return ResNetGenerator(blocks=config.blocks, upsampling=config.upsampling, **shared)


def discriminator(config, dtype):
    """The module of a DiscriminatorConfig."""
    if config.name == "pixel":
        return PixelDiscriminator(channels=config.channels, dtype=dtype)
    return PatchDiscriminator(layers=config.layers, channels=config.channels, dtype=dtype)
