"""Operators against their matrices, and against Pillow and SciPy."""

import jax
from jax import numpy as jnp
import numpy as np
from PIL import Image
import pytest
import scipy.ndimage

from imagegen_jax.diffusion import linear_operators

SHAPE = (6, 8, 3)
KEPT = np.random.default_rng(0).random((2, *SHAPE[:2])) < 0.4
OPERATORS = {
    "masking": linear_operators.masking(KEPT, SHAPE[-1]),
    "averaging": linear_operators.averaging(SHAPE, 2),
    "luminance": linear_operators.luminance(SHAPE),
    "blurring": linear_operators.blurring(SHAPE, 1.3),
}


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("name", OPERATORS)
def test_transpose_and_pseudo_inverse(name):
    a = OPERATORS[name]
    x, y = normal(0, 2, *SHAPE), normal(1, 2, *a.observed_shape(SHAPE))
    image, back = linear_operators.apply(a, x), linear_operators.pseudo_inverse(a, y)
    assert image.shape == y.shape and back.shape == x.shape
    for left, right in (
        ((image * y).sum((1, 2, 3)), (x * linear_operators.transpose(a, y)).sum((1, 2, 3))),  # <A x, y> = <x, A^T y>
        (linear_operators.apply(a, linear_operators.pseudo_inverse(a, image)), image),  # A A^+ A = A
        (linear_operators.pseudo_inverse(a, linear_operators.apply(a, back)), back),  # A^+ A A^+ = A^+
        (linear_operators.apply(a, linear_operators.projected(a, x, image[::-1])), image[::-1])
        if name != "masking"
        else (linear_operators.projected(a, x, image), x),
    ):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-3 * float(jnp.abs(right).max()))
    matrix = np.stack(
        [linear_operators.apply(a, one[None].repeat(2, 0))[0].ravel() for one in np.eye(144).reshape(-1, *SHAPE)], 1
    )
    back = linear_operators.pseudo_inverse(a, y)[0].ravel()
    wanted = np.linalg.pinv(np.asarray(matrix, np.float64), rcond=0.005) @ np.asarray(y[0].ravel(), np.float64)
    np.testing.assert_allclose(back, wanted, atol=2e-3 * np.abs(wanted).max())
    assert a.least == pytest.approx(float(np.min(a.singular[a.singular > 0])))


def test_they_do_what_they_are_called():
    image = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    x = jnp.asarray(image, jnp.float32)[None]
    grey = linear_operators.apply(OPERATORS["luminance"], x)[0, ..., 0]
    np.testing.assert_allclose(grey, np.asarray(Image.fromarray(image).convert("L")), atol=1.01)
    small = linear_operators.apply(OPERATORS["averaging"], x)[0]
    np.testing.assert_allclose(small, image.reshape(3, 2, 4, 2, 3).mean((1, 3)), rtol=1e-4)
    smooth = linear_operators.apply(OPERATORS["blurring"], x)[0]
    wanted = scipy.ndimage.gaussian_filter(image.astype(np.float64), (1.3, 1.3, 0), mode="reflect", radius=6)
    assert np.abs(smooth - wanted).max() < 255 * 0.01
    hidden = linear_operators.apply(OPERATORS["masking"], x)
    np.testing.assert_array_equal(hidden, np.where(KEPT[..., None], image, 0))
