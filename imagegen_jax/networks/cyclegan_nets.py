"""The generators and discriminators of image translation (Zhu et al. 2017, appendix 7.2; Isola et al. 2017, appendix 6.1).

Layers, their order and their initialisation are those of the authors' code (junyanz/pytorch-CycleGAN-and-pix2pix,
models/networks.py) with instance normalisation and, but for the U-Net, without dropout: at 64 channels and three-channel images
11.378 M parameters for the generator of nine blocks, 2.765 M for the 70x70 discriminator.
"""

import dataclasses
import functools
from typing import Annotated
from typing import Any
from typing import ClassVar
from typing import Literal

from flax import linen as nn
from jax import numpy as jnp

from imagegen_jax import keys
from imagegen_jax.networks import blocks

_normal = nn.initializers.normal(0.02)
_DROPPED = 3  # layers on a U-Net's way up that dropout is behind


def _conv(features, kernel, stride=1, padding=0, dtype=jnp.float32, bias=True):
    """`padding` is one number, or what is before and behind along each side."""
    padding = [(padding, padding)] * 2 if isinstance(padding, int) else padding
    return nn.Conv(features, (kernel, kernel), (stride, stride), padding, use_bias=bias, kernel_init=_normal, dtype=dtype)


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
    """The same map by a U-Net, of images of any size: at 8 levels that of Isola et al. 2017, appendix 6.1.1, for 256 pixels.

    Halvings round up. With `affine` and three-channel images it has the 54.414 M parameters of the authors' unet_256, whose
    batch normalisation of one image is this normalisation.

    Attributes:
      out_channels: of the other domain.
      channels: width after the first halving; it doubles up to eightfold.
      levels: halvings.
      dropout: rate behind the first three layers on the way up, in training.
      affine: norms have a scale and an offset, in place of the biases of the convolutions before them.
      dtype: of the computation; normalisation and the last layer are float32.
    """

    multiple: ClassVar[int] = 1

    out_channels: int
    channels: Annotated[int, keys.AtLeast(2)] = 64
    levels: Annotated[int, keys.AtLeast(1)] = 8
    dropout: Annotated[float, keys.AtLeast(0), keys.Below(1)] = 0.0
    affine: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train=False):
        """`train` is with dropout, whose key is 'dropout'."""
        innermost = self.levels - 1

        def norm(x, name):
            x = blocks.instance_norm(x) if x.shape[1] * x.shape[2] > 1 else x  # of one place nothing would be left
            return _Affine(name=name)(x) if self.affine else x

        def down(x, i):
            around = [(1, 1 + side % 2) for side in x.shape[1:3]]
            width = self.channels * min(2**i, 8)
            x = _conv(width, 4, 2, around, self.dtype, bias=not self.affine)(nn.leaky_relu(x, 0.2) if i else x)
            return x if i in (0, innermost) else norm(x, f"norm_down{i}")

        def up(x, i, height, width):
            features = self.channels * min(2 ** (i - 1), 8) if i else self.out_channels
            dtype, bias = (self.dtype, not self.affine) if i else (jnp.float32, True)
            x = blocks.TransposedConv(features, 4, _normal, dtype, bias)(nn.relu(x))[:, :height, :width]
            if not i:
                return x
            x = norm(x, f"norm_up{i}")
            return nn.Dropout(self.dropout, deterministic=not train)(x) if i > innermost - _DROPPED else x

        skips = [x]
        for i in range(self.levels):
            skips.append(down(skips[-1], i))
        x = skips.pop()
        for i in reversed(range(self.levels)):
            x = up(x, i, *skips[-1].shape[1:3])
            x = jnp.concatenate([skips.pop(), x], -1) if i else x
        return jnp.tanh(x)


class _Affine(nn.Module):
    """x scale + offset, by channel; the scale begins as N(1, .02), as the authors' does."""

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", lambda key, shape: 1 + _normal(key, shape), x.shape[-1:])
        offset = self.param("offset", nn.initializers.zeros, x.shape[-1:])
        return (x * scale + offset).astype(x.dtype)


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
