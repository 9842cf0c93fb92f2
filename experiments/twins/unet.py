"""The U-Net of a diffusion and its twin, diffusers.UNet2DModel."""

import jax
from jax import numpy as jnp
import numpy as np

from experiments.twins import pytorch
from experiments.twins import timing
from imagegen_jax.diffusion import parametrisations
from imagegen_jax.diffusion import weightings
from imagegen_jax.training import compiler
from imagegen_jax.training import sharding


def check(config, algorithm, mesh):
    """Raises errors.UserError where the recipe has no twin in diffusers that would do the same work."""
    network = algorithm.network
    widths = [network.channels * multiplier for multiplier in network.multipliers]
    sides = algorithm.image_shape[:2]
    multiple = network.patch_size * 2 ** (len(widths) - 1)
    reasons = {
        "config.optimizer.accumulate must be 1": config.optimizer.accumulate != 1,
        f"config.network.groups is {network.groups}: it must divide {widths}": any(w % network.groups for w in widths),
        f"image sides {sides} must be multiples of {multiple}": any(side % multiple for side in sides),
    }
    pytorch.check("diffusers", ("torch", "diffusers"), mesh, pytorch.training_reasons(config) | reasons)


def compare(config, algorithm, mesh, training, batch, repeats):
    """Train step and forward pass of the recipe's U-Net and of its twin, by turns.

    Args:
      config: of the recipe.
      algorithm: the Diffusion that `check` accepts.
      mesh: the devices.
      training: benchmark.Training of the recipe.
      batch: as the pipeline delivers it, its images (n, h, w, c) uint8.
      repeats: how many calls of each are timed.

    Returns:
      A dict; each 'ratio' is theirs / ours of the medians, above 1 where ours is faster.

    Raises:
      errors.UserError: PyTorch does not see the device that JAX computes on.
    """
    import diffusers

    device = pytorch.set_up("diffusers")
    twin = build_twin(algorithm.network, algorithm.image_shape).to(device)
    parameters = pytorch.count(twin)
    pytorch.check_parameters({"unet": training.parameters()}, {"unet": parameters})

    height, width, _ = algorithm.image_shape
    image = batch["image"][:, :height, :width]  # which a random crop is still to be taken from, in ours
    step = timing.alternate(training, twin_step(config, algorithm, twin, image), repeats)
    n = sharding.divisible(config.sample.batch_size, mesh)
    noise = np.random.default_rng(config.seed).standard_normal((n, *algorithm.image_shape), np.float32)
    params = training.state.params["unet"]  # only now: each step donates the parameters before it
    ours = _forward(algorithm.network, mesh, params, noise)
    forward = timing.alternate(ours, twin_forward(algorithm.network, twin, noise), repeats)
    found = pytorch.comparison(device, parameters, step, forward, n)
    return dict(name="diffusers", diffusers_version=diffusers.__version__, **found)


def build_twin(network, image_shape):
    """The diffusers.UNet2DModel that computes what a networks.unet.UNet computes.

    It works on patches as channels, (n, c * patch_size^2, h / patch_size, w / patch_size), as our network does inside.
    """
    import diffusers
    from diffusers.models import attention_processor

    height, width, channels = image_shape
    patch = network.patch_size
    attends = ["Attn" if i in network.attention_levels else "" for i in range(len(network.multipliers))]
    twin = diffusers.UNet2DModel(
        sample_size=(height // patch, width // patch),
        in_channels=channels * patch**2,
        out_channels=network.out_channels * patch**2,
        block_out_channels=tuple(network.channels * multiplier for multiplier in network.multipliers),
        layers_per_block=network.blocks,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in attends),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(attends)),
        dropout=network.dropout,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        norm_num_groups=network.groups,
        attention_head_dim=None,
    )
    # The constructor takes the width of a head, the same at all levels; ours have the same number at all levels.
    for module in twin.modules():
        if isinstance(module, attention_processor.Attention):
            module.heads = network.heads
    return twin


def twin_step(config, algorithm, twin, image):
    """() -> None: the algorithm's train step on `twin`, in eager PyTorch as its users write it.

    Like ours it makes float images of uint8 ones, draws timesteps and noise, weights the error, clips the gradient, and
    updates parameters and moving average.
    """
    import torch

    device = next(twin.parameters()).device
    optimizer = pytorch.optimizer(config.optimizer, twin.parameters())
    average = pytorch.moving_average(twin, config.ema.decay)
    image = pytorch.tensor(image, device)
    t = jnp.arange(algorithm.schedule.length)
    weights = weightings.weight(
        algorithm.weighting, algorithm.parametrisation, algorithm.schedule.log_snr(t, 4), algorithm.gamma
    )
    signals, noises, weights = (
        torch.tensor(np.asarray(x), device=device) for x in (*algorithm.schedule.signal_and_noise(t, 4), weights)
    )
    twin.train()

    def step():
        x0 = torch.nn.functional.pixel_unshuffle(image.float() / 127.5 - 1, algorithm.network.patch_size)
        t = torch.randint(len(signals), (len(x0),), device=device)
        eps = torch.randn_like(x0)
        signal, noise = signals[t], noises[t]
        target = parametrisations.target(algorithm.parametrisation, x0, eps, signal, noise)
        with pytorch.autocast(algorithm.network, device):
            prediction = twin(signal * x0 + noise * eps, t, return_dict=False)[0]
        loss = (weights[t] * (prediction.float() - target).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        if config.optimizer.clip_norm:
            torch.nn.utils.clip_grad_norm_(twin.parameters(), config.optimizer.clip_norm)
        optimizer.step()
        average.update_parameters(twin)
        pytorch.synchronize(device)

    return step


def twin_forward(network, twin, noise):
    """() -> None: one network evaluation of `twin` on (n, h, w, c) float images, as sampling does it."""
    import torch

    device = next(twin.parameters()).device
    twin.eval()
    x = torch.nn.functional.pixel_unshuffle(pytorch.tensor(noise, device), network.patch_size)
    t = torch.full((len(x),), 500, device=device)

    def forward():
        with torch.inference_mode(), pytorch.autocast(network, device):
            twin(x, t, return_dict=False)
        pytorch.synchronize(device)

    return forward


def _forward(network, mesh, params, noise):
    """() -> None: one network evaluation of ours on (n, h, w, c) float images, as sampling does it."""
    apply = jax.jit(lambda params, x, t: network.apply({"params": params}, x, t), compiler_options=compiler.options())
    x, t = (sharding.put_rows(mesh, rows) for rows in (noise, np.full(len(noise), 500, np.int32)))
    return lambda: apply(params, x, t).block_until_ready()
