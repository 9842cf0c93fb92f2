"""DCGAN and its reference implementation in PyTorch."""

import numpy as np

from experiments.torch_reference import pytorch


def check(config, algorithm, mesh):
    """Raises errors.UserError where the recipe is not one that the reference implementation trains the same way."""
    penalty, policy = config.gan.penalty, tuple(config.augment.policy)
    known = {
        "network.name": "dcgan",
        "network.upsampling": "transposed",
        "network.attention": 0,
        "discriminator.norm": "none",
        "discriminator.mbstd_group_size": 0,
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


def compare(training, repeats, compiled):
    """Train step of both networks and forward pass of the generator; see benchmark.recipe.Reference.

    The median step has no penalty where that is due at less than every other one: with --config.gan.penalty_every=1 each has.
    """
    from experiments.torch_reference import gan_model

    device = pytorch.set_up("torch")
    config, algorithm = training.config, training.algorithm
    model = gan_model.Training(config, algorithm, device)
    pytorch.check_parameters(training.state.params, model.networks)
    image = pytorch.images(training.batch, algorithm.image_shape, device)

    def step():
        model.optimize_parameters(image.float() / 127.5 - 1)
        pytorch.synchronize(device)

    def forward(n):
        import torch

        z = np.random.default_rng(config.seed).standard_normal((n, algorithm.latent), np.float32)
        generator, x = model.networks["generator"].eval(), torch.tensor(z, device=device)
        ours = training.forward(lambda state, z: algorithm.decode(state, z, {}), z)
        return ours, pytorch.inference(lambda: generator(x), device, algorithm.generator)

    # torch.compile makes no gradients of gradients, which R1 takes of the discriminator.
    modules = [model.networks["generator"]] if config.gan.penalty == "r1" else list(model.networks.values())
    return pytorch.compare("torch", training, repeats, compiled, device, modules, step, forward)
