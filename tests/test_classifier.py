"""The classifier that judges generated images, and its weights that come with the package."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from scipy import ndimage

from configs import classifier as recipe
from imagegen_jax import config as config_lib
from imagegen_jax import degradation
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.data import domains
from imagegen_jax.data import sources
from imagegen_jax.evaluation import features
from imagegen_jax.generation import latents
from imagegen_jax.networks import classifier as networks
from imagegen_jax.training import run
from imagegen_jax.training import sharding


def build(shape=(8, 8, 1), classes=3, **changes):
    config = recipe.get_config("smoke")
    config.network.dropout = 0.0
    config.update_from_flattened_dict(changes)
    config_lib.check(config)
    return run.build_algorithm(config, images.Spec(shape, images.unnamed(classes)))


def batch_of(image, label):
    return {"image": image, "condition": {"label": np.asarray(label, np.int32)}, "index": np.arange(len(image), dtype=np.int32)}


def test_it_learns_what_can_be_told_apart():
    """Three classes of stripes: across, down, none."""
    rng = np.random.default_rng(0)
    stripes = 60 * (np.arange(8) % 2)
    patterns = np.stack([np.tile(stripes[:, None], (1, 8)), np.tile(stripes, (8, 1)), np.full((8, 8), 30)])

    def draw(n):
        label = rng.integers(3, size=n)
        return batch_of((patterns[label] + rng.integers(0, 60, (n, 8, 8)))[..., None].astype(np.uint8), label)

    algorithm = build(**{"duration": "80 steps", "optimizer.lr": 1e-2})
    state = jax.jit(algorithm.init)(jax.random.key(0))
    step = jax.jit(algorithm.train_step)
    for i in range(80):
        state, _ = step(state, draw(32), jax.random.key(i))
    held_out = jax.jit(algorithm.eval_step)(state.with_ema(), draw(64), jax.random.key(0))
    assert held_out["accuracy"].shape == held_out["loss"].shape == (64,)
    assert held_out["accuracy"].mean() > 0.9 > 0.5 > held_out["loss"].mean()


def test_the_blur_is_a_gaussian():
    image = np.random.default_rng(0).uniform(0, 255, (4, 12, 9, 2)).astype(np.float32)
    deviation = np.array([0, 0.4, 0.7, 1], np.float32)
    wanted = [ndimage.gaussian_filter(x, (s, s, 0), radius=5) if s else x for x, s in zip(image, deviation)]
    np.testing.assert_allclose(jax.jit(degradation.blur)(image, deviation), wanted, rtol=1e-4)


def test_the_targets_say_how_much_blur_and_noise_there_is():
    """Of flat images only the noise is seen, whatever the blur."""
    degrade = jax.jit(degradation.degrade, static_argnames="share")
    flat = np.full((64, 24, 24, 1), 128, np.uint8)
    degraded, targets = degrade(jax.random.key(0), flat, share=0.5)
    assert degraded.dtype == np.uint8 and targets.shape == (64, 2)
    blur, noise = 1.2 * targets[:, 0], 4 * np.expm1(targets[:, 1] * np.log1p(10))
    rounding = np.where(noise > 0, 1 / 12, 0)
    np.testing.assert_allclose(degraded.std((1, 2, 3)), np.sqrt(noise**2 + rounding), rtol=0.15)
    for drawn, low, high in ((noise, 1, 40), (blur, 0.3, 1.2)):
        chosen = drawn[drawn > 0]
        assert 16 < len(chosen) < 48 and low * 0.999 <= chosen.min() < chosen.max() <= high * 1.001
    edge = np.repeat(np.arange(24) // 12 * 200, 24).reshape(1, 24, 24, 1).astype(np.uint8).repeat(64, 0)
    degraded, targets = degrade(jax.random.key(1), edge, share=0.5)
    changed = (degraded != edge).any((1, 2, 3))
    np.testing.assert_array_equal(changed, targets.any(1))


def test_features_of_every_level():
    """They hold those of the last level, which with the logits are what they were; the others are sums of their level's map."""
    image = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 1)).astype(np.float32)
    one = networks.Classifier(4, (8, 16))
    every = networks.Classifier(4, (8, 16), multiscale=True)
    variables = jax.jit(one.init)(jax.random.key(0), image)
    last, logits, _ = jax.jit(one.apply)(variables, image)
    (features, same, estimates), found = jax.jit(functools.partial(every.apply, capture_intermediates=True))(variables, image)
    assert features.shape == (3, 24) and estimates.shape == (3, 0)
    np.testing.assert_allclose(logits, same, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features[:, 8:], last, rtol=1e-5)
    first = np.maximum(found["intermediates"]["GroupNorm_1"]["__call__"][0], 0)  # 8x8, where the last is 4x4
    np.testing.assert_allclose(features[:, :8], 2 * first.mean((1, 2)), rtol=1e-6)


def test_detail_is_what_differs_from_the_neighbours():
    image = np.full((1, 6, 6, 2), 0.25, np.float32)
    image[0, 2, 3, 1] += 0.09
    found = networks.detail(image, 0.1)
    wanted = np.zeros(image.shape)
    wanted[0, 1:4, 2:5, 1] = -0.1
    wanted[0, 2, 3, 1] = 0.8
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(networks.detail(image, 0.04)[0, 2, 3, 1], 1)


def test_a_run_from_before_degradation_has_its_old_network():
    config = config_lib.default("classifier").unlock()
    del config.network.multiscale, config.network.detail, config.classifier.degradation
    algorithm = run.build_algorithm(*run.from_json(run.to_json(config, images.Spec((8, 8, 1), images.unnamed(3)))))
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    layers = {f"{name}_{i}" for name in ("Conv", "GroupNorm") for i in range(6)} | {"Dense_0"}
    assert set(state.params["classifier"]) == layers and not state.extra
    shapes = jax.eval_shape(algorithm.network.apply, {"params": state.params["classifier"]}, np.zeros((2, 8, 8, 1), np.float32))
    assert [each.shape for each in shapes] == [(2, 96), (2, 3), (2, 0)]


def test_pieces_of_a_batch_have_its_gradient():
    rng = np.random.default_rng(0)
    batch = batch_of(rng.integers(0, 256, (8, 8, 8, 1), np.uint8), rng.integers(3, size=8))
    whole = build()
    pieces = dataclasses.replace(whole, training=dataclasses.replace(whole.training, accumulate=4))
    state = jax.jit(whole.init)(jax.random.key(0))
    ours, theirs = (jax.jit(one.train_step)(state, batch, jax.random.key(1))[1] for one in (pieces, whole))
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, err_msg=name)


def test_images_without_labels_are_refused():
    with pytest.raises(errors.UserError, match="no labels"):
        build(classes=0)


def test_a_request_for_samples_is_refused():
    with pytest.raises(errors.UserError, match="experiments.evaluate"):
        latents.check_draws(build())


def test_the_packaged_weights_know_the_bundled_images():
    """That is what makes their features and decisions worth something: 10 % would be chance."""
    network = features.named("fashion")
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(network.variables))
    assert size < 1e6 and network.shape == (28, 28, 1) and len(network.class_names) == 10
    test_set = domains.open_domains(sources.Config(), "test")
    extractor = features.Extractor(network, sharding.make_mesh(8), 200)
    hits = []
    for batch, _ in domains.eval_batches(test_set, 1000, 500):
        found, logits = extractor(batch["image"])
        assert found.dtype == np.float32 and np.isfinite(found).all()
        hits.append(logits.argmax(1) == batch["condition"]["label"])
    assert np.mean(hits) > 0.85


def test_a_network_without_levels_is_refused():
    with pytest.raises(errors.UserError, match=r"config.network.widths is \(\): give one at least"):
        build(**{"network.widths": ()})
