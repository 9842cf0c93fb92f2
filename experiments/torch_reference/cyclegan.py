"""The four networks of a CycleGAN and their reference implementations in PyTorch."""

import numpy as np

from experiments.torch_reference import pytorch


def check(config, algorithm, mesh):
    """Raises errors.UserError where the recipe is not one that the authors' code trains the same way."""
    known = {
        "network.name": "resnet",
        "network.upsampling": "transposed",
        "discriminator.name": "patch",
        "cyclegan.loss": "least_squares",
        "optimizer.clip_norm": 0,
    }
    pytorch.check("torch", ("torch",), mesh, pytorch.training_reasons(config, known))


def compare(training, repeats, compiled):
    """Train step of the four networks and forward pass of one generator; see benchmark.recipe.Reference."""
    from experiments.torch_reference import cyclegan_model

    device = pytorch.set_up("torch")
    config, algorithm = training.config, training.algorithm
    model = cyclegan_model.CycleGan(config, algorithm, device)
    pytorch.check_parameters(training.state.params, model.networks)
    images = {name: pytorch.images(training.batch[name], shape, device) for name, shape in algorithm.shapes.items()}

    def step():
        model.optimize_parameters({name: image.float() / 127.5 - 1 for name, image in images.items()})
        pytorch.synchronize(device)

    def forward(n):
        image = np.random.default_rng(config.seed).uniform(-1, 1, (n, *algorithm.shapes["a"])).astype(np.float32)
        ours = training.forward(lambda state, image: algorithm.translate(state, "ab", image), image)
        generator, x = model.networks["generator"]["ab"].eval(), pytorch.tensor(image, device)
        return ours, pytorch.inference(lambda: generator(x), device, algorithm.generators["ab"])

    modules = [network for networks in model.networks.values() for network in networks.values()]
    return pytorch.compare("torch", training, repeats, compiled, device, modules, step, forward)
