"""Adversarial losses against their formulas, and finite where a naive form is not."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax.adversarial import losses

LOGITS = np.array([-80.0, -3.0, -0.5, 0.0, 0.5, 3.0, 80.0])


def log_sigmoid(x):
    """log(1 / (1 + e^-x)) in a form that float64 holds for |x| <= 80."""
    return -np.logaddexp(0.0, -x)


FORMULAS = {  # real, fake, generator
    "minimax": (lambda r: -log_sigmoid(r), lambda f: -log_sigmoid(-f), lambda f: log_sigmoid(-f)),
    "non_saturating": (lambda r: -log_sigmoid(r), lambda f: -log_sigmoid(-f), lambda f: -log_sigmoid(f)),
    "least_squares": (lambda r: (r - 1) ** 2, lambda f: f**2, lambda f: (f - 1) ** 2),
    "hinge": (lambda r: np.maximum(0, 1 - r), lambda f: np.maximum(0, 1 + f), lambda f: -f),
    "wasserstein": (lambda r: -r, lambda f: f, lambda f: -f),
}


def test_every_loss_is_tested():
    assert FORMULAS.keys() == losses.ADVERSARIAL.keys()


@pytest.mark.parametrize("name", FORMULAS)
def test_terms_are_their_formulas_with_finite_gradients(name):
    terms = losses.ADVERSARIAL[name]
    for ours, formula in zip((terms.real, terms.fake, terms.generator), FORMULAS[name]):
        np.testing.assert_allclose(ours(jnp.asarray(LOGITS, jnp.float32)), formula(LOGITS), rtol=1e-6, atol=1e-30)
        h = 1e-4
        gradient = (formula(LOGITS + h) - formula(LOGITS - h)) / (2 * h)
        got = jax.vmap(jax.grad(lambda x, ours=ours: ours(x).sum()))(jnp.asarray(LOGITS, jnp.float32))
        np.testing.assert_allclose(got, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("amount", [0.0, 0.2])
@pytest.mark.parametrize("name", FORMULAS)
def test_the_decision_boundary_is_the_best_logit_of_an_image_as_likely_real_as_generated(name, amount):
    """Found by search in the sum of both terms; with none, the sum of them is the same at all logits."""
    if amount and name not in losses.SMOOTHED:
        return
    terms = losses.adversarial(name, amount)
    logits = np.linspace(-4, 4, 8001).astype(np.float32)
    both = np.asarray(terms.real(logits) + terms.fake(logits), np.float64)
    if terms.boundary is None:
        assert np.ptp(both) == 0 and name not in losses.BOUNDED
    else:
        best = logits[both <= both.min() + 1e-7]
        assert best.mean() == pytest.approx(terms.boundary, abs=0.01)


def test_only_the_non_saturating_generator_learns_where_the_discriminator_is_sure():
    at = jnp.float32(-80.0)
    assert jax.grad(losses.ADVERSARIAL["non_saturating"].generator)(at) == -1
    assert abs(jax.grad(losses.ADVERSARIAL["minimax"].generator)(at)) < 1e-30
