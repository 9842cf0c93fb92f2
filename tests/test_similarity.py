"""Similarities of images, by hand."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax import similarity


def test_scores_of_translations():
    """L1 and PSNR by hand; SSIM is 1 of an image with itself."""
    rng = np.random.default_rng(0)
    truth = jnp.asarray(rng.uniform(-0.8, 0.8, (3, 16, 16, 1)), jnp.float32)
    scores = similarity.scores(truth + 0.2, truth)
    np.testing.assert_allclose(scores["l1"], 0.1, rtol=1e-5)
    np.testing.assert_allclose(scores["psnr"], 20.0, rtol=1e-5)
    np.testing.assert_allclose(similarity.scores(truth, truth)["ssim"], 1.0, atol=1e-6)
    assert (similarity.scores(-truth, truth)["ssim"] < 0).all()


def test_errors_of_reconstructions_by_hand():
    image = np.random.default_rng(0).integers(0, 250, (2, 12, 12, 3), np.uint8)
    made = image.copy()
    made[1] += 3
    squared, psnr = similarity.reconstruction_errors(image, made)
    np.testing.assert_allclose(squared, [0, (3 / 127.5) ** 2])
    assert psnr[0] == np.inf and psnr[1] == pytest.approx(20 * np.log10(255 / 3))


def test_perceptual_distance_is_of_directions():
    """0 of the same direction, 2 of orthogonal ones and 4 of opposite ones, averaged over places and added up over levels."""
    x = np.zeros((1, 1, 2, 2), np.float32)
    x[..., 0] = 3.0
    y = np.zeros_like(x)
    y[0, 0, 0, 1], y[0, 0, 1, 0] = 0.5, -7.0
    np.testing.assert_allclose(similarity.perceptual([x], [2 * x]), [0], atol=1e-6)
    np.testing.assert_allclose(similarity.perceptual([x, x], [y, x]), [(2 + 4) / 2], rtol=1e-5)
    weights = [np.array([0.5, 3.0], np.float32), np.zeros(2, np.float32)]
    np.testing.assert_allclose(similarity.perceptual([x, x], [y, x], weights), [(0.5 + 3 + 4 * 0.5) / 2], rtol=1e-5)
    np.testing.assert_allclose(similarity.perceptual([x], [y], weights[1:]), [0], atol=1e-6)
    gradient = jax.grad(lambda x: similarity.perceptual([x], [y]).sum())(jnp.zeros_like(x))
    assert np.isfinite(gradient).all()
