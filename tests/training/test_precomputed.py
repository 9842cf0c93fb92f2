"""Latents and codes that are computed before the training: the same training, without images."""

import json

import numpy as np
import pytest

from configs import kl_autoencoder
from configs import latent_diffusion
from configs import vqvae
from configs import vqvae_prior
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.api import runs
from imagegen_jax.data import fashion_mnist_10k
from imagegen_jax.training import checkpoint
from imagegen_jax.training import run

pytestmark = pytest.mark.recipes  # each trains a few times
SPEC = images.Spec((28, 28, 1), fashion_mnist_10k.CLASSES)


@pytest.fixture(scope="module", params=["posterior", "codes"])
def recipe(request, tmp_path_factory, save_untrained):
    """(config of what stands on a run, what is kept of its images)."""
    folder = tmp_path_factory.mktemp("first")
    if request.param == "posterior":
        first, config = kl_autoencoder.get_config("smoke"), latent_diffusion.get_config("smoke")
        first.network.channels, first.network.groups, first.autoencoder.perceptual = 4, 2, 0.0
        config.network.update(channels=8, multipliers=(1,))
    else:
        first, config = vqvae.get_config("smoke"), vqvae_prior.get_config("smoke")
        first.network.widths, first.network.groups = (4, 4), 2
    save_untrained(folder, first, SPEC)
    config.first_stage.workdir = str(folder)
    config.data.train_split = "train[:150]"
    config.duration, config.checkpoint.every, config.log.every = "4 steps", "2 steps", "1 steps"
    config.sample.every, config.eval.every = "0 steps", "0 steps"
    return config, request.param


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_it_is_the_same_training(recipe, tmp_path):
    """As of images to rounding, and in the same bits after a stop, also without the file."""
    config, kept = recipe[0].copy_and_resolve_references(), recipe[1]
    runs.train(config, tmp_path / "images")
    config.first_stage.precompute = True
    runs.train(config, tmp_path / "whole")
    np.testing.assert_allclose(losses(tmp_path / "whole"), losses(tmp_path / "images"), rtol=1e-5)
    (file,) = (tmp_path / "whole" / "precomputed").glob("*/*.npy")
    rows = np.load(file)
    assert file.stem == kept and len(rows) == 150 and np.any(rows != rows[0])
    if kept == "codes":
        return
    config.duration = "2 steps"
    runs.train(config, tmp_path / "stopped")
    (other,) = (tmp_path / "stopped" / "precomputed").glob("*/*.npy")
    np.testing.assert_array_equal(np.load(other), rows)
    other.parent.rename(other.parent.parent / ".rest")  # of one who was killed
    config.duration = "4 steps"
    config.optimizer.on_new_duration = "continue"
    runs.train(config, tmp_path / "stopped")
    assert losses(tmp_path / "stopped")[:2] == losses(tmp_path / "whole")[:2]
    assert [path.name for path in (tmp_path / "stopped" / "precomputed").iterdir()] == [file.parent.name]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.flip": True}, r"images are mirrored at random \(config\.data\.flip\)"),
        ({"data.on_bad_image": "skip"}, "images that cannot be read are left out"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(recipe, tmp_path, changes, words):
    config = recipe[0].copy_and_resolve_references()
    config.update_from_flattened_dict({"first_stage.precompute": True} | changes)
    with pytest.raises(errors.UserError, match=f"config.first_stage.precompute is True, and {words}"):
        runs.train(config, tmp_path / "run")
    assert checkpoint.available_steps(tmp_path / "run" / run.CHECKPOINTS) == []
    assert not (tmp_path / "run" / "precomputed").exists()


def test_methods_that_encode_nothing_have_nothing_to_compute(tmp_path):
    config = kl_autoencoder.get_config("smoke")
    config.first_stage.precompute = True
    with pytest.raises(errors.UserError, match="the method does not train on latents or codes"):
        runs.train(config, tmp_path / "run")
