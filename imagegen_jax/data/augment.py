"""Random augmentation of a batch on the device, by dm-pix."""

import dm_pix as pix
import jax


def augment(rng, image, size, flip):
    """Crops and mirrors each image of a batch at random, each by a key of its own.

    Args:
      rng: key of this step.
      image: (n, h, w, c) uint8.
      size: (height, width) to crop to.
      flip: whether to mirror with probability 1/2.

    Returns:
      (n, height, width, c) uint8.
    """

    def one(key, x):
        crop_key, flip_key = jax.random.split(key)
        if x.shape[:2] != size:
            x = pix.random_crop(crop_key, x, (*size, x.shape[-1]))
        return pix.random_flip_left_right(flip_key, x) if flip else x

    return jax.vmap(one)(jax.random.split(rng, len(image)), image)
