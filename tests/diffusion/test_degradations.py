"""Degradations against NumPy and Pillow, the random masks, and what a network is told."""

import jax
from jax import numpy as jnp
import numpy as np
from PIL import Image
import pytest

from imagegen_jax import errors
from imagegen_jax.diffusion import degradations
from imagegen_jax.diffusion import linear_operators
from imagegen_jax.diffusion import random_masks

SHAPE = (16, 24, 3)
X = np.random.default_rng(0).uniform(-1, 1, (4, *SHAPE)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 4)


def resized(images, height, width):
    """Pillow's bicubic, in float, channel by channel."""
    return np.stack(
        [
            np.stack(
                [
                    np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC))
                    for c in np.moveaxis(x, -1, 0)
                ],
                -1,
            )
            for x in np.asarray(images)
        ]
    )


def test_bicubic_makes_images_smaller_as_pillow_does():
    small = linear_operators.apply(linear_operators.bicubic(SHAPE, 4), X)
    np.testing.assert_allclose(small, resized(X, 4, 6), atol=1e-5)


@pytest.mark.parametrize("downscaling", ["box", "bicubic"])
def test_superres_sees_the_small_image_enlarged(downscaling):
    degradation = degradations.Superres(factor=4, downscaling=downscaling)
    told = degradation.drawn(KEYS, X)
    small = X.reshape(4, 4, 4, 6, 4, 3).mean((2, 4)) if downscaling == "box" else resized(X, 4, 6)
    np.testing.assert_allclose(told["image"], resized(small.astype(np.float32), *SHAPE[:2]), atol=1e-5)
    assert {name: value.shape for name, value in told.items()} == {"image": (4, *SHAPE)}
    assert degradation.conditions(SHAPE)["image"].null(4).shape == told["image"].shape


def test_noise_of_a_level_that_is_told():
    """Uniform up to the greatest; of an image that is 0 everywhere, whose noise is seen alone."""
    many = 200
    degradation = degradations.Superres(factor=2, noise=0.3)
    keys, blank = jax.random.split(jax.random.key(1), many), jnp.zeros((many, 32, 32, 1))
    told = degradation.drawn(keys, blank)
    level = np.asarray(told["noise"])
    assert set(told) == set(degradation.conditions((32, 32, 1))) == {"image", "noise"}
    assert 0 <= level.min() < 0.02 and 0.28 < level.max() <= 0.3 and abs(level.mean() - 0.15) < 0.02
    of_small = np.asarray(told["image"]).std((1, 2, 3))  # by interpolation it becomes less, by the same factor in all
    np.testing.assert_allclose(of_small / level, np.full(many, np.median(of_small / level)), rtol=0.2)
    again = degradation.drawn(keys[50:51], blank[:1])
    np.testing.assert_allclose(again["image"][0], told["image"][50], atol=1e-6)  # of its own key alone
    white = degradation.told(jnp.ones((2, 4, 4, 1)), (8, 8, 1), noise=0.2)
    np.testing.assert_allclose(white["noise"], [0.2, 0.2])
    assert np.abs(degradation.drawn(keys, blank + 1)["image"]).max() < 1.2  # cut off at white, but for the interpolation


def test_colorize_sees_the_grey_of_pillow():
    grey = np.stack([np.asarray(Image.fromarray(x).convert("L")) for x in np.uint8(np.rint((X + 1) * 127.5))])
    told = degradations.Colorize().drawn(KEYS, X)["image"]
    np.testing.assert_allclose(told[..., 0], grey / 127.5 - 1, atol=1.5 / 127.5)


def test_inpaint_sees_what_is_kept_and_where_that_is():
    degradation = degradations.Inpaint()
    told = jax.jit(degradation.drawn)(KEYS, X)["image"]
    kept = ~np.asarray(jax.jit(random_masks.random_masks, static_argnums=1)(KEYS, SHAPE[:2]))
    np.testing.assert_array_equal(told[..., 3], kept)
    np.testing.assert_array_equal(told[..., :3], np.where(kept[..., None], X, 0))
    np.testing.assert_array_equal(degradation.told(X, SHAPE, ~kept)["image"], told)
    made = degradation.completed(jnp.full_like(X, 9.0), {"image": told})
    np.testing.assert_array_equal(made, np.where(kept[..., None], X, 9))


def test_masks_are_boxes_what_is_around_them_and_strokes():
    n, size = 300, (28, 40)
    masks = np.asarray(jax.jit(lambda keys: random_masks.random_masks(keys, size))(jax.random.split(jax.random.key(2), n)))

    def is_box(mask):
        rows, columns = mask.any(1), mask.any(0)
        full = np.array_equal(mask, rows[:, None] & columns)
        return full and all((np.diff(np.flatnonzero(one)) == 1).all() for one in (rows, columns))

    boxes, around = (np.array([is_box(mask) for mask in one]) for one in (masks, ~masks))
    assert all(abs(kind.mean() - 1 / 3) < 0.1 for kind in (boxes, around))
    share = masks.mean((1, 2))
    strokes = share[~(boxes | around)]
    assert len(strokes) > 70 and strokes.min() > 0.005 and 0.1 < strokes.mean() < 0.5 and strokes.max() < 0.9
    hidden = masks[boxes]
    assert hidden[:, 0].any() and hidden[:, -1].any() and hidden[..., 0].any() and hidden[..., -1].any()  # at every border


def test_a_stroke_is_what_is_near_its_line():
    corners = np.array([[3.0, 2.0], [3.0, 12.0], [9.0, 12.0]])
    found = random_masks._distance(jnp.asarray(corners), (14, 16))
    line = np.concatenate([np.linspace(*corners[i : i + 2], 2001) for i in range(2)])
    places = np.stack(np.meshgrid(np.arange(14) + 0.5, np.arange(16) + 0.5, indexing="ij"), -1)
    expected = np.linalg.norm(places[..., None, :] - line, axis=-1).min(-1)
    np.testing.assert_allclose(found, expected, atol=1e-2)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(errors.UserError, match="config.restoration.factor=3 does not divide the 16x24 pixels"):
        degradations.Superres(factor=3).conditions(SHAPE)
    with pytest.raises(errors.UserError, match="config.restoration.name is colorize, and the images have 1 channels"):
        degradations.Colorize().conditions((8, 8, 1))
