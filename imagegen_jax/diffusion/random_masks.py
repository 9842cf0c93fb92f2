"""Random masks to learn filling by: free-form strokes, boxes, and all around a box (as Palette, Saharia et al. 2022b)."""

import jax
from jax import numpy as jnp

# Of the strokes: the masks that Yu et al. 2019 train with (JiahuiYu/generative_inpainting, brush_stroke_mask).
_STROKES = 3  # at most
_CORNERS = (4, 11)
_ANGLE, _SPREAD = 2 * jnp.pi / 5, 2 * jnp.pi / 15
_LENGTH = 1 / 8  # of the diagonal, on average
_WIDTH = (12 / 256, 40 / 256)  # of the shorter side
_BOX = (1 / 8, 1 / 2)  # half of a side of a box, as a share of the image's


def random_masks(keys, size):
    """The pixels that are hidden: in a third of the images strokes, in a third a box, in the others all around a box.

    Args:
      keys: (n,) random keys.
      size: (height, width).

    Returns:
      (n, height, width) bool.
    """

    def one(key):
        kind_key, stroke_key, box_key = jax.random.split(key, 3)
        inside = box(box_key, size)
        kinds = jnp.stack([strokes(stroke_key, size), inside, ~inside])
        return kinds[jax.random.randint(kind_key, (), 0, len(kinds))]

    return jax.vmap(one)(keys)


def box(key, size):
    """(height, width) bool: a box whose centre is anywhere, cut off at the border, so that it often lies against that."""
    centre_key, half_key = jax.random.split(key)
    centre = jax.random.uniform(centre_key, (2,))
    half = jax.random.uniform(half_key, (2,), minval=_BOX[0], maxval=_BOX[1])
    rows, columns = (jnp.abs((jnp.arange(n) + 0.5) / n - centre[i]) <= half[i] for i, n in enumerate(size))
    return rows[:, None] & columns


def strokes(key, size):
    """(height, width) bool: one to three zigzag strokes with round ends, each of a number of corners and a width of its own."""
    number_key, *keys = jax.random.split(key, 1 + _STROKES)
    number = jax.random.randint(number_key, (), 1, _STROKES + 1)
    drawn = jax.vmap(lambda key: _stroke(key, size))(jnp.stack(keys))
    return (drawn & (jnp.arange(_STROKES) < number)[:, None, None]).any(0)


def _stroke(key, size):
    number_key, start_key, angle_key, spread_key, length_key, width_key, flip_key = jax.random.split(key, 7)
    most, side = _CORNERS[1], jnp.array(size, jnp.float32)
    number = jax.random.randint(number_key, (), _CORNERS[0], most + 1)
    low, high = jax.random.uniform(spread_key, (2,), maxval=_SPREAD)
    angle = jax.random.uniform(angle_key, (most,), minval=_ANGLE - low, maxval=_ANGLE + high)
    angle = jnp.where(jnp.arange(most) % 2, angle, -angle)
    mean = _LENGTH * jnp.linalg.norm(side)
    length = jnp.clip(mean + mean / 2 * jax.random.normal(length_key, (most,)), 0, 2 * mean)
    moves = (length * (jnp.arange(most) < number))[:, None] * jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1)

    def onward(corner, move):
        after = jnp.clip(corner + move, 0, side)
        return after, after

    start = jax.random.uniform(start_key, (2,)) * side
    _, others = jax.lax.scan(onward, start, moves)
    corners = jnp.concatenate([start[None], others])
    corners = jnp.where(jax.random.bernoulli(flip_key, shape=(2,)), side - corners, corners)
    width = jax.random.uniform(width_key, minval=_WIDTH[0], maxval=_WIDTH[1]) * side.min()
    return _distance(corners, size) <= jnp.maximum(width, 1) / 2


def _distance(corners, size):
    """(height, width) from the middle of each pixel to the nearest point of a line through (k, 2) corners, in pixels."""
    place = jnp.stack(jnp.meshgrid(*(jnp.arange(n) + 0.5 for n in size), indexing="ij"), -1)

    def to_segment(begin, end):
        along = end - begin
        share = ((place - begin) @ along) / jnp.maximum(along @ along, 1e-6)
        return jnp.linalg.norm(place - begin - jnp.clip(share, 0, 1)[..., None] * along, axis=-1)

    return jax.vmap(to_segment)(corners[:-1], corners[1:]).min(0)
