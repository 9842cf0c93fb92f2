"""Translating images of any size.

A large image is translated in overlapping tiles that are blended on the host, so that the device never holds more than one
tile. Instance normalisation takes its statistics over what the network sees, which then is a tile and not the image: the same
place comes out a little different in two tiles, and the blending hides the seam. Whoever wants one set of statistics for the
whole image raises --tile as far as the device's memory goes.
"""

from collections.abc import Callable
import functools

import chex
import jax
import numpy as np

from imagegen_jax import errors
from imagegen_jax.diffusion import tiles
from imagegen_jax.generation import sampling


def tiled(fn: Callable, image: np.ndarray, tile: int, overlap: int) -> np.ndarray:
    """Applies a function to an image tile by tile and blends the results by linear ramps.

    All tiles have one shape, so a compiled `fn` is compiled once, and results are added up on the host. If `fn` is local, a
    pixel of its result depending on those within r around it, this is fn(image) except within r of a tile's border inside the
    image; with r below `overlap` the ramps give the tile that misses something there less weight than its neighbour.

    Args:
      fn: (1, th, tw, c) -> (1, th, tw, c').
      image: (h, w, c) of any dtype.
      tile: side of a tile in pixels; where the image is smaller, so is the tile.
      overlap: pixels that neighbours share, in [0, tile); the last tile of a row or column may share more.

    Returns:
      (h, w, c') float32.
    """
    chex.assert_rank(image, 3)
    rows, columns = (tiles.windows(side, tile, overlap) for side in image.shape[:2])
    blended = None
    for top, down in rows:
        for left, across in columns:
            place = np.s_[top : top + len(down), left : left + len(across)]
            made = np.asarray(fn(image[place][None]))[0]
            if blended is None:
                blended = np.zeros((*image.shape[:2], made.shape[-1]), np.float32)
            blended[place] += (down[:, None] * across)[..., None] * made
    return blended


def padded(image: np.ndarray, multiple: int) -> np.ndarray:
    """Mirrors an image on at its bottom and right, until its sides are multiples and at least 16.

    Args:
      image: (h, w, c); with a side of one pixel, which has nothing to mirror, its edge is repeated.
      multiple: of the result's sides.

    Returns:
      (h', w', c) of the same dtype, whose first h rows and w columns are the image.
    """
    height, width = (-(-max(side, 16) // multiple) * multiple - side for side in image.shape[:2])
    return np.pad(image, ((0, height), (0, width), (0, 0)), "reflect" if min(image.shape[:2]) > 1 else "edge")


class Translator:
    """Translates images one after the other on one device; compiled once for each padded shape up to a tile's.

    Attributes:
      channels: of the images that it takes.
    """

    def __init__(self, algorithm, state, direction, tile, overlap=None):
        """Prepares the translation with state.params.

        Args:
          algorithm: one that translates (capabilities.Translates).
          state: its TrainState.
          direction: one of its directions.
          tile: see `tiled`.
          overlap: see `tiled`; None for a quarter of a tile, at most 64.

        Raises:
          errors.UserError: the networks take no tiles of this size, or too much of a tile is overlap.
        """
        self.channels = algorithm.shapes[algorithm.directions[direction][0]][-1]
        self._multiple = algorithm.multiples[direction]
        overlap = min(64, tile // 4) if overlap is None else overlap
        self._tile, self._overlap = tile, overlap
        if tile < 16 or tile % self._multiple:
            raise errors.UserError(f"--tile is {tile}: it must be a multiple of {self._multiple} and at least 16")
        if not 0 <= overlap <= tile // 2:
            raise errors.UserError(f"--overlap is {overlap}: it must be between 0 and {tile // 2}, half of --tile")
        # There is one image at a time, which devices would only repeat.
        state = jax.device_put(jax.device_get(state.replace(opt_state={}, ema_params={}, extra={})), jax.local_devices()[0])
        self._fn = functools.partial(sampling.compiled_translation(algorithm, direction), state)

    def __call__(self, image):
        """(h, w, channels) uint8 to (h, w, c') uint8."""
        blended = tiled(self._fn, padded(image, self._multiple), self._tile, self._overlap)
        return np.rint(blended[: image.shape[0], : image.shape[1]]).astype(np.uint8)
