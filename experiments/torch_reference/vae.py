"""The VAE that the pythae library has for MNIST, and its reference implementation in PyTorch."""

from jax import numpy as jnp
import numpy as np

from experiments.torch_reference import pytorch
from imagegen_jax import images


def check(config, algorithm, mesh):
    """Raises errors.UserError where the recipe is not one that pythae trains the same way."""
    known = {
        "network.name": "pythae",
        "likelihood.name": "bernoulli",
        "vae.conditional": False,
        "vae.free_bits": 0,
        "optimizer.accumulate": 1,
    }
    pytorch.check("torch", ("torch",), mesh, pytorch.training_reasons(config, known))


def compare(training, repeats, compiled):
    """Train step, and the way of images through encoder and decoder; see benchmark.recipe.Reference."""
    import torch

    from experiments.torch_reference import vae_model

    device = pytorch.set_up("torch")
    config, algorithm = training.config, training.algorithm
    model = vae_model.Training(config, algorithm, device)
    pytorch.check_parameters({"vae": training.state.params}, {"vae": model.network})
    image = pytorch.images(training.batch, algorithm.image_shape, device)

    def step():
        model.optimize_parameters(torch.bernoulli(image.float() / 255))
        pytorch.synchronize(device)

    def infer(state, image):
        variables = {"params": state.params["vae"]["network"], "batch_stats": state.extra["vae_stats"]}
        noise = [jnp.zeros((len(image), *shape)) for shape in algorithm.network.latent_shapes]
        return algorithm.network.apply(variables, images.to_float(image), {}, noise, method="infer")[1]

    def forward(n):
        image = np.random.default_rng(config.seed).integers(0, 256, (n, *algorithm.image_shape), np.uint8)
        network, x = model.network.eval(), pytorch.tensor(image, device)
        theirs = pytorch.inference(lambda: network(x.float() / 127.5 - 1), device, algorithm.network.encoder)
        return training.forward(infer, image), theirs

    return pytorch.compare("torch", training, repeats, compiled, device, [model.network], step, forward)
