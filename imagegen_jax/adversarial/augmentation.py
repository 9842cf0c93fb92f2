"""Transformations of what a discriminator sees, real and generated alike, so that it cannot learn few images by heart.

With probability 1 this is DiffAugment (Zhao et al. 2020, section 3.2); with a probability that follows how sure the
discriminator is of the training images, adaptive discriminator augmentation (Karras et al. 2020a, section 3). All can be
differentiated by the image. A generator does not learn to draw the transformations as long as those can be undone in
distribution (section 2.2 there): small ones always, a flip only where it is done to some images and not to others.
"""

import dataclasses
from typing import Annotated

import jax
from jax import numpy as jnp

from imagegen_jax import keys


def _per_image(rng, images, low, high):
    """(n, 1, 1, 1) numbers, uniform between these."""
    return jax.random.uniform(rng, (len(images), 1, 1, 1), minval=low, maxval=high)


def _brightness(rng, images):
    return images + _per_image(rng, images, -0.5, 0.5)


def _saturation(rng, images):
    grey = images.mean(-1, keepdims=True)
    return grey + (images - grey) * _per_image(rng, images, 0.0, 2.0)


def _contrast(rng, images):
    mean = images.mean((1, 2, 3), keepdims=True)
    return mean + (images - mean) * _per_image(rng, images, 0.5, 1.5)


def _translation(rng, images):
    """Up to an eighth of the sides; what comes in is grey. Products with shifted unit matrices, which gather much faster."""
    shifted = []
    for side, key in zip(images.shape[1:3], jax.random.split(rng)):
        shift = jax.random.randint(key, (len(images), 1), -(side // 8), side // 8 + 1)
        shifted.append(jax.nn.one_hot(jnp.arange(side) + shift, side))
    # XLA would make the matrices again wherever they are used, random numbers included: 6 ms of a step's 73 on 2 cores.
    rows, columns = jax.lax.optimization_barrier(shifted)
    return jnp.einsum("nij,nkl,njlc->nikc", rows, columns, images)


def _cutout(rng, images):
    """A square of half the sides, around any pixel, becomes grey."""
    covered = True
    for axis, key in zip((1, 2), jax.random.split(rng)):
        side = images.shape[axis]
        distance = jnp.arange(side) - jax.random.randint(key, (len(images), 1), 0, side)
        inside = (distance >= -(side // 4)) & (distance < side // 4)
        covered = covered & jnp.expand_dims(inside, 3 - axis)
    return jnp.where(covered[..., None], 0.0, images)


def _flip(rng, images):
    return jnp.where(jax.random.bernoulli(rng, 0.5, (len(images), 1, 1, 1)), images[:, :, ::-1], images)


TRANSFORMATIONS = {
    "brightness": _brightness,
    "saturation": _saturation,
    "contrast": _contrast,
    "translation": _translation,
    "cutout": _cutout,
    "flip": _flip,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The section `augment`."""

    policy: Annotated[tuple[str, ...], keys.Each(keys.OneOf(TRANSFORMATIONS))] = ()  # what both kinds of images go through
    adaptive: bool = False  # with a probability that rises from 0 where the discriminator is too sure; otherwise always
    # Mean sign of its logits on training images that is aimed at.
    target: Annotated[float, keys.AtLeast(-1), keys.AtMost(1)] = 0.6
    span: Annotated[int, keys.AtLeast(1)] = 500_000  # images over which the probability can rise from 0 to 1


def augment(rng, images, policy, probability=None):
    """Transforms each image by each of some transformations.

    Args:
      rng: key.
      images: (n, h, w, c) float in [-1, 1].
      policy: keys of TRANSFORMATIONS, in their order.
      probability: () float in [0, 1], of each transformation of an image; None: always.

    Returns:
      (n, h, w, c); brightness and contrast may leave [-1, 1].
    """
    for name, key in zip(policy, jax.random.split(rng, max(len(policy), 1))):
        chance_key, key = jax.random.split(key)
        transformed = TRANSFORMATIONS[name](key, images)
        if probability is not None:
            chosen = jax.random.bernoulli(chance_key, probability, (len(images), 1, 1, 1))
            transformed = jnp.where(chosen, transformed, images)
        images = transformed
    return images


def adapted(probability, logits, target, span):
    """The probability after a step: up where the discriminator is too sure of the training images, down where it is not.

    Args:
      probability: () float before it.
      logits: (n,) of those images, as the discriminator saw them, above its decision boundary.
      target: r_t, the mean sign of the logits that is aimed at (Karras et al. 2020, equation 1).
      span: images over which the probability can go from 0 to 1.
    """
    direction = jnp.sign(jnp.sign(logits).mean() - target)
    return jnp.clip(probability + direction * len(logits) / span, 0.0, 1.0)
