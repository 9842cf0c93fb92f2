"""Tiles: blended, they are what the whole image would be."""

import types

from jax import numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from imagegen_jax import errors
from imagegen_jax.algorithms import base
from imagegen_jax.diffusion import tiles as tiles_lib
from imagegen_jax.generation import tiling

RADIUS = 3
SIZES = [(61, 47, 32, 12), (64, 33, 32, 16), (20, 75, 32, 7), (9, 9, 32, 12), (40, 40, 16, 0), (100, 30, 25, 24)]


def local(x):
    """(n, h, w, c) -> (n, h, w, 2 c), each pixel a function of those within RADIUS; blank beyond the border."""
    kernels = np.random.default_rng(1).normal(size=(2, 1, 2 * RADIUS + 1, 2 * RADIUS + 1, 1)) / RADIUS
    return np.concatenate([np.sin(ndimage.convolve(x, kernel, mode="constant")) for kernel in kernels], -1)


def undisturbed(side, tile, overlap):
    """Which pixels along a side lie at least RADIUS from the borders, inside the image, of all tiles that they are in."""
    ok = np.ones(side, bool)
    for start, weights in tiles_lib.windows(side, tile, overlap):
        end = start + len(weights)
        ok[start : start + RADIUS * (start > 0)] = False
        ok[end - RADIUS * (end < side) : end] = False
    return ok


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), SIZES)
def test_a_local_function_is_the_same_in_tiles(height, width, tile, overlap):
    image = np.random.default_rng(0).normal(size=(height, width, 2)).astype(np.float32)
    shapes = []

    def fn(x):
        shapes.append(x.shape)
        return local(x)

    made = tiling.tiled(fn, image, tile, overlap)
    assert made.shape == (height, width, 4) and made.dtype == np.float32
    assert set(shapes) == {(1, min(tile, height), min(tile, width), 2)}
    ok = np.outer(undisturbed(height, tile, overlap), undisturbed(width, tile, overlap))
    assert ok.any() and (ok.all() or len(shapes) > 1)
    np.testing.assert_allclose(made[ok], local(image[None])[0][ok], atol=1e-5)


def test_blended_pixels_are_among_the_undisturbed():
    side, tile, overlap = 61, 32, 12
    tiles = sum(np.bincount(start + np.arange(tile), minlength=side) for start, _ in tiles_lib.windows(side, tile, overlap))
    assert (undisturbed(side, tile, overlap) & (tiles == 2)).sum() >= overlap - 2 * RADIUS


@pytest.mark.parametrize(("side", "_", "tile", "overlap"), SIZES)
def test_weights_add_up_to_one(side, _, tile, overlap):
    total = np.zeros(side)
    for start, weights in tiles_lib.windows(side, tile, overlap):
        assert len(weights) == min(side, tile) and (weights > 0).all() and (weights <= 1).all()
        total[start : start + len(weights)] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_weights_rise_and_fall_linearly():
    (_, first), (start, second), (_, last) = tiles_lib.windows(10, 4, 1)
    assert start == 3
    np.testing.assert_allclose([first, second, last], [[1, 1, 1, 0.5], [0.5, 1, 1, 0.5], [0.5, 1, 1, 1]], atol=1e-6)
    (_, first), (start, second) = tiles_lib.windows(11, 7, 3)
    assert start == 4
    np.testing.assert_allclose(first[4:], [0.75, 0.5, 0.25], atol=1e-6)
    np.testing.assert_allclose(second[:3], [0.25, 0.5, 0.75], atol=1e-6)


def test_a_constant_stays_constant():
    image = np.zeros((53, 47, 1), np.uint8)
    made = tiling.tiled(lambda x: np.full((*x.shape[:3], 3), 0.7), image, 16, 5)
    np.testing.assert_allclose(made, np.full((53, 47, 3), 0.7), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "multiple", "expected"),
    [
        ((37, 51, 3), 4, (40, 52, 3)),
        ((40, 52, 1), 4, (40, 52, 1)),
        ((3, 5, 1), 4, (16, 16, 1)),
        ((1, 30, 3), 32, (32, 32, 3)),
    ],
)
def test_padding_mirrors_at_the_end(shape, multiple, expected):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    made = tiling.padded(image, multiple)
    assert made.shape == expected and made.dtype == np.uint8
    np.testing.assert_array_equal(made[: shape[0], : shape[1]], image)
    if shape[0] > 1 and expected[0] > shape[0]:
        np.testing.assert_array_equal(made[shape[0], : shape[1]], image[-2])
    if shape[0] == 1:
        np.testing.assert_array_equal(made[:, : shape[1]], np.broadcast_to(image, (expected[0], *shape[1:])))


class Negative:
    """What a Translator asks of a CycleGAN: b is the negative of a, in grey."""

    directions = types.MappingProxyType({"ab": ("a", "b"), "ba": ("b", "a")})
    multiples = types.MappingProxyType({"ab": 4, "ba": 4})
    shapes = types.MappingProxyType({"a": (16, 16, 3), "b": (16, 16, 1)})
    traced = 0

    def translate(self, state, direction, image):
        self.traced += 1
        return -image.mean(-1, keepdims=True) * state.params["scale"]


def translator(tile, overlap, algorithm=None, direction="ab"):
    state = base.TrainState(jnp.zeros(()), {"scale": jnp.ones(())}, {}, {})
    return tiling.Translator(algorithm or Negative(), state, direction, tile, overlap)


def test_large_images_share_one_compilation():
    algorithm = Negative()
    translate = translator(32, 8, algorithm)
    assert translate.channels == 3 and translator(32, 8, direction="ba").channels == 1
    for shape in ((70, 45, 3), (33, 101, 3), (30, 31, 3)):  # the last is padded to a tile
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        made = translate(image)
        assert made.shape == (*shape[:2], 1) and made.dtype == np.uint8
        np.testing.assert_allclose(made, 255 - image.mean(-1, keepdims=True), atol=0.51)
    assert algorithm.traced == 1


@pytest.mark.parametrize(
    ("tile", "overlap", "words"),
    [(30, 8, "--tile is 30: it must be a multiple of 4"), (8, 0, "at least 16"), (32, 17, "between 0 and 16"), (32, -1, "-1")],
)
def test_impossible_tiles_are_refused(tile, overlap, words):
    with pytest.raises(errors.UserError, match=words):
        translator(tile, overlap)
