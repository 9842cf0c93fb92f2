"""Small trainings of each family, what a run leaves in its folder, and whether two runs are the same."""

import json
import os

import jax
import numpy as np

from imagegen_jax.training import checkpoint
from imagegen_jax.training import run
from imagegen_jax.training import sharding

TIMES = int(os.environ.get("FAULTS", "1"))  # how often to try what chance has a part in
EVERY = (
    "--config.duration=12", "--config.checkpoint.every=3", "--config.log.every=1", "--config.sample.every=6",
    "--config.sample.num=8", "--config.sample.batch_size=8", "--config.eval.every=6", "--config.eval.num=8",
    "--config.eval.batch_size=8", "--config.eval.samples=0",
)  # fmt: skip
# One recipe of each family, small enough to compile soon.
FAMILIES = {
    "gan": ("--config.network.widths=(8,)", "--config.discriminator.widths=(8,)", "--config.gan.d_steps=2"),
    "vqvae": (),
    "ddpm": ("--config.network.channels=8", "--config.sampler.steps=2"),
    "autoencoder": (),
    "vae": (),
    "hvae": (),
    "vaegan": (),
    "cyclegan": ("--config.data.image_size=16",),
    "pix2pix": (),
    "dit": ("--config.sampler.steps=2",),
    "meanflow": ("--config.network.channels=8",),
    "text_to_image": ("--config.network.channels=8", "--config.sampler.steps=2"),
    "kl_autoencoder": ("--config.network.channels=8", "--config.network.groups=2"),
    "vqgan": ("--config.network.channels=8", "--config.network.groups=2"),
    "inpaint": ("--config.network.channels=8", "--config.sampler.steps=2"),
    "classifier": (),
    "noisy_classifier": (),
}


def logged(workdir):
    """{step: [loss, *norms of gradients]}, once each."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {}
    for line in lines:
        if "loss" in line:
            assert line["step"] not in losses, f"step {line['step']} is logged twice"
            losses[line["step"]] = [line["loss"], *(value for name, value in line.items() if "grad_norm" in name)]
    return losses


def last_step(workdir):
    return checkpoint.available_steps(workdir / run.CHECKPOINTS)[-1]


def final(workdir):
    """(state, position without the time) of the last checkpoint."""
    algorithm = run.load(workdir).algorithm
    mesh = sharding.make_mesh(8)
    shapes = run.abstract_state(algorithm, mesh, (), 0)
    state, position = checkpoint.Checkpointer(workdir / run.CHECKPOINTS, read_only=True).restore(None, shapes)
    return jax.device_get(state), (position.step, position.records, position.fingerprint)


def assert_same_training(workdir, reference):
    assert last_step(workdir) == last_step(reference)
    for ours, theirs in zip(*(jax.tree.leaves(final(folder)) for folder in (workdir, reference)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert logged(workdir) == logged(reference)  # the loss of every step, and so every batch, bit for bit


def assert_same_pictures(workdir, reference):
    """Of the last step; returns which they are."""
    pictures = [path.relative_to(reference) for path in reference.glob(f"*/{last_step(reference)}.png")]
    assert all((workdir / path).read_bytes() == (reference / path).read_bytes() for path in pictures)
    return pictures


def assert_same_run(workdir, reference):
    assert_same_training(workdir, reference)
    assert assert_same_pictures(workdir, reference)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
