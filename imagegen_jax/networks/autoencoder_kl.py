"""The autoencoders of latent diffusion (Rombach et al. 2022, appendix E) and VQGAN (Esser et al. 2021, table 7).

Their Encoder and Decoder are the same (CompVis/taming-transformers, modules/diffusionmodules/model.py). The layers are those of
diffusers.AutoencoderKL and VQModel, which published weights run in. They begin as DDPM's do.
"""

import dataclasses
from typing import Annotated

from flax import linen as nn
from jax import numpy as jnp

from imagegen_jax import distributions
from imagegen_jax import keys
from imagegen_jax.networks import blocks
from imagegen_jax.networks import unet


class _Half(nn.Module):
    """What encoder and decoder share; the fields are those of _Autoencoder.

    Attributes:
      outputs: channels that are made.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    groups: int
    attention: bool
    outputs: int
    dtype: jnp.dtype

    def conv(self, features, name, strides=1, dtype=None):
        """3x3. At stride 2 even sides are padded at their ends alone."""
        return nn.Conv(features, (3, 3), strides, kernel_init=blocks.fan_avg, dtype=dtype or self.dtype, name=name)

    def residual(self, x, level, name):
        """A residual block of this level's width."""
        width = self.channels * self.multipliers[level]
        return unet.ResidualBlock(width, 0.0, self.groups, self.dtype, name=name)(x, None, False)

    def attend(self, x, name):
        """Attention over all places."""
        return unet.AttentionBlock(1, self.groups, self.dtype, name=name)(x)

    def block(self, x, level, name):
        """A residual block; with `attention` and at the resolution of the latents, attention."""
        x = self.residual(x, level, name)
        return self.attend(x, f"{name}_attention") if self.attention and level == len(self.multipliers) - 1 else x

    def middle(self, x):
        """At the resolution of the latents: a residual block, attention, a residual block."""
        x = self.residual(x, -1, "middle_block1")
        x = self.attend(x, "middle_attention")
        return self.residual(x, -1, "middle_block2")

    def out(self, x):
        """The last layers."""
        x = nn.swish(blocks.GroupNorm(self.groups, name="norm_out")(x))
        return self.conv(self.outputs, "conv_out", dtype=jnp.float32)(x)


class Encoder(_Half):
    """(n, h, w, c) -> (n, h', w', outputs) float32: each level but the first halves the sides, an odd one rounded up."""

    @nn.compact
    def __call__(self, x):
        x = self.conv(self.channels, "conv_in")(x)
        for i in range(len(self.multipliers)):
            if i:
                x = self.conv(x.shape[-1], f"down{i}_conv", strides=2)(x)
            for j in range(self.blocks):
                x = self.block(x, i, f"down{i}_{j}")
        return self.out(self.middle(x))


class Decoder(_Half):
    """(n, h', w', c') -> (n, *size, outputs) float32, in reverse and with one block a level more.

    Attributes:
      size: (h, w) of the images.
    """

    size: tuple[int, int]

    @nn.compact
    def __call__(self, z):
        x = self.conv(self.channels * self.multipliers[-1], "conv_in")(z)
        x = self.middle(x)
        for i in reversed(range(len(self.multipliers))):
            for j in range(self.blocks + 1):
                x = self.block(x, i, f"up{i}_{j}")
            if i:
                x = blocks.upsample_nearest(x, *_halved(self.size, i - 1))
                x = self.conv(x.shape[-1], f"up{i}_conv")(x)
        return self.out(x)


class _Autoencoder(nn.Module):
    """Both, for images of one shape, and the 1x1 convolutions between them.

    Attributes:
      image_shape: (h, w, c).
      latent_channels: numbers at each place that the decoder begins with.
      channels: width at full resolution.
      multipliers: width of each level as a multiple of `channels`; each further level halves the sides: (1, 2, 4, 4) is f8.
      blocks: residual blocks a level of the encoder.
      groups: of GroupNorm.
      attention: after each residual block at the resolution of the latents, too.
      dtype: of the computation; the last layer of each is float32.
    """

    image_shape: tuple[int, int, int]
    latent_channels: Annotated[int, keys.AtLeast(1)] = 4
    channels: Annotated[int, keys.AtLeast(1)] = 128
    multipliers: Annotated[tuple[int, ...], keys.Each(keys.AtLeast(1))] = (1, 2, 4, 4)
    blocks: Annotated[int, keys.AtLeast(1)] = 2
    groups: Annotated[int, keys.AtLeast(1)] = 32
    attention: bool = False
    dtype: jnp.dtype = jnp.float32

    def connect(self, made, latent):
        """The layers, where the encoder makes so many channels, of which come so many of the latents."""
        shared = self.channels, self.multipliers, self.blocks, self.groups, self.attention
        self.encoder = Encoder(*shared, made, self.dtype)
        self.decoder = Decoder(*shared, self.image_shape[-1], self.dtype, self.image_shape[:2])
        self.quant_conv = nn.Conv(latent, (1, 1), kernel_init=blocks.fan_avg)
        self.post_quant_conv = nn.Conv(self.latent_channels, (1, 1), kernel_init=blocks.fan_avg)

    @property
    def places(self):
        """(h', w') of the latents."""
        return _halved(self.image_shape[:2], len(self.multipliers) - 1)

    def decode(self, z):
        """(n, h', w', channels of a latent) -> (n, h, w, c) float32, about [-1, 1]."""
        return self.decoder(self.post_quant_conv(z))


class AutoencoderKL(_Autoencoder):
    """With a normal distribution of latents at each place; the fields are those of _Autoencoder."""

    latent_channels: Annotated[int, keys.AtLeast(1), keys.AtMost(16)] = 4

    def setup(self):
        self.connect(2 * self.latent_channels, 2 * self.latent_channels)

    @property
    def latent_shape(self):
        """(h', w', latent_channels)."""
        return (*self.places, self.latent_channels)

    def __call__(self, x, noise):
        """(q(z | x), what is decoded of its value for standard normal noise of the latents' shape)."""
        posterior = self.encode(x)
        return posterior, self.decode(posterior.at(noise))

    def encode(self, x):
        """(n, h, w, c) in [-1, 1] -> the distributions.Gaussian q(z | x), float32, whose variance cannot overflow."""
        mean, log_variance = jnp.split(self.quant_conv(self.encoder(x)), 2, -1)
        return distributions.Gaussian(mean, 0.5 * jnp.clip(log_variance, -30.0, 20.0))


class AutoencoderVQ(_Autoencoder):
    """For a codebook between encoder and decoder; the fields are those of _Autoencoder.

    Attributes:
      dimensions: of a code.
    """

    latent_channels: Annotated[int, keys.AtLeast(1)] = 256
    multipliers: Annotated[tuple[int, ...], keys.Each(keys.AtLeast(1))] = (1, 1, 2, 2, 4)
    attention: bool = True
    dimensions: int = 256

    def setup(self):
        self.connect(self.latent_channels, self.dimensions)

    @property
    def code_shape(self):
        """(h', w', dimensions)."""
        return (*self.places, self.dimensions)

    def __call__(self, x):
        return self.decode(self.encode(x))

    def encode(self, x):
        """(n, h, w, c) in [-1, 1] -> (n, *code_shape) float32."""
        return self.quant_conv(self.encoder(x))


def _halved(size, times):
    return tuple(-(-side // 2**times) for side in size)


class _Levels:
    def objections(self):
        """See keys.objections."""
        if not self.multipliers:
            yield "multipliers", "give one for each level, such as (1, 2)"


@dataclasses.dataclass(frozen=True)
class Config(_Levels, keys.section(AutoencoderKL, without=("image_shape",))):
    """The section `network` of an autoencoder with spatial latents."""


@dataclasses.dataclass(frozen=True)
class VQConfig(_Levels, keys.section(AutoencoderVQ, without=("image_shape", "dimensions"))):
    """The section `network` of a VQGAN."""
