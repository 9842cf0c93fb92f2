"""Distributions of latent variables and of pixels.

A likelihood p(x | z) is of what it observes of a uint8 image. Each log probability below is in nats and honest: it is, or
bounds from below, that of the 8-bit image itself (of its binarised form for 'bernoulli'), so that bits per dimension can be
compared between likelihoods and with any other lossless code.

    gaussian   the density of x + u, with u uniform over the width of a value, times that width: by Jensen's inequality the mean
               over u is at most the log probability of the 8-bit value (Theis et al. 2016, section 3.1)
    logistic   the mass of a logistic distribution between the borders of a value, which for the darkest and the brightest reach
               to infinity (Salimans et al. 2017, equation 2), so that the 256 add up to 1
    bernoulli  of pixels that are drawn 0 or 1 with the grey value as probability (Salakhutdinov & Murray 2008, section 5)
"""

import dataclasses
import math
from typing import Annotated
from typing import Literal
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jax.scipy import special

from imagegen_jax import images
from imagegen_jax import keys

WIDTH = 2 / 255  # of an 8-bit value, on the scale of [-1, 1]
# Of a pixel: a logistic of the least has 97 % of its mass within one value; beyond the greatest float32 would end in log(0).
_LOG_SCALES = (-7.0, 7.0)


class Gaussian(NamedTuple):
    """A normal distribution with a diagonal covariance; both arrays have the variable's shape."""

    mean: jax.Array
    log_std: jax.Array

    @classmethod
    def standard(cls, shape):
        """Mean 0, covariance 1."""
        return cls(jnp.zeros(shape), jnp.zeros(shape))

    def at(self, noise, temperature=1.0):
        """The value that standard normal noise becomes; the temperature multiplies the standard deviation."""
        return self.mean + temperature * jnp.exp(self.log_std) * noise

    def log_density(self, value):
        """Elementwise, in nats."""
        scaled = (value - self.mean) * jnp.exp(-self.log_std)
        return -0.5 * jnp.square(scaled) - self.log_std - 0.5 * math.log(2 * math.pi)

    def kl(self, other):
        """KL(self || other) elementwise, in nats (Kingma & Welling 2014, appendix B, of two means and variances)."""
        gap = self.log_std - other.log_std
        moved = (self.mean - other.mean) * jnp.exp(-other.log_std)
        return 0.5 * (jnp.exp(2 * gap) + jnp.square(moved) - 1) - gap

    def log_mass(self, x):
        """Elementwise, in nats: log of the mass between the borders of an 8-bit value x in [-1, 1] (Ho et al. 2020, eq. 13).

        The darkest and the brightest value reach to infinity, so that the 256 add up to 1.
        """
        inverse = jnp.exp(-self.log_std)
        upper = (x - self.mean + WIDTH / 2) * inverse
        lower = (x - self.mean - WIDTH / 2) * inverse
        # Above the mean the mass is that of the mirrored interval, of which the logarithms are not both almost 0.
        mirrored = lower + upper > 0
        more = special.log_ndtr(jnp.where(mirrored, -lower, upper))
        less = special.log_ndtr(jnp.where(mirrored, -upper, lower))
        between = more + jnp.log(-jnp.expm1(less - more))
        darkest, brightest = _ends(x)
        return jnp.where(darkest, special.log_ndtr(upper), jnp.where(brightest, special.log_ndtr(-lower), between))


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """p(x | z) of images, whose pixels are independent given what a decoder makes of z; the section `likelihood`.

    Attributes:
      name: of the distribution of a pixel.
      scale: where the scale of gaussian and logistic comes from: fixed, one learned number, or the decoder for each pixel.
      sigma: that scale where it is fixed, and where it begins otherwise; on the scale of [-1, 1].
    """

    name: Literal["gaussian", "bernoulli", "logistic"] = "logistic"
    scale: Literal["fixed", "shared", "pixel"] = "pixel"
    sigma: Annotated[float, keys.AtLeast(1e-6)] = 0.1

    def outputs(self, channels):
        """Channels that a decoder makes for images with so many."""
        return 2 * channels if self._by_pixel else channels

    def init(self):
        """The parameters of the likelihood itself, a dict of arrays."""
        learned = self.name != "bernoulli" and self.scale == "shared"
        return {"log_scale": jnp.full((), math.log(self.sigma))} if learned else {}

    def observe(self, image, noise):
        """What is coded of an image.

        Args:
          image: (n, h, w, c) uint8.
          noise: the same shape, float32, uniform in [0, 1).

        Returns:
          (n, h, w, c) float32, about [-1, 1]: the variable whose log probability `log_prob` is.
        """
        x = images.to_float(image)
        if self.name == "gaussian":
            return dequantised(x, noise)
        if self.name == "bernoulli":
            return jnp.where(noise < (x + 1) / 2, 1.0, -1.0)
        return x

    def log_prob(self, params, output, x):
        """(n,) float32 log p(x | z) in nats, summed over pixels.

        Args:
          params: of `init`.
          output: (n, h, w, outputs(c)) of a decoder.
          x: (n, h, w, c) of `observe`.
        """
        output = output.astype(jnp.float32)
        if self.name == "bernoulli":
            pixels = -jax.nn.softplus(-x * output)
        else:
            mean, log_scale = self._location_and_scale(params, output)
            pixels = (_gaussian if self.name == "gaussian" else _logistic)(x, mean, log_scale)
        return pixels.sum((1, 2, 3))

    def mean(self, output):
        """(n, h, w, c) float32 in [-1, 1]: the expected image, or for a logistic its mode, of a decoder's output."""
        output = output.astype(jnp.float32)
        if self.name == "bernoulli":
            return 2 * jax.nn.sigmoid(output) - 1
        return jnp.clip(jnp.split(output, 2, -1)[0] if self._by_pixel else output, -1.0, 1.0)

    @property
    def _by_pixel(self):
        return self.name != "bernoulli" and self.scale == "pixel"

    def _location_and_scale(self, params, output):
        if self._by_pixel:
            mean, change = jnp.split(output, 2, -1)
            return mean, jnp.clip(math.log(self.sigma) + change, *_LOG_SCALES)
        return output, params.get("log_scale", math.log(self.sigma))


def bits_per_dimension(log_prob, shape):
    """Nats of an image of this (h, w, c) as bits for each of its values."""
    return -log_prob / (math.log(2) * math.prod(shape))


def dequantised(x, uniform):
    """8-bit images in [-1, 1], spread over the widths of their values by noise in [0, 1) of the same shape, float32."""
    return x + WIDTH * (uniform - 0.5)


def _ends(x):
    """(whether 8-bit values are the darkest, whether they are the brightest)."""
    return x < -1 + WIDTH / 2, x > 1 - WIDTH / 2


def _gaussian(x, mean, log_scale):
    return Gaussian(mean, log_scale).log_density(x) + math.log(WIDTH)


def _logistic(x, mean, log_scale):
    """log(s(a) - s(b)) of the sigmoid s at the borders a > b: log s(a) + log s(-b) + log(1 - e^(b - a)), exact at any scale."""
    inverse = jnp.exp(-log_scale)
    upper = (x - mean + WIDTH / 2) * inverse
    lower = (x - mean - WIDTH / 2) * inverse
    darkest, brightest = _ends(x)
    below_upper = jnp.where(brightest, 0.0, jax.nn.log_sigmoid(upper))
    above_lower = jnp.where(darkest, 0.0, jax.nn.log_sigmoid(-lower))
    between = jnp.where(darkest | brightest, 0.0, jnp.log(-jnp.expm1(-WIDTH * inverse)))
    return below_upper + above_lower + between
