"""Images larger than those that a network was trained on: its estimates of overlapping tiles, averaged at every step.

So neighbouring tiles agree on what they share while an image is drawn (MultiDiffusion, Bar-Tal et al. 2023, equation 5), and
there are no seams to blend in the end. A tile knows of the others by what it shares with them alone.
"""

from collections.abc import Callable
import itertools
from typing import NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax import images
from imagegen_jax.diffusion import solvers


class Tiles(NamedTuple):
    """How an image is divided.

    Attributes:
      size: (height, width) of the image.
      tile: of a tile, which is no larger.
      overlap: pixels that neighbours share at least, less than a side of a tile.
      at_once: how many tiles the network sees at once; the memory that it takes grows with them.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    overlap: int
    at_once: int


def denoiser(
    denoise: solvers.Denoiser, tiles: Tiles, placed: Callable = lambda x: x, on_level: Callable | None = None
) -> solvers.Denoiser:
    """The denoiser of the whole images.

    Args:
      denoise: that of a tile. Of a condition it is told the rows of its image; of maps, arrays (n, height, width, c) of the
        whole images, what lies in the tile.
      tiles: the division.
      placed: what is done with arrays of `at_once` rows, such as to divide them over devices.
      on_level: None, or called on the host with sigma / alpha of each evaluation of the whole images.
    """
    axes = [images.windows(*given, tiles.overlap) for given in zip(tiles.size, tiles.tile)]
    starts = [np.array([start for start, _ in axis]) for axis in axes]
    ramps = [np.stack([ramp for _, ramp in axis]) for axis in axes]
    cells = np.array(list(itertools.product(*map(range, map(len, starts)))))  # (tiles, 2)

    def of_whole(x, level, condition):
        x, condition = jax.tree.map(jnp.asarray, (x, condition))
        if on_level is not None:
            jax.debug.callback(on_level, level.noise_ratio)
        image, cell = (jnp.asarray(part.ravel()) for part in np.indices((len(x), len(cells))))
        missing = -len(image) % tiles.at_once  # those that fill up the last call have no weight
        weight = jnp.arange(len(image) + missing) < len(image)
        rows = [jnp.pad(part, (0, missing)).reshape(-1, tiles.at_once) for part in (image, cell)]

        def some(total, at):
            image, cell, weight = at
            (down, top), (across, left) = (
                (jnp.asarray(ramp)[part], jnp.asarray(start)[part])
                for ramp, start, part in zip(ramps, starts, jnp.moveaxis(jnp.asarray(cells)[cell], -1, 0))
            )
            place = (
                image[:, None, None],
                top[:, None, None] + np.arange(tiles.tile[0])[:, None],
                left[:, None, None] + np.arange(tiles.tile[1]),
            )

            def cut(array):
                return placed(array[place] if _is_map(array, tiles) else array[image])

            made = denoise(cut(x), level, jax.tree.map(cut, condition))
            share = weight[:, None, None, None] * (down[:, :, None] * across[:, None])[..., None]
            return jax.tree.map(lambda sum, one: sum.at[place].add(share * one), total, made), None

        of_tile = jax.eval_shape(denoise, *_first_tile(x, level, condition, tiles))
        zeros = jax.tree.map(lambda one: jnp.zeros((*x.shape[:3], *one.shape[3:]), one.dtype), of_tile)
        return jax.lax.scan(some, zeros, (*rows, weight.reshape(-1, tiles.at_once)))[0]

    return of_whole


def _is_map(array, tiles):
    return array.ndim == 4 and array.shape[1:3] == tuple(tiles.size)


def _first_tile(x, level, condition, tiles):
    """What the network sees of one tile, for its shapes."""

    def cut(array):
        return array[:1, : tiles.tile[0], : tiles.tile[1]] if _is_map(array, tiles) else array[:1]

    return cut(x), level, jax.tree.map(cut, condition)
