"""The importance-weighted bound against numpy, and what it is of."""

from typing import ClassVar

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from configs import autoencoder
from configs import vae
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.data import domains
from imagegen_jax.data import sources
from imagegen_jax.evaluation import bounds
from imagegen_jax.evaluation import evaluator
from imagegen_jax.training import run
from imagegen_jax.training import sharding

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


def test_the_standard_error_is_that_of_the_mean_over_images():
    """Of 100 test images in uneven batches, of numbers that are large beside their differences."""
    test_set = domains.open_domains(sources.Config(), "test")

    def measure(state, batch, rng):
        return {"pixel": 1000 + batch["image"][:, 14, 14, 0] / 255}

    found = evaluator.Evaluator(measure, sharding.make_mesh(8), test_set, 100, 24, 0, standard_errors=True)(None)
    shown = np.concatenate([b["image"][m > 0] for b, m in domains.eval_batches(test_set, 100, 25)])[:, 14, 14, 0] / 255
    assert found["eval/pixel"] == pytest.approx(1000 + shown.mean(), rel=1e-6)
    assert found["eval/pixel_se"] == pytest.approx(shown.std(ddof=1) / 10, rel=1e-3)
    plain = evaluator.Evaluator(measure, sharding.make_mesh(8), test_set, 100, 24, 0)(None)
    assert plain == {"eval/pixel": found["eval/pixel"]}


def test_a_likelihood_is_in_bits_of_a_value():
    class Costs:
        likelihoods: ClassVar[dict[str, int]] = {"bound": 7}

        def likelihood_costs(self, state, batch, rng, kind, samples):
            return {"prior": jnp.full(2, float(samples)), "diffusion": jnp.full(2, 4.0)}

    batch = {"image": np.zeros((2, *SHAPE), np.uint8)}
    for samples, prior in ((None, 7), (3, 3)):
        found = bounds.likelihood(Costs(), "bound", samples)(None, batch, None)
        wanted = {"bits_per_dim_bound": prior + 4, "bits_per_dim_bound_prior": prior, "bits_per_dim_bound_diffusion": 4}
        assert found.keys() == wanted.keys()
        for name, nats in wanted.items():
            np.testing.assert_allclose(found[name], nats / np.log(2) / 16, rtol=1e-6)
    with pytest.raises(errors.UserError, match="--likelihood=exact: choose one of bound"):
        bounds.likelihood(Costs(), "exact")


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"likelihood_samples": 3}, "--likelihood_samples=3: it is of --likelihood"),
        ({"likelihood": "ode", "likelihood_num": 1}, "--likelihood_num is 1: it must be at least 2"),
        ({"importance_samples": 0}, "--importance_samples is 0"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked, error):
    with pytest.raises(errors.UserError, match=error):
        bounds.Asked(**asked).check()


def test_families_without_a_likelihood_have_none():
    with pytest.raises(errors.UserError, match="--importance_samples=3"):
        bounds.importance_weighted(build(autoencoder), 3)
    with pytest.raises(errors.UserError, match="--likelihood=ode: only runs of diffusions"):
        bounds.likelihood(build(autoencoder), "ode")
