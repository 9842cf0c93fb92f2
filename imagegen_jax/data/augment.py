"""Random augmentation of a batch on the device, by dm-pix."""

import dm_pix as pix
import jax
from jax import numpy as jnp


def augment(rng, image, size, flip, rotate=0.0):
    """Rotates, crops and mirrors each image of a batch at random, each by a key of its own.

    Args:
      rng: key of this step.
      image: (n, h, w, c) uint8.
      size: (height, width) to crop to.
      flip: whether to mirror with probability 1/2.
      rotate: degrees; the angle is uniform between minus and plus this. Pixels from outside continue the image's edge. The
        other draws are the same whether images are rotated or not.

    Returns:
      (n, height, width, c) uint8.
    """

    def one(key, x):
        crop_key, flip_key = jax.random.split(key)
        if rotate:
            x = _turned(x, jax.random.uniform(jax.random.fold_in(key, 2), minval=-rotate, maxval=rotate))
        if x.shape[:2] != size:
            x = pix.random_crop(crop_key, x, (*size, x.shape[-1]))
        return pix.random_flip_left_right(flip_key, x) if flip else x

    return jax.vmap(one)(jax.random.split(rng, len(image)), image)


def _turned(image, degrees):
    """(h, w, c) uint8 turned about its middle, counter-clockwise, by bilinear interpolation."""
    turned = pix.rotate(image.astype(jnp.float32), jnp.deg2rad(degrees), order=1, mode="nearest")
    return jnp.round(jnp.clip(turned, 0, 255)).astype(jnp.uint8)
