"""Denoisers of larger images, made of tiles."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import samplers
from imagegen_jax.diffusion import solvers
from imagegen_jax.diffusion import tiles

RNG = np.random.default_rng(0)
LEVEL = processes.Level(*map(jnp.float32, (0.5, 0.8, 0.6, 1.0)))
CONDITION = {"map": RNG.random((2, 13, 9, 3)).astype(np.float32), "label": np.array([1.0, -2.0], np.float32)}


def pointwise(x, level, condition):
    """What a pixel becomes depends on nothing beside it."""
    label = condition["label"][:, None, None, None]
    x0 = jnp.tanh(x) * level.alpha + condition["map"][..., :1] * label
    return solvers.Estimate(x0, condition["map"][..., 1:2] + 0 * x)


@pytest.mark.parametrize(("tile", "overlap", "at_once"), [((4, 4), 1, 3), ((5, 3), 0, 64), ((13, 9), 2, 1)])
def test_of_what_is_local_it_is_that_of_the_whole(tile, overlap, at_once):
    x = RNG.standard_normal((2, 13, 9, 1)).astype(np.float32)
    seen = []
    divided = tiles.Tiles((13, 9), tile, overlap, at_once)
    found = jax.jit(tiles.denoiser(pointwise, divided, on_level=seen.append))(x, LEVEL, CONDITION)
    expected = pointwise(x, LEVEL, CONDITION)
    np.testing.assert_allclose(found.x0, expected.x0, atol=1e-6)
    np.testing.assert_allclose(found.variance, expected.variance, atol=1e-6)
    jax.effects_barrier()
    np.testing.assert_allclose(seen, [0.75], rtol=1e-6)


@pytest.mark.parametrize(("side", "tile", "overlap"), [(100, 28, 7), (29, 28, 14), (28, 28, 7), (61, 8, 0)])
def test_tiles_cover_all_share_enough_and_lie_elsewhere_at_each_level(side, tile, overlap):
    divided = tiles.Tiles((side, side), (tile, tile), overlap, 1)
    shifts = set()
    for time in np.linspace(0.01, 1, 20, dtype=np.float32):
        level = LEVEL._replace(time=jnp.asarray(time))
        for starts in map(np.asarray, divided.starts(level)):
            assert starts[0] == 0 and starts[-1] == side - tile
            assert (np.diff(starts) >= 0).all() and (np.diff(starts) <= tile - overlap).all()
            shifts.add(tuple(starts))
        np.testing.assert_array_equal(divided.starts(level), divided.starts(level))
    assert len(shifts) > 5 or side == tile or side == 29


def test_a_pixel_is_the_weighted_mean_of_the_tiles_that_show_it():
    """Of tiles in one dimension that are each filled with their own mean; by a loop."""

    def mean(x, level, condition):
        return solvers.Estimate(jnp.broadcast_to(x.mean((1, 2), keepdims=True), x.shape))

    x = RNG.standard_normal((1, 1, 9, 1)).astype(np.float32)
    divided = tiles.Tiles((1, 9), (1, 4), 2, 5)
    found = tiles.denoiser(mean, divided)(x, LEVEL, ()).x0.ravel()
    total, weight, ramp = np.zeros(9), np.zeros(9), np.array([1, 2, 2, 1]) / 3
    for start in np.asarray(divided.starts(LEVEL)[1]):
        total[start : start + 4] += ramp * x.ravel()[start : start + 4].mean()
        weight[start : start + 4] += ramp
    np.testing.assert_allclose(found, total / weight, rtol=1e-5)


def test_gradients_go_through_tiles():
    divided = tiles.Tiles((13, 9), (4, 4), 1, 3)
    x = RNG.standard_normal((2, 13, 9, 1)).astype(np.float32)

    def total(denoise):
        return jax.grad(lambda x: jnp.square(denoise(x, LEVEL, CONDITION).x0).sum())(x)

    np.testing.assert_allclose(total(tiles.denoiser(pointwise, divided)), total(pointwise), atol=1e-5)


def test_images_are_drawn_as_without_tiles_where_pixels_are_independent():
    """Gaussian pixels of variance 1/4, whose exact denoiser is local."""
    process = processes.RectifiedFlow()
    sampler = samplers.Sampler(name="dpmpp_2m", steps=6, grid="karras")

    def exact(x, level, condition):
        return solvers.Estimate(level.alpha * x / 4 / (level.alpha**2 / 4 + level.sigma**2))

    keys = jax.random.split(jax.random.key(0), 2)
    tiled = tiles.denoiser(exact, tiles.Tiles((11, 11), (4, 4), 2, 8))
    drawn = [samplers.sample(denoise, keys, (11, 11, 1), process, sampler) for denoise in (tiled, exact)]
    np.testing.assert_allclose(*drawn, atol=1e-5)
    assert np.std(drawn[0]) > 0.4


def doubled(x):
    """(n, h, w, c) -> (n, 2 h, 2 w, 2): what a place becomes depends on nothing beside it."""
    return jnp.tanh(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2) @ jnp.array([[1.0, -2.0], [0.5, 3.0], [2.0, 1.0]]))


@pytest.mark.parametrize(("tile", "overlap"), [((4, 4), 1), ((5, 3), 0), ((6, 9), 5), ((13, 9), 3)])
def test_blended_results_of_what_is_local_are_those_of_the_whole(tile, overlap):
    x = RNG.standard_normal((2, 13, 9, 3)).astype(np.float32)
    seen = []
    found = jax.jit(lambda x: tiles.blended(lambda z: seen.append(z.shape) or doubled(z), x, tile, overlap, 2))(x)
    np.testing.assert_allclose(found, doubled(x), atol=1e-6)
    assert set(seen) == {(2, *tile, 3)}


def test_far_from_the_borders_of_tiles_blended_results_are_those_of_the_whole():
    """And across them they go over from one tile's to the other's: no pixel is further from both."""

    def brightest(x):  # within 2 of a place
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 5, 5, 1), (1, 1, 1, 1), "SAME")

    x = RNG.standard_normal((1, 20, 8, 1)).astype(np.float32)
    found = tiles.blended(brightest, x, (12, 8), 4, 1)
    whole, first, second = brightest(x), brightest(x[:, :12]), brightest(x[:, 8:])
    np.testing.assert_array_equal(found[:, :8], whole[:, :8])
    np.testing.assert_array_equal(found[:, 12:], whole[:, 12:])
    least, most = np.minimum(first[:, 8:], second[:, :4]), np.maximum(first[:, 8:], second[:, :4])
    assert ((least - 1e-6 <= found[:, 8:12]) & (found[:, 8:12] <= most + 1e-6)).all()
