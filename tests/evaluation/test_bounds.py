"""The importance-weighted bound against numpy, and what it is of."""

import jax
import numpy as np
import pytest

from configs import autoencoder
from configs import vae
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.evaluation import bounds
from imagegen_jax.training import run

SHAPE = (4, 4, 1)


def build(recipe):
    config = recipe.get_config("smoke")
    config.network.name = "dense"
    config.network.latent = 2
    return run.build_algorithm(config, images.Spec(SHAPE))


def test_it_is_the_log_of_the_mean_weight():
    algorithm, key = build(vae), jax.random.key(1)
    state = algorithm.init(jax.random.key(0))
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8),
        "condition": {"label": np.zeros(3, np.int32)},
        "index": np.arange(3, dtype=np.int32),
    }
    weights = np.stack([jax.jit(algorithm.log_importance_weights)(state, batch, key, sample) for sample in range(5)]).astype(
        np.float64
    )
    assert (weights.std(0) > 0).all()
    for samples in (1, 5):
        found = jax.jit(bounds.importance_weighted(algorithm, samples))(state, batch, key)
        expected = np.log(np.exp(weights[:samples] - weights.max()).mean(0)) + weights.max()
        np.testing.assert_allclose(found[f"log_likelihood_iw{samples}"], expected, rtol=1e-5)
        np.testing.assert_allclose(found[f"bits_per_dim_iw{samples}"], -expected / np.log(2) / 16, rtol=1e-5)


def test_families_without_a_likelihood_have_none():
    with pytest.raises(errors.UserError, match="--importance_samples=3"):
        bounds.importance_weighted(build(autoencoder), 3)
