"""The four networks of a CycleGAN and their twins in PyTorch."""

import jax
import numpy as np

from experiments.twins import pytorch
from experiments.twins import timing
from imagegen_jax.training import compiler
from imagegen_jax.training import sharding


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


def compare(config, algorithm, mesh, training, batch, repeats):
    """Train step of the four networks and forward pass of one generator, ours and the twin's, by turns.

    Args:
      config: of the recipe.
      algorithm: the CycleGan that `check` accepts.
      mesh: the devices.
      training: benchmark.Training of the recipe.
      batch: as the pipeline delivers it, the images of each domain (n, h, w, c) uint8.
      repeats: how many calls of each are timed.

    Returns:
      A dict; each 'ratio' is theirs / ours of the medians, above 1 where ours is faster.

    Raises:
      errors.UserError: PyTorch does not see the device that JAX computes on.
    """
    from experiments.twins import cyclegan_model

    device = pytorch.set_up("torch")
    model = cyclegan_model.CycleGan(config, algorithm, device)
    ours = _counts(training.state.params, lambda params: sum(leaf.size for leaf in jax.tree.leaves(params)))
    theirs = _counts(model.networks, pytorch.count)
    pytorch.check_parameters(ours, theirs)

    step = timing.alternate(training, twin_step(algorithm, model, batch, device), repeats)
    n = sharding.divisible(config.sample.batch_size, mesh)
    image = np.random.default_rng(config.seed).uniform(-1, 1, (n, *algorithm.shapes["a"])).astype(np.float32)
    ours_forward = _forward(algorithm, mesh, training.state, image)  # only now: each step donates the state before it
    forward = timing.alternate(ours_forward, twin_forward(algorithm, model, image, device), repeats)
    return dict(name="torch", **pytorch.comparison(device, sum(theirs.values()), step, forward, n))


def twin_step(algorithm, model, batch, device):
    """() -> None: one step of the twin on a batch of uint8 images, from which like ours it makes float ones."""
    images = {}
    for name, (height, width, _) in algorithm.shapes.items():
        image = batch[name]["image"][:, :height, :width]  # which a random crop is still to be taken from, in ours
        images[name] = pytorch.tensor(image, device)

    def step():
        model.optimize_parameters({name: image.float() / 127.5 - 1 for name, image in images.items()})
        pytorch.synchronize(device)

    return step


def twin_forward(algorithm, model, image, device):
    """() -> None: the twin's translation of (n, h, w, c) float images of a."""
    import torch

    generator = model.networks["generator"]["ab"].eval()
    x = pytorch.tensor(image, device)

    def forward():
        with torch.inference_mode(), pytorch.autocast(algorithm.generators["ab"], device):
            generator(x)
        pytorch.synchronize(device)

    return forward


def _forward(algorithm, mesh, state, image):
    """() -> None: our translation of (n, h, w, c) float images of a."""
    translate = jax.jit(lambda state, image: algorithm.translate(state, "ab", image), compiler_options=compiler.options())
    image = sharding.put_rows(mesh, image)
    return lambda: translate(state, image).block_until_ready()


def _counts(networks, count):
    """{kind: {name: network}} -> {'kind name': count(network)}."""
    return {f"{kind} {name}": count(network) for kind, named in networks.items() for name, network in named.items()}
