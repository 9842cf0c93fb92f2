"""DCGAN and its twin in PyTorch."""

import jax
import numpy as np

from experiments.twins import pytorch
from experiments.twins import timing
from imagegen_jax.training import compiler
from imagegen_jax.training import sharding


def check(config, algorithm, mesh):
    """Raises errors.UserError where the recipe is not one that the twin trains the same way."""
    penalty, policy = config.gan.penalty, tuple(config.augment.policy)
    known = {
        "network.name": "dcgan",
        "network.upsampling": "transposed",
        "network.attention": 0,
        "discriminator.norm": "none",
        "discriminator.stddev": 0,
        "gan.loss": "non_saturating",
        "gan.d_steps": 1,
        "gan.conditional": False,
        "augment.adaptive": False,
        "optimizer.clip_norm": 0,
    }
    reasons = {
        f"config.gan.penalty is {penalty!r}: choose none or r1": penalty not in ("none", "r1"),
        f"config.augment.policy is {policy}: choose () or ('translation',)": policy not in ((), ("translation",)),
    }
    pytorch.check("torch", ("torch",), mesh, pytorch.training_reasons(config, known) | reasons)


def compare(config, algorithm, mesh, training, batch, repeats):
    """Train step of both networks and forward pass of the generator, ours and the twin's, by turns.

    The median step has no penalty where that is due at less than every other one: with --config.gan.penalty_every=1 each has.

    Args:
      config: of the recipe.
      algorithm: the Gan that `check` accepts.
      mesh: the devices.
      training: benchmark.Training of the recipe.
      batch: as the pipeline delivers it, its images (n, h, w, c) uint8.
      repeats: how many calls of each are timed.

    Returns:
      A dict; each 'ratio' is theirs / ours of the medians, above 1 where ours is faster.

    Raises:
      errors.UserError: PyTorch does not see the device that JAX computes on.
    """
    from experiments.twins import gan_model

    device = pytorch.set_up("torch")
    model = gan_model.Training(config, algorithm, device)
    ours = {name: sum(leaf.size for leaf in jax.tree.leaves(params)) for name, params in training.state.params.items()}
    theirs = {name: pytorch.count(network) for name, network in model.networks.items()}
    pytorch.check_parameters(ours, theirs)

    height, width, _ = algorithm.image_shape
    image = batch["image"][:, :height, :width]  # which a random crop is still to be taken from, in ours
    step = timing.alternate(training, twin_step(model, image, device), repeats)
    n = sharding.divisible(config.sample.batch_size, mesh)
    z = np.random.default_rng(config.seed).standard_normal((n, algorithm.latent), np.float32)
    ours_forward = _forward(algorithm, mesh, training.state, z)  # only now: each step donates the state before it
    forward = timing.alternate(ours_forward, twin_forward(algorithm, model, z, device), repeats)
    return dict(name="torch", **pytorch.comparison(device, sum(theirs.values()), step, forward, n))


def twin_step(model, image, device):
    """() -> None: one step of the twin on (n, h, w, c) uint8 images, from which like ours it makes float ones."""
    image = pytorch.tensor(image, device)

    def step():
        model.optimize_parameters(image.float() / 127.5 - 1)
        pytorch.synchronize(device)

    return step


def twin_forward(algorithm, model, z, device):
    """() -> None: the twin's images of (n, latent) noise."""
    import torch

    generator = model.networks["generator"].eval()
    z = torch.tensor(z, device=device)

    def forward():
        with torch.inference_mode(), pytorch.autocast(algorithm.generator, device):
            generator(z)
        pytorch.synchronize(device)

    return forward


def _forward(algorithm, mesh, state, z):
    """() -> None: our images of (n, latent) noise."""
    decode = jax.jit(algorithm.decode, compiler_options=compiler.options())
    z = sharding.put_rows(mesh, z)
    return lambda: decode(state, z).block_until_ready()
