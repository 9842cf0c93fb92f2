"""The U-Net of a diffusion and its reference implementation, diffusers.UNet2DModel."""

from jax import numpy as jnp
import numpy as np

from experiments.torch_reference import pytorch
from imagegen_jax.diffusion import prediction_types
from imagegen_jax.diffusion import weightings

_LEVELS = 1000  # of noise, that training draws from


def check(config, algorithm, mesh):
    """Raises errors.UserError where the recipe has no U-Net of diffusers that would do the same work."""
    pytorch.check("diffusers", ("torch", "diffusers"), mesh, pytorch.training_reasons(config, {"network.name": "unet"}))
    network = algorithm.network
    widths = [network.channels * multiplier for multiplier in network.multipliers]
    sides = algorithm.image_shape[:2]
    multiple = network.patch_size * 2 ** (len(widths) - 1)
    objective = algorithm.objective
    reasons = {
        "config.network.resample_filter must be ()": network.resample_filter,
        "config.network.skip_scale must be 1": network.skip_scale != 1,
        "config.diffusion.learn_variance must be False": objective.learn_variance,
        "config.diffusion.weighting must not be sigmoid": objective.weighting == "sigmoid",
        "config.diffusion.uncertainty must be False": objective.uncertainty,
        "config.diffusion.coupling must be independent": objective.coupling != "independent",
        "config.optimizer.accumulate must be 1": config.optimizer.accumulate != 1,
        f"config.network.groups is {network.groups}: it must divide {widths}": any(w % network.groups for w in widths),
        f"image sides {sides} must be multiples of {multiple}": any(side % multiple for side in sides),
    }
    pytorch.check("diffusers", ("torch", "diffusers"), mesh, reasons)


def compare(training, repeats, compiled):
    """Train step and one network evaluation, as sampling does it; see benchmark.recipe.Reference."""
    import diffusers
    import torch

    device = pytorch.set_up("diffusers")
    config, algorithm = training.config, training.algorithm
    network = algorithm.network
    model = build(network, algorithm.image_shape).to(device)
    pytorch.check_parameters({"unet": training.state.params}, {"unet": model})
    step = train_step(config, algorithm, model, pytorch.images(training.batch, algorithm.image_shape, device))

    def forward(n):
        noise = np.random.default_rng(config.seed).standard_normal((n, *algorithm.image_shape), np.float32)
        ours = training.forward(
            lambda state, x, t: network.apply({"params": state.params["unet"]}, x, t), noise, np.full(n, 500, np.int32)
        )
        x = torch.nn.functional.pixel_unshuffle(pytorch.tensor(noise, device), network.patch_size)
        t = torch.full((n,), 500, device=device)
        model.eval()
        return ours, pytorch.inference(lambda: model(x, t, return_dict=False), device, network)

    versions = dict(diffusers_version=diffusers.__version__)
    return pytorch.compare("diffusers", training, repeats, compiled, device, [model], step, forward, **versions)


def build(network, image_shape):
    """The diffusers.UNet2DModel that computes what a networks.unet.UNet computes.

    It works on patches as channels, (n, c * patch_size^2, h / patch_size, w / patch_size), as our network does inside.
    """
    import diffusers
    from diffusers.models import attention_processor

    height, width, channels = image_shape
    patch = network.patch_size
    attends = ["Attn" if i in network.attention_levels else "" for i in range(len(network.multipliers))]
    model = diffusers.UNet2DModel(
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
        attn_norm_num_groups=network.groups,  # which scale_shift would leave out
        resnet_time_scale_shift="scale_shift" if network.scale_shift else "default",
        attention_head_dim=None,
    )
    # The constructor takes the width of a head, the same at all levels; ours have the same number at all levels.
    for module in model.modules():
        if isinstance(module, attention_processor.Attention):
            module.heads = network.heads
    return model


def _table(algorithm):
    """What training needs of _LEVELS noise levels, evenly spaced in time: (_LEVELS, 1, 1, 1) arrays, but 'time' (_LEVELS,)."""
    aim, process = algorithm.objective, algorithm.process
    t = process.at_fraction((jnp.arange(_LEVELS) + 0.5) / _LEVELS)
    level = process.level(t).for_images(4)
    shown = process.network_input(jnp.ones_like(level.alpha), level)
    weight = weightings.weight(aim.weighting, aim.prediction_type, process.log_snr(t), gamma=aim.gamma, data_std=aim.data_std)
    ones, zeros = jnp.ones_like(level.alpha), jnp.zeros_like(level.alpha)
    return {
        "alpha": shown * level.alpha,
        "sigma": shown * level.sigma,
        "time": process.network_time(t),
        "target_of_x0": prediction_types.target(aim.prediction_type, ones, zeros, level, aim.data_std),
        "target_of_eps": prediction_types.target(aim.prediction_type, zeros, ones, level, aim.data_std),
        "weight": weight.reshape(-1, 1, 1, 1),
    }


def train_step(config, algorithm, model, image):
    """() -> None: the algorithm's train step on `model`, the UNet2DModel of `build`, in eager PyTorch as its users write it.

    Like ours it makes float images of the uint8 ones in `image`, (n, c, h, w), draws timesteps and noise, weights the error,
    clips the gradient, and updates parameters and moving average.
    """
    import torch

    device = next(model.parameters()).device
    optimizer = pytorch.optimizer(config.optimizer, model.parameters())
    average = pytorch.moving_average(model, config.ema.decay)
    table = {name: torch.tensor(np.asarray(values), device=device) for name, values in _table(algorithm).items()}
    model.train()

    def step():
        x0 = torch.nn.functional.pixel_unshuffle(image.float() / 127.5 - 1, algorithm.network.patch_size)
        t = torch.randint(_LEVELS, (len(x0),), device=device)
        eps = torch.randn_like(x0)
        level = {name: values[t] for name, values in table.items()}
        target = level["target_of_x0"] * x0 + level["target_of_eps"] * eps
        with pytorch.autocast(algorithm.network, device):
            prediction = model(level["alpha"] * x0 + level["sigma"] * eps, level["time"], return_dict=False)[0]
        loss = (level["weight"] * (prediction.float() - target).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        if config.optimizer.clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm)
        optimizer.step()
        average.update_parameters(model)
        pytorch.synchronize(device)

    return step
