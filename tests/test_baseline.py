"""Baselines against numpy: counts, frequencies, code lengths, principal components."""

import importlib

import chex
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import rng
from imagegen_jax.training import checkpoint
from imagegen_jax.training import run
from imagegen_jax.training import sharding

SHAPE = (4, 3, 2)
NAMES = ("random", "histogram", "templates")


def build(name, templates=4, shape=SHAPE):
    config = importlib.import_module("configs.baseline").get_config("smoke")
    config.baseline.name = name
    config.baseline.templates = templates
    return run.build_algorithm(config, images.Spec(shape))


def batch_of(image, devices=1):
    """The rows of a batch, split over so many devices."""
    mesh = sharding.make_mesh(devices, devices=jax.devices()[:devices])
    index = np.arange(len(image), dtype=np.int32)
    return sharding.put_batch(mesh, {"image": image, "condition": {"label": np.zeros_like(index)}, "index": index})


def train(algorithm, batches, state=None, devices=1):
    """(losses, state) after these batches of images."""
    mesh = sharding.make_mesh(devices, devices=jax.devices()[:devices])
    state = jax.device_put(algorithm.init(jax.random.key(0)) if state is None else state, sharding.replicated(mesh))
    step = jax.jit(algorithm.train_step)
    losses = []
    for image in batches:
        state, metrics = step(state, batch_of(image, devices), jax.random.key(1))
        losses.append(float(metrics["loss"]))
    return losses, state


def draw(algorithm, state, index, seed=0):
    keys = rng.per_index(jax.random.key(seed), jnp.asarray(index))
    return jax.jit(algorithm.sample, static_argnums=3)(state, keys, {}, algorithm.Request())


def noise_images(n, seed=0):
    """(n, *SHAPE) uint8 of ten grey levels, unequally often and differently at each pixel."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 256, (10, *SHAPE))
    which = np.minimum(rng.geometric(0.3, (n, *SHAPE)) - 1, 9)
    return np.take_along_axis(levels, which, 0).astype(np.uint8)


def low_rank_images(n, seed=0):
    """(n, *SHAPE) uint8 that are exactly a base image and whole-numbered combinations of three templates."""
    rng = np.random.default_rng(seed)
    templates = rng.integers(-4, 5, (3, *SHAPE))
    coefficients = rng.integers(0, 4, (n, 3)) @ np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1]])  # correlated
    return (128 + np.tensordot(coefficients, templates, 1)).astype(np.uint8)


@pytest.mark.parametrize("sizes", [(60,), (8, 24, 28), (1,) * 60], ids=str)
def test_counts_are_numpys_whatever_the_batches(sizes):
    image = noise_images(60)
    _, state = train(build("histogram"), np.split(image, np.cumsum(sizes)[:-1]))
    expected = [np.bincount(values, minlength=256) for values in image.reshape(60, -1).T]
    np.testing.assert_array_equal(state.extra["counts"], np.reshape(expected, (*SHAPE, 256)))
    assert state.step == len(sizes)


def test_histogram_draws_as_often_as_it_saw():
    image, n = noise_images(50), 4000
    algorithm = build("histogram")
    _, state = train(algorithm, [image])
    drawn = images.to_uint8(draw(algorithm, state, np.arange(n)))
    values = np.arange(256)[:, None, None, None, None]
    seen, got = ((np.asarray(x) == values).mean(1) for x in (image, drawn))
    assert np.all(got[seen == 0] == 0)
    # At 5 standard deviations and some 240 frequencies, one seed in 7,000 leaves the band.
    assert np.all(np.abs(got - seen) <= 5 * np.sqrt(seen * (1 - seen) / n))
    # Pixels are independent: the covariance of two is 0.
    flat = np.asarray(drawn, float).reshape(n, -1)
    correlations = np.corrcoef(flat.T)[np.triu_indices(flat.shape[1], 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(n)


def test_random_pixels_are_uniform():
    algorithm, n = build("random"), 4000
    _, state = train(algorithm, [noise_images(8)])
    drawn = np.asarray(images.to_uint8(draw(algorithm, state, np.arange(n))))
    frequency = np.bincount(drawn.ravel(), minlength=256) / drawn.size
    assert np.abs(frequency - 1 / 256).max() < 5 * np.sqrt(1 / 256 / drawn.size)
    assert np.abs(drawn.mean(0) - 127.5).max() < 5 * 73.9 / np.sqrt(n)


def test_uniform_pixels_cost_eight_bits():
    image = noise_images(8)
    for name in ("random", "histogram"):  # before it has counted anything
        algorithm = build(name)
        loss = algorithm.eval_step(algorithm.init(jax.random.key(0)), batch_of(image), jax.random.key(0))["loss"]
        assert loss.shape == (8,)
        np.testing.assert_allclose(loss, 8.0, rtol=0 if name == "random" else 1e-6)


def test_bits_are_those_of_the_counted_frequencies():
    seen, new = noise_images(40), noise_images(16, seed=1)
    algorithm = build("histogram")
    losses, state = train(algorithm, [seen, new])
    bits = np.zeros(16)
    for i in np.ndindex(SHAPE):
        frequency = (np.bincount(seen[:, *i], minlength=256) + 1) / (40 + 256)
        bits -= np.log2(frequency[new[:, *i]]) / np.prod(SHAPE)
    np.testing.assert_allclose(losses, [8.0, bits.mean()], rtol=1e-5)  # of each batch before it is counted
    before = state.replace(extra=train(algorithm, [seen])[1].extra)
    np.testing.assert_allclose(algorithm.eval_step(before, batch_of(new), None)["loss"], bits, rtol=1e-5)


@pytest.mark.parametrize("sizes", [(96,), (8, 24, 64), (4,) * 24], ids=str)
@pytest.mark.parametrize("templates", [3, 5])
def test_templates_find_low_rank_images_exactly(templates, sizes):
    """Mean, covariance and reconstruction are numpy's whatever the batches, also with more templates than there are."""
    image = low_rank_images(96)
    algorithm = build("templates", templates)
    _, state = train(algorithm, np.split(image, np.cumsum(sizes)[:-1]))
    x = image.reshape(96, -1) / 127.5 - 1
    memory = {name: np.asarray(value, float) for name, value in state.extra.items()}
    assert memory["count"] == 96
    np.testing.assert_allclose(memory["mean"].ravel(), x.mean(0), atol=1e-6)
    basis = memory["templates"].reshape(templates, -1)
    np.testing.assert_allclose(basis @ basis.T, np.eye(templates), atol=1e-5)
    covariance = basis.T @ np.diag(memory["scale"] ** 2 / 96) @ basis
    np.testing.assert_allclose(covariance, np.cov(x.T, bias=True), atol=1e-6)

    others = low_rank_images(128)[96:]  # other coefficients of the same templates
    loss = algorithm.eval_step(state, batch_of(others), None)["loss"]
    assert loss.shape == (32,) and np.max(loss) < 1e-9 < 1e-3 * np.var(x)
    foreign = algorithm.eval_step(state, batch_of(noise_images(8)), None)["loss"]
    assert np.min(foreign) > 0.1


def test_template_draws_have_the_covariance_of_the_images():
    image, n = low_rank_images(96), 20000
    algorithm = build("templates", 3)
    _, state = train(algorithm, [image])
    drawn = np.asarray(draw(algorithm, state, np.arange(n)), float).reshape(n, -1)
    assert np.abs(drawn).max() < 1  # nothing was clipped
    x = image.reshape(96, -1) / 127.5 - 1
    covariance = np.cov(x.T, bias=True)
    variances = np.diag(covariance)
    deviation = np.sqrt((np.outer(variances, variances) + covariance**2) / n)  # of a Gaussian's sample covariance
    assert np.all(np.abs(np.cov(drawn.T) - covariance) <= 5 * deviation + 1e-9)
    assert np.all(np.abs(drawn.mean(0) - x.mean(0)) <= 5 * np.sqrt(variances / n) + 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_image_depends_on_key_and_index_alone(name):
    algorithm = build(name)
    _, state = train(algorithm, [noise_images(16)])
    whole = np.asarray(draw(algorithm, state, np.arange(8)))
    assert whole.shape == (8, *SHAPE) and whole.dtype == np.float32 and np.abs(whole).max() <= 1
    assert len({image.tobytes() for image in whole}) == 8
    np.testing.assert_allclose(draw(algorithm, state, [6, 2, 3]), whole[[6, 2, 3]], atol=1e-6)
    assert np.abs(draw(algorithm, state, np.arange(8), seed=1) - whole).max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_eight_devices_learn_the_same_and_a_checkpoint_continues_in_the_same_bits(name, tmp_path):
    batches = np.split(noise_images(48), 3)
    algorithm = build(name)
    losses, straight = train(algorithm, batches)
    losses_of_eight, state = train(algorithm, batches, devices=8)
    np.testing.assert_allclose(losses_of_eight, losses, rtol=1e-6)
    # Not the templates one by one, whose signs are free, but the images that they draw.
    np.testing.assert_allclose(draw(algorithm, state, np.arange(8)), draw(algorithm, straight, np.arange(8)), atol=1e-5)

    _, half = train(algorithm, batches[:2])
    with checkpoint.Checkpointer(tmp_path / "checkpoints") as checkpointer:
        checkpointer.save(half, checkpoint.Position(2, 0.0, 48, ""))
    mesh = sharding.make_mesh(1, devices=jax.devices()[:1])
    reader = checkpoint.Checkpointer(tmp_path / "checkpoints", read_only=True)
    restored, _ = reader.restore(None, run.abstract_state(algorithm, mesh, (), 0))
    _, resumed = train(algorithm, batches[2:], restored)
    chex.assert_trees_all_equal(jax.device_get(resumed), jax.device_get(straight))


@pytest.mark.parametrize(("key", "value"), [("name", "uniform"), ("templates", 0)])
def test_impossible_values_are_named(key, value):
    config = config_lib.default("baseline")
    config.baseline[key] = value
    with pytest.raises(errors.UserError, match=f"config.baseline.{key} is"):
        config_lib.check(config)


def test_no_more_templates_than_values():
    build("templates", 24).init(jax.random.key(0))
    with pytest.raises(errors.UserError, match="config.baseline.templates is 25: it can be at most 24"):
        build("templates", 25)
