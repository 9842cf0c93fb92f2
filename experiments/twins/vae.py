"""The VAE that the pythae library has for MNIST, and its twin in PyTorch."""

import jax
from jax import numpy as jnp
import numpy as np

from experiments.twins import pytorch
from experiments.twins import timing
from imagegen_jax import images
from imagegen_jax.training import compiler
from imagegen_jax.training import sharding


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


def compare(config, algorithm, mesh, training, batch, repeats):
    """Train step, and the way of images through encoder and decoder, ours and the twin's, by turns.

    Args:
      config: of the recipe.
      algorithm: the Vae that `check` accepts.
      mesh: the devices.
      training: benchmark.Training of the recipe.
      batch: as the pipeline delivers it, its images (n, 28, 28, c) uint8.
      repeats: how many calls of each are timed.

    Returns:
      A dict; each 'ratio' is theirs / ours of the medians, above 1 where ours is faster.

    Raises:
      errors.UserError: PyTorch does not see the device that JAX computes on.
    """
    from experiments.twins import vae_model

    device = pytorch.set_up("torch")
    model = vae_model.Training(config, algorithm, device)
    parameters = pytorch.count(model.network)
    pytorch.check_parameters({"vae": training.parameters()}, {"vae": parameters})

    height, width, _ = algorithm.image_shape
    image = batch["image"][:, :height, :width]  # which a random crop is still to be taken from, in ours
    step = timing.alternate(training, twin_step(model, image, device), repeats)
    n = sharding.divisible(config.sample.batch_size, mesh)
    image = np.random.default_rng(config.seed).integers(0, 256, (n, *algorithm.image_shape), np.uint8)
    ours_forward = _forward(algorithm, mesh, training.state, image)  # only now: each step donates the state before it
    forward = timing.alternate(ours_forward, twin_forward(algorithm, model, image, device), repeats)
    return dict(name="torch", **pytorch.comparison(device, parameters, step, forward, n))


def twin_step(model, image, device):
    """() -> None: one step of the twin on (n, h, w, c) uint8 images, from which like ours it draws black and white ones."""
    import torch

    image = pytorch.tensor(image, device)

    def step():
        model.optimize_parameters(torch.bernoulli(image.float() / 255))
        pytorch.synchronize(device)

    return step


def twin_forward(algorithm, model, image, device):
    """() -> None: the twin's codes of (n, h, w, c) uint8 images, and what it decodes them to."""
    import torch

    network = model.network.eval()
    x = pytorch.tensor(image, device)

    def forward():
        with torch.inference_mode(), pytorch.autocast(algorithm.network.encoder, device):
            network(x.float() / 127.5 - 1)
        pytorch.synchronize(device)

    return forward


def _forward(algorithm, mesh, state, image):
    """() -> None: ours of (n, h, w, c) uint8 images."""

    def infer(state, image):
        variables = {"params": state.params["vae"]["network"], **state.extra}
        noise = [jnp.zeros((len(image), *shape)) for shape in algorithm.network.latent_shapes]
        return algorithm.network.apply(variables, images.to_float(image), None, noise, method="infer")[1]

    compiled = jax.jit(infer, compiler_options=compiler.options())
    image = sharding.put_rows(mesh, image)
    return lambda: compiled(state, image).block_until_ready()
