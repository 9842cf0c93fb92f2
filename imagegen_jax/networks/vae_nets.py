"""Encoders, decoders, and what they make together: an autoencoder, a VAE.

An encoder takes (n, h, w, c) images in [-1, 1] to (n, features), a decoder (n, d) latents to (n, h, w, outputs). Four kinds:

    linear  one matrix each: with a Gaussian likelihood of shared variance, probabilistic principal components
    dense   fully connected layers with ReLU (Kingma & Welling 2014, appendix C)
    conv    residual blocks at each resolution
    pythae  the networks that the pythae library has for MNIST (clementchadebec/benchmark_VAE, nn/benchmarks/mnist/convnets.py)

A model's methods agree with networks/ladder.py's: `infer`, `generate`, `decode`.

In bfloat16 the last layer of a decoder is float32 still: a value near 1 would be rounded by up to a quarter of an 8-bit one.
"""

import dataclasses
import math
from typing import Annotated
from typing import Literal
from typing import NamedTuple

from flax import linen as nn
import jax
from jax import numpy as jnp

from imagegen_jax import distributions
from imagegen_jax import errors
from imagegen_jax import keys
from imagegen_jax.networks import blocks


@dataclasses.dataclass(frozen=True)
class Config:
    """The section `network` of an encoder and a decoder."""

    name: Literal["linear", "dense", "conv", "pythae"] = "conv"
    latent: Annotated[int, keys.AtLeast(1)] = 32  # dimensions of an image's latents
    # Of each hidden layer (dense); channels of each level, each halving the resolution (conv).
    widths: Annotated[tuple[int, ...], keys.Each(keys.AtLeast(1))] = (32, 64)
    blocks: Annotated[int, keys.AtLeast(1)] = 1  # residual blocks a level (conv)
    groups: Annotated[int, keys.AtLeast(1)] = 8  # of GroupNorm (conv)
    dtype: keys.Dtype = "float32"

    @property
    def has_batch_norm(self):
        """Whether what is made of an image in training depends on the others."""
        return self.name == "pythae"

    def objections(self):
        """See keys.objections."""
        if self.name == "conv" and not self.widths:
            yield "widths", "give one at least"


class Level(NamedTuple):
    """What is known of one level of latent variables; each field has the shape (n, ..., channels).

    Attributes:
      prior: p(z | levels above).
      posterior: q(z | x, levels above).
      z: a value of it.
    """

    prior: distributions.Gaussian
    posterior: distributions.Gaussian
    z: jax.Array


class Residual(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), which begins as the identity."""

    groups: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        conv = dict(features=x.shape[-1], kernel_size=(3, 3), dtype=self.dtype)
        h = nn.Conv(**conv)(nn.swish(blocks.GroupNorm(self.groups)(x)))
        return x + nn.Conv(**conv, kernel_init=blocks.near_zero)(nn.swish(blocks.GroupNorm(self.groups)(h)))


class LinearEncoder(nn.Module):
    """The pixels as they are."""

    @nn.compact
    def __call__(self, x, train):
        return x.reshape(len(x), -1)


class LinearDecoder(nn.Module):
    """One matrix."""

    image_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, z, train):
        return nn.Dense(math.prod(self.image_shape))(z).reshape(-1, *self.image_shape)


class DenseEncoder(nn.Module):
    """Fully connected layers of these widths."""

    widths: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, train):
        x = x.reshape(len(x), -1)
        for width in self.widths:
            x = nn.relu(nn.Dense(width, dtype=self.dtype)(x))
        return x


class DenseDecoder(nn.Module):
    """The same layers in reverse, and one that makes the image."""

    widths: tuple[int, ...]
    image_shape: tuple[int, int, int]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z, train):
        for width in reversed(self.widths):
            z = nn.relu(nn.Dense(width, dtype=self.dtype)(z))
        return nn.Dense(math.prod(self.image_shape), dtype=jnp.float32)(z).reshape(-1, *self.image_shape)


class ConvEncoder(nn.Module):
    """Each level halves the resolution and has so many residual blocks."""

    widths: tuple[int, ...]
    blocks: int
    groups: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, train):
        for width in self.widths:
            x = nn.Conv(width, (3, 3), 2, dtype=self.dtype)(x)
            for _ in range(self.blocks):
                x = Residual(self.groups, self.dtype)(x)
        x = nn.swish(blocks.GroupNorm(self.groups)(x))
        return x.reshape(len(x), -1)


class ConvDecoder(nn.Module):
    """From the coarsest resolution up, residual blocks and then twice the sides; the last level is that of the image."""

    widths: tuple[int, ...]
    blocks: int
    groups: int
    image_shape: tuple[int, int, int]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z, train):
        height, width, outputs = self.image_shape
        sides = [(-(-height // 2**level), -(-width // 2**level)) for level in range(len(self.widths) + 1)]
        x = nn.Dense(math.prod(sides[-1]) * self.widths[-1], dtype=self.dtype)(z).reshape(-1, *sides[-1], self.widths[-1])
        for level in reversed(range(len(self.widths))):
            for _ in range(self.blocks):
                x = Residual(self.groups, self.dtype)(x)
            x = blocks.upsample_nearest(x, *sides[level])
            x = nn.Conv(self.widths[max(level - 1, 0)], (3, 3), dtype=self.dtype)(x)
        x = nn.swish(blocks.GroupNorm(self.groups)(x))
        return nn.Conv(outputs, (3, 3), dtype=jnp.float32)(x)


class PythaeEncoder(nn.Module):
    """Four convolutions of stride 2: 28, 14, 7, 3, 1 pixels a side."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, train):
        for width in (128, 256, 512, 1024):
            conv = nn.Conv(width, (4, 4), 2, padding=1, dtype=self.dtype, conv_general_dilated=blocks.conv_of_small_maps)
            x = conv(x)
            x = nn.relu(nn.BatchNorm(not train, momentum=blocks.MOMENTUM, epsilon=1e-5, dtype=self.dtype)(x))
        return x.reshape(len(x), -1)


class PythaeDecoder(nn.Module):
    """Three transposed convolutions: 4, 7, 14, 28 pixels a side."""

    outputs: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z, train):
        x = nn.Dense(4 * 4 * 1024, dtype=self.dtype)(z).reshape(-1, 4, 4, 1024)
        for width, side in ((512, 7), (256, 14)):
            x = blocks.TransposedConv(width, 3, dtype=self.dtype)(x)[:, :side, :side]
            x = nn.relu(nn.BatchNorm(not train, momentum=blocks.MOMENTUM, epsilon=1e-5, dtype=self.dtype)(x))
        return blocks.TransposedConv(self.outputs, 3, dtype=jnp.float32)(x)


class Autoencoder(nn.Module):
    """Deterministic latents, `latent` numbers.

    Attributes:
      encoder: (x, train) -> (n, features).
      decoder: (z, train) -> (n, h, w, outputs).
      latent: d.
    """

    encoder: nn.Module
    decoder: nn.Module
    latent: int

    def setup(self):
        self.code = nn.Dense(self.latent)

    def __call__(self, x, train=False):
        return self.decode(self.encode(x, train), train)

    def encode(self, x, train=False):
        """(n, h, w, c) -> (n, d)."""
        return self.code(self.encoder(x, train).astype(jnp.float32))

    def decode(self, z, train=False):
        """(n, d) -> (n, h, w, outputs)."""
        return self.decoder(z, train)


class Vae(nn.Module):
    """One level of latent variables: p(z) or p(z | label), q(z | x, label) and p(x | z, label).

    Attributes:
      encoder: (x, train) -> (n, features).
      decoder: (z, train) -> (n, h, w, outputs).
      latent: dimensions of z.
      classes: labels that encoder and decoder are told; 0 for none.
      conditional_prior: whether the prior depends on the label.
    """

    encoder: nn.Module
    decoder: nn.Module
    latent: int
    classes: int = 0
    conditional_prior: bool = False

    def setup(self):
        self.posterior = nn.Dense(2 * self.latent)
        if self.conditional_prior:
            self.prior = nn.Dense(2 * self.latent, use_bias=False, kernel_init=nn.initializers.zeros)

    @property
    def latent_shapes(self):
        """Of the levels, top first."""
        return ((self.latent,),)

    def infer(self, x, condition, noise, train=False):
        """Values of the posterior, and what the decoder makes of them.

        Args:
          x: (n, h, w, c) in [-1, 1].
          condition: with 'label', (n,) int32, where classes is not 0.
          noise: one standard normal array (n, *shape) for each level.
          train: normalise by the batch's statistics.

        Returns:
          (a Level for each level, output (n, h, w, outputs)).
        """
        if self.classes:
            spread = self._one_hot(condition)[:, None, None]
            x = jnp.concatenate([x, jnp.broadcast_to(spread, (*x.shape[:3], self.classes))], -1)
        posterior = gaussian(self.posterior(self.encoder(x, train).astype(jnp.float32)))
        z = posterior.at(noise[0])
        return (Level(self._prior(condition, z.shape), posterior, z),), self.decode((z,), condition, train)

    def generate(self, condition, noise, temperatures):
        """The decoder's output for values of the prior, whose standard deviation is multiplied by each level's temperature."""
        return self.decode((self._prior(condition, noise[0].shape).at(noise[0], temperatures[0]),), condition)

    def decode(self, latents, condition, train=False):
        """The decoder's output for one array of values for each level."""
        (z,) = latents
        return self.decoder(jnp.concatenate([z, self._one_hot(condition)], -1) if self.classes else z, train)

    def _prior(self, condition, shape):
        if not self.conditional_prior:
            return distributions.Gaussian.standard(shape)
        return gaussian(self.prior(self._one_hot(condition)))

    def _one_hot(self, condition):
        return jax.nn.one_hot(condition["label"], self.classes)


def gaussian(parameters):
    """The distributions.Gaussian of (n, 2 d) means and log standard deviations side by side.

    The latter are kept where neither they nor their exponentials overflow.
    """
    mean, log_std = jnp.split(parameters, 2, -1)
    return distributions.Gaussian(mean, jnp.clip(log_std, -7.0, 7.0))


def encoder_and_decoder(config, image_shape, outputs):
    """The pair that a Config describes.

    Args:
      config: a Config.
      image_shape: (h, w, c) of the images.
      outputs: channels that the decoder makes.

    Raises:
      errors.UserError: it takes no such images.
    """
    if config.name == "pythae" and image_shape[:2] != (28, 28):
        raise errors.UserError(
            f"config.network.name is 'pythae', which takes 28x28 pixels, and the images are {image_shape[0]}x{image_shape[1]}: "
            "set --config.data.image_size=28, or choose conv"
        )
    shape, dtype = (*image_shape[:2], outputs), jnp.dtype(config.dtype)
    if config.name == "linear":
        return LinearEncoder(), LinearDecoder(shape)
    if config.name == "dense":
        return DenseEncoder(config.widths, dtype), DenseDecoder(config.widths, shape, dtype)
    if config.name == "pythae":
        return PythaeEncoder(dtype), PythaeDecoder(outputs, dtype)
    sizes = config.widths, config.blocks, config.groups
    return ConvEncoder(*sizes, dtype), ConvDecoder(*sizes, shape, dtype)
