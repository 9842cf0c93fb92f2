"""Images larger than those that a network was trained on: its estimates of overlapping tiles, averaged at every step.

So neighbouring tiles agree on what they share while an image is drawn (MultiDiffusion, Bar-Tal et al. 2023, equation 5), and
there are no seams to blend in the end. At each noise level the tiles lie elsewhere, so that none of their borders is one in the
image. A tile knows of the others by what it shares with them alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import solvers


def ramp(side: int, overlap: int) -> np.ndarray:
    """(side,) weights in (0, 1], which rise and fall linearly over `overlap` pixels at the ends."""
    i = np.arange(side)
    return np.minimum(1, np.minimum(i + 1, side - i) / (overlap + 1))


def windows(side: int, tile: int, overlap: int) -> list[tuple[int, np.ndarray]]:
    """The tiles along one side of an image: where each starts, and the weights of its pixels.

    Returns:
      [(start, (min(side, tile),) float32)]. The weights are in (0, 1], rise and fall linearly over `overlap` pixels, and those
      of one pixel add up to 1.
    """
    length = min(side, tile)
    starts = [*range(0, side - length, tile - overlap), side - length]
    weights = ramp(length, overlap)
    total = np.zeros(side)
    for start in starts:
        total[start : start + length] += weights
    return [(start, (weights / total[start : start + length]).astype(np.float32)) for start in starts]


def blended(fn: Callable, x: jax.Array, tile: tuple[int, int], overlap: int, scale: int) -> jax.Array:
    """fn(x) by overlapping tiles, one after the other, blended by linear ramps, so that only one's activations are in memory.

    Args:
      fn: (n, th, tw, c) -> (n, scale th, scale tw, c') float32, such as a decoder of latents. Where its pixels depend on places
        fewer than `overlap` away, the result is close to fn(x). Norms over a tile are not those over the whole.
      x: (n, h, w, c).
      tile: (th, tw), at most (h, w).
      overlap: what neighbours share along x, less than a side of a tile.
      scale: sides of a result over those of its argument.

    Returns:
      (n, scale h, scale w, c') float32.
    """
    downs, acrosses = (windows(scale * side, scale * short, scale * overlap) for side, short in zip(x.shape[1:3], tile))
    places = np.array([(top, left) for top, _ in downs for left, _ in acrosses])
    weights = np.stack([np.outer(down, across)[..., None] for _, down in downs for _, across in acrosses])

    def add(total, at):
        (top, left), weight = at
        cut = jax.lax.dynamic_slice(x, (0, top // scale, left // scale, 0), (len(x), *tile, x.shape[-1]))
        made = weight * fn(cut)
        before = jax.lax.dynamic_slice(total, (0, top, left, 0), made.shape)
        return jax.lax.dynamic_update_slice(total, before + made, (0, top, left, 0)), None

    made = jax.eval_shape(fn, jax.ShapeDtypeStruct((len(x), *tile, x.shape[-1]), x.dtype))
    zeros = jnp.zeros((len(x), *(scale * side for side in x.shape[1:3]), made.shape[-1]))
    return jax.lax.scan(add, zeros, (places, weights))[0]


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

    def starts(self, level: processes.Level) -> tuple[jax.Array, jax.Array]:
        """Where tiles begin along height and width at a noise level: they cover all, the same at each time of this level."""
        key = jax.random.fold_in(jax.random.key(0), jax.lax.bitcast_convert_type(jnp.float32(level.time), jnp.uint32))
        found = []
        for axis_key, side, tile in zip(jax.random.split(key), self.size, self.tile):
            apart = tile - self.overlap
            count = -(-(side - tile) // apart) + 2 if side > tile else 1
            shift = jax.random.randint(axis_key, (), 0, apart)
            found.append(jnp.clip(apart * jnp.arange(count) - shift, 0, side - tile))
        return tuple(found)

    @property
    def weight(self) -> np.ndarray:
        """(*tile, 1) float32 of a tile's pixels, which rises and falls linearly where neighbours may share them."""
        return np.outer(*(ramp(side, self.overlap) for side in self.tile))[..., None].astype(np.float32)


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

    def of_whole(x, level, condition):
        x, condition = jax.tree.map(jnp.asarray, (x, condition))
        if on_level is not None:
            jax.debug.callback(on_level, level.noise_ratio)
        tops, lefts = tiles.starts(level)
        numbers = [part.ravel() for part in np.indices((len(x), len(tops), len(lefts)))]
        missing = -len(numbers[0]) % tiles.at_once  # those that fill up the last call have no weight
        present = np.arange(len(numbers[0]) + missing) < len(numbers[0])
        rows = [np.pad(part, (0, missing)) for part in numbers]

        def estimates(image, row, column):
            """(what the network makes of some tiles, where these lie)."""
            place = (
                image[:, None, None],
                tops[row][:, None, None] + np.arange(tiles.tile[0])[:, None],
                lefts[column][:, None, None] + np.arange(tiles.tile[1]),
            )

            def cut(array):
                is_map = array.ndim == 4 and array.shape[1:3] == tuple(tiles.size)
                return placed(array[place if is_map else image])

            return denoise(cut(x), level, jax.tree.map(cut, condition)), place

        def some(sums, at):
            *numbers, present = at
            made, place = estimates(*numbers)
            weight = present[:, None, None, None] * tiles.weight
            added = jax.tree.map(lambda one: weight * one, made), weight
            return jax.tree.map(lambda sum, one: sum.at[place].add(one), sums, added), None

        calls = [jnp.asarray(part).reshape(-1, tiles.at_once) for part in (*rows, present)]
        of_tiles, _ = jax.eval_shape(estimates, *(part[0] for part in calls[:3]))
        zeros = jax.tree.map(lambda one: jnp.zeros((*x.shape[:3], *one.shape[3:])), of_tiles), jnp.zeros((*x.shape[:3], 1))
        (total, weight), _ = jax.lax.scan(some, zeros, calls)
        return jax.tree.map(lambda sum: sum / weight, total)

    return of_whole
