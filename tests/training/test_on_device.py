"""Images that stay on the devices, and several steps a call: the same training."""

import dataclasses

import chex
import jax
import numpy as np
from PIL import Image
import pytest
import whole_runs

from configs import vae
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax.api import runs
from imagegen_jax.data import domains
from imagegen_jax.training import on_device
from imagegen_jax.training import sharding


@pytest.fixture
def config():
    """Of a few steps whose compilation takes a second or two."""
    config = vae.get_config("smoke")
    config.network.name, config.network.widths = "dense", (8,)
    config.data.train_split = "train[:150]"
    config.batch_size, config.duration, config.log.every = 16, "12 steps", "1 steps"
    config.checkpoint.every, config.sample.every, config.eval.every = "5 steps", "0 steps", "0 steps"
    return config


def test_it_is_the_same_training_in_the_same_bits(config, tmp_path):
    for choice in ("never", "always"):
        config.data.on_device = choice
        runs.train(config, tmp_path / choice)
    whole_runs.assert_same_training(tmp_path / "always", tmp_path / "never")


def test_several_steps_a_call_are_the_same_training_and_in_the_same_bits_after_a_stop(config, tmp_path):
    runs.train(config, tmp_path / "one")
    config.steps_per_call, config.log.every = 4, "6 steps"  # calls end at 4, 5, 6, 8, 10, 12
    runs.train(config, tmp_path / "several")
    (ours, at), (theirs, there) = (whole_runs.final(tmp_path / name) for name in ("several", "one"))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert at == there
    config.duration, config.optimizer.on_new_duration = "10 steps", "continue"
    runs.train(config, tmp_path / "stopped")
    config.duration = "12 steps"
    runs.train(config, tmp_path / "stopped")
    whole_runs.assert_same_training(tmp_path / "stopped", tmp_path / "several")


@pytest.fixture
def pictures(tmp_path):
    """A folder of 40 images in two classes, one of which cannot be read."""
    rng = np.random.default_rng(0)
    for i in range(40):
        path = tmp_path / "pictures" / "train" / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).save(path)
    (tmp_path / "pictures" / "train" / "a" / "20.png").write_bytes(path.read_bytes()[:-30])
    return tmp_path / "pictures"


@pytest.mark.parametrize("two_sets", [False, True])
def test_batches_are_those_of_the_host(config, pictures, two_sets):
    """Of one set of images or of two, with the successor of one that cannot be read in its place, and its label."""
    data = dict(source=f"folder:{pictures}", on_bad_image="skip", on_device="always")
    data = (
        domains.PairConfig(**data, train_split_a="train", train_split_b="train") if two_sets else domains.sources.Config(**data)
    )
    experiment = dataclasses.replace(config_lib.typed(config), data=data)
    mesh = sharding.make_mesh(16)
    host = domains.open_domains(data, "train")
    device, arrays = on_device.kept(experiment, domains.open_domains(data, "train"), 1, mesh)
    gathered = jax.jit(domains.gathered)
    streams = [domains.train_batches(opened, experiment, 0) for opened in (host, device)]
    for _, expected, rows in zip(range(3), *streams):
        assert not any("image" in part for part in (rows.values() if two_sets else [rows]))
        found = gathered(sharding.put_batch(mesh, rows), arrays)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), expected)
    assert domains.skipped(device) == domains.skipped(host) == (2 if two_sets else 1)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), domains.abstract_batch(device, 16, None))
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), rows)


def test_few_steps_read_fewer_images_than_all(config):
    experiment, mesh = config_lib.typed(config), sharding.make_mesh(16)
    train_set = domains.open_domains(experiment.data, "train")  # 150 images
    assert on_device.kept(experiment, train_set, 9, mesh) == (train_set, {})  # 144 of them
    assert set(on_device.kept(experiment, train_set, 10, mesh)[1]) == {"image"}
    never = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, on_device="never"))
    assert on_device.kept(never, train_set, 10, mesh) == (train_set, {})


def test_more_than_the_memory_is_refused(config, monkeypatch):
    monkeypatch.setattr(on_device.files, "memory", lambda: 100_000)  # 150 images of 784 bytes
    config.data.on_device = "always"
    experiment = config_lib.typed(config)
    with pytest.raises(errors.UserError, match="config.data.on_device is 'always', and the training images take 0 GB"):
        on_device.kept(experiment, domains.open_domains(experiment.data, "train"), 1, sharding.make_mesh(16))
