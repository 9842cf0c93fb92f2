"""The classifier of noisy images: what it is trained on, and what it makes of it, beside closed forms."""

from collections.abc import Callable

from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

from configs import noisy_classifier as recipe
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import capabilities
from imagegen_jax.algorithms import noisy_classifier
from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import schedules
from imagegen_jax.diffusion import times
from imagegen_jax.training import run

VP = processes.Continuous(schedules.CURVES["cosine"])


def build(shape=(4, 4, 1), classes=2, **changes):
    config = recipe.get_config("smoke")
    config.network.dropout = 0.0
    config.update_from_flattened_dict(changes)
    config_lib.check(config)
    return run.build_algorithm(config, images.Spec(shape, images.unnamed(classes)))


def batch_of(image, label):
    return {"image": image, "condition": {"label": np.asarray(label, np.int32)}, "index": np.arange(len(image), dtype=np.int32)}


class Shown(nn.Module):
    """Logits of one learned number, 1 and 0 for two classes; shows what it is given."""

    show: Callable

    @nn.compact
    def __call__(self, x, log_snr, train=False):
        jax.debug.callback(self.show, x, log_snr)
        one = self.param("one", nn.initializers.ones, ())
        return None, jnp.stack([one, 0 * one]) * jnp.ones((len(x), 1)), None


@pytest.mark.parametrize(
    ("name", "of_log_snr", "mean", "std"),
    [
        ("uniform", lambda log_snr: 2 / np.pi * np.arctan(np.exp(-log_snr / 2)), 0.5, 12**-0.5),  # t of the cosine schedule
        ("log_normal", lambda log_snr: -log_snr / 2, -1.2, 1.2),
    ],
    ids=times.NAMES,
)
def test_a_step_is_the_cross_entropy_of_noisy_images(name, of_log_snr, mean, std):
    shown, n = [], 256
    training = base.Training(optimizer=optax.sgd(1.0), ema_decay=lambda step: 0.5)
    network = Shown(lambda *given: shown.append(tuple(map(np.asarray, given))))
    algorithm = noisy_classifier.NoisyClassifier(network, (4, 4, 1), 2, times.Times(VP, name), training)
    state = algorithm.init(jax.random.key(0))
    image = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 1), np.uint8)
    batch = batch_of(image, np.arange(n) % 4 == 0)  # three quarters are of the class 0
    after, metrics = algorithm.train_step(state, batch, jax.random.key(1))
    measured = algorithm.eval_step(state, batch, jax.random.key(2))
    jax.effects_barrier()
    likely = np.exp(1) / (1 + np.exp(1))
    expected = -np.where(batch["condition"]["label"], np.log(1 - likely), np.log(likely))
    np.testing.assert_allclose(measured["loss"], expected, rtol=1e-5)
    np.testing.assert_array_equal(measured["accuracy"], 1 - batch["condition"]["label"])
    assert float(metrics["loss"]) == pytest.approx(expected.mean(), rel=1e-5) and float(metrics["accuracy"]) == 0.75
    assert float(after.params["classifier"]["one"]) == pytest.approx(1 - (likely - 0.75), rel=1e-4)

    for x, log_snr in shown[-2:]:  # of the step and of the evaluation
        odds = np.exp(log_snr.astype(np.float64))[:, None, None, None]
        eps = (x - np.sqrt(odds / (1 + odds)) * (image / 127.5 - 1)) * np.sqrt(1 + odds)
        assert abs(eps.mean()) < 4 / np.sqrt(eps.size) and abs(eps.std() - 1) < 4 / np.sqrt(2 * eps.size)
        drawn = of_log_snr(log_snr)
        np.testing.assert_allclose((drawn.mean(), drawn.std()), (mean, std), rtol=0.25)


STRIPES = 67 + 120 * np.tile(np.arange(4) % 2, (4, 1))
PATTERNS = np.stack([STRIPES, STRIPES.T])[..., None].astype(np.uint8)


@pytest.fixture(scope="module")
def trained():
    """Of images that are one pattern or the other, so that the posterior is known."""
    algorithm = build(**{"duration": "200 steps", "optimizer.lr": 1e-2, "network.widths": (16,)})
    state, step = jax.jit(algorithm.init)(jax.random.key(0)), jax.jit(algorithm.train_step)
    label = np.arange(64) % 2
    for i in range(200):
        state, _ = step(state, batch_of(PATTERNS[label], label), jax.random.key(i))
    return algorithm, state.with_ema()


def log_odds(x, level):
    """log p(x_t | pattern 1) - log p(x_t | pattern 0), by the normal densities."""
    one, other = (np.square(x - level.alpha * (pattern / 127.5 - 1)).sum((1, 2, 3)) for pattern in (PATTERNS[1], PATTERNS[0]))
    return (other - one) / (2 * level.sigma**2)


@pytest.mark.parametrize(
    "process", [VP, processes.VarianceExploding(), processes.RectifiedFlow()], ids=lambda process: type(process).__name__
)
def test_it_learns_the_posterior_of_noisy_images_of_any_process(trained, process):
    algorithm, state = trained
    rng, log_prob = np.random.default_rng(1), jax.jit(algorithm.log_prob)
    for log_snr in (-4.0, -1.0, 1.0):
        level = process.level(np.float64(process.time(log_snr)))
        label = rng.integers(0, 2, 200)
        x = level.alpha * (PATTERNS[label] / 127.5 - 1) + level.sigma * rng.standard_normal((200, 4, 4, 1))
        expected = 1 / (1 + np.exp(-log_odds(x, level)))
        found = np.exp(log_prob(state, x.astype(np.float32), level, np.ones(200, np.int32)))
        assert np.abs(found - expected).mean() < 0.1, log_snr
        other = np.exp(log_prob(state, x.astype(np.float32), level, np.zeros(200, np.int32)))
        np.testing.assert_allclose(found + other, 1, rtol=1e-5)
    assert np.std(expected) > 0.3  # there was something to tell


def test_images_without_noise_are_classified(trained):
    algorithm, state = trained
    assert isinstance(algorithm, capabilities.Classifies) and isinstance(algorithm, capabilities.ClassifiesNoisy)
    features, logits = algorithm.classify(state, PATTERNS)
    assert features.shape == (2, 16) and logits.argmax(1).tolist() == [0, 1]


def test_evaluation_depends_on_the_image_and_its_index_alone(trained):
    algorithm, state = trained
    label = np.arange(8) % 2
    batch = batch_of(PATTERNS[label], label)
    part = jax.tree.map(lambda rows: rows[5:7], batch)
    whole, some = (jax.jit(algorithm.eval_step)(state, each, jax.random.key(0)) for each in (batch, part))
    np.testing.assert_allclose(some["loss"], whole["loss"][5:7], rtol=1e-4, atol=1e-6)
    assert len(np.unique(whole["loss"])) == 8  # other noise for each


def test_images_without_labels_are_refused():
    with pytest.raises(errors.UserError, match="no labels"):
        build(classes=0)
