"""Blur and noise, of which an image's texture tells how much there was."""

import jax
from jax import numpy as jnp

# Least and greatest standard deviation.
_BLUR = (0.3, 1.2)  # pixels
_NOISE = (1.0, 40.0)  # grey levels
_RADIUS = 5  # of the blur's kernel, in pixels


def degrade(rng, image, share):
    """Blurs some images, then gives some noise, as they would be if they had been saved so.

    The blur is Gaussian, of .3 to 1.2 pixels; the noise is white, of 1 to 40 grey levels. Of both the logarithm of the standard
    deviation is uniform, and drawn for each image by itself.

    Args:
      rng: a key.
      image: (n, h, w, c) uint8.
      share: probability of the blur, and, independently, of the noise.

    Returns:
      ((n, h, w, c) uint8, (n, 2) float32: standard deviation b of the blur as b / 1.2, and s of the noise as
      log(1 + s / 4) / log(1 + 40 / 4), both in [0, 1], and 0 without).
    """
    which, much, grain = jax.random.split(rng, 3)
    low, high = jnp.log(jnp.array([_BLUR, _NOISE])).T[..., None]
    drawn = jnp.exp(jax.random.uniform(much, (2, len(image)), minval=low, maxval=high))
    deviation, noise = jnp.where(jax.random.bernoulli(which, share, drawn.shape), drawn, 0)
    degraded = blur(image.astype(jnp.float32), deviation)
    degraded += noise[:, None, None, None] * jax.random.normal(grain, image.shape)
    targets = jnp.stack([deviation / _BLUR[1], jnp.log1p(noise / 4) / jnp.log1p(_NOISE[1] / 4)], -1)
    return jnp.clip(jnp.round(degraded), 0, 255).astype(jnp.uint8), targets


def blur(image, deviation):
    """Convolves with a Gaussian, sampled at pixels within 5 of the centre; images go on beyond their border as in a mirror.

    Args:
      image: (n, h, w, c) float, h and w at least 5.
      deviation: (n,) standard deviations in pixels; 0 leaves an image as it is.
    """
    offsets = jnp.arange(-_RADIUS, _RADIUS + 1)
    kernel = jnp.exp(-jnp.square(offsets / jnp.maximum(deviation, 1e-3)[:, None]) / 2)
    kernel /= kernel.sum(1, keepdims=True)
    for axis in (1, 2):
        padded = jnp.pad(image, [(_RADIUS, _RADIUS) if i == axis else (0, 0) for i in range(4)], mode="symmetric")
        shifted = [jax.lax.slice_in_dim(padded, i, i + image.shape[axis], axis=axis) for i in range(len(offsets))]
        image = sum(x * weight[:, None, None, None] for x, weight in zip(shifted, kernel.T))
    return image
