"""The classifier that judges generated images, and its weights that come with the package."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import classifier as recipe
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.data import domains
from imagegen_jax.evaluation import features
from imagegen_jax.training import run
from imagegen_jax.training import sharding


def build(shape=(8, 8, 1), classes=3, **changes):
    config = recipe.get_config("smoke")
    config.network.dropout = 0.0
    config.update_from_flattened_dict(changes)
    config_lib.check(config)
    return run.build_algorithm(config, {"": images.Spec(shape, images.unnamed(classes))})


def batch_of(image, label):
    return {"image": image, "label": np.asarray(label, np.int32), "index": np.arange(len(image), dtype=np.int32)}


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


def test_pieces_of_a_batch_have_its_gradient():
    rng = np.random.default_rng(0)
    batch = batch_of(rng.integers(0, 256, (8, 8, 8, 1), np.uint8), rng.integers(3, size=8))
    whole = build()
    pieces = dataclasses.replace(whole, accumulate=4)
    state = jax.jit(whole.init)(jax.random.key(0))
    ours, theirs = (jax.jit(one.train_step)(state, batch, jax.random.key(1))[1] for one in (pieces, whole))
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, err_msg=name)


def test_images_without_labels_are_refused():
    with pytest.raises(errors.UserError, match="no labels"):
        build(classes=0)


def test_a_request_for_samples_is_refused():
    with pytest.raises(errors.UserError, match="experiments.evaluate"):
        build().check_request(None)


def test_the_packaged_weights_know_the_bundled_images():
    """That is what makes their features and decisions worth something: 10 % would be chance."""
    network = features.named("fashion")
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(network.variables))
    assert size < 1e6 and network.shape == (28, 28, 1) and len(network.class_names) == 10
    test_set = domains.open_domains(config_lib.common().data, "test")
    extractor = features.Extractor(network, sharding.make_mesh(8), 200)
    hits = []
    for batch, _ in domains.eval_batches(test_set, 1000, 500):
        found, logits = extractor(batch["image"])
        assert found.dtype == np.float32 and np.isfinite(found).all()
        hits.append(logits.argmax(1) == batch["label"])
    assert np.mean(hits) > 0.85
