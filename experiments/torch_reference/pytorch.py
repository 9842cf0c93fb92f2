"""What the reference implementations share: device, tensors, optimiser and moving average as PyTorch's users call them."""

import importlib.util
import shutil

import jax
from jax import numpy as jnp

from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import machine
from imagegen_jax.benchmark import timing
from imagegen_jax.training import sharding


def check(against, packages, mesh, reasons):
    """Raises errors.UserError where nothing can be compared.

    Args:
      against: the value of --against.
      packages: what must be installed.
      mesh: the devices.
      reasons: {what the reference implementation does not know and how to do without: whether it is so}.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise errors.UserError(f"--against={against} needs {' and '.join(missing)}: pip install 'imagegen_jax[peers]'")
    reasons = {
        f"there are {mesh.size} devices: let the process see one, as by CUDA_VISIBLE_DEVICES=0": mesh.size > 1
        and jax.default_backend() != "cpu",
        **reasons,
    }
    for reason, holds in reasons.items():
        if holds:
            raise errors.UserError(f"--against={against}: {reason}")


def training_reasons(config, known=None):
    """Those `reasons` of `check` that every recipe may have.

    Args:
      config: of the recipe.
      known: {'network.name': the one value of this key that the reference implementation knows}.
    """
    name, flat = config.optimizer.name, config_lib.flatten(config)
    return {
        f"config.optimizer.name is {name!r}: choose adam or adamw": name not in ("adam", "adamw"),
        "config.network.remat must be False": config.network.get("remat", False),
        **{f"config.{key} must be {value!r}": flat[key] != value for key, value in (known or {}).items()},
    }


def check_parameters(ours, theirs):
    """Raises ValueError where a {name: pytree of Flax parameters} and a {name: torch module} are not of equal sizes."""
    check_counts(
        {name: sum(leaf.size for leaf in jax.tree.leaves(params)) for name, params in ours.items()},
        {name: sum(parameter.numel() for parameter in module.parameters()) for name, module in theirs.items()},
    )


def check_counts(ours, theirs):
    """Raises ValueError where two numbers of parameters, by network, differ: the reference would do other work."""
    if ours != theirs:
        raise ValueError(f"the networks are not the same: parameters of ours {ours}, of theirs {theirs}")


def set_up(against):
    """Gives PyTorch as many threads as this process has cores.

    Returns:
      The torch.device that stands for JAX's.

    Raises:
      errors.UserError: this PyTorch does not see it.
    """
    import torch

    torch.set_num_threads(machine.cpu_count())
    backend = jax.default_backend()
    if backend == "cpu":
        return torch.device("cpu")
    if backend == "gpu" and torch.cuda.is_available():
        return torch.device("cuda")
    raise errors.UserError(
        f"--against={against}: this PyTorch sees no {backend.upper()}; set JAX_PLATFORMS=cpu to compare there"
    )


def facts(device):
    """What the times of PyTorch depend on."""
    import torch

    return dict(torch_version=torch.__version__, threads=torch.get_num_threads(), device=str(device))


def check_compiler(against):
    """Raises errors.UserError where torch.compile finds no compiler for its programs."""
    if jax.default_backend() == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise errors.UserError(
            f"--against={against} --torch_compile: on a CPU that needs a C++ compiler, such as g++; install one"
        )


def compare(name, training, repeats, compiled, device, modules, step, forward, **versions):
    """Times the train step and the forward pass of a recipe, ours and the reference's, by turns.

    Args:
      name: the value of --against.
      training: benchmark.recipe.Training.
      repeats: how many calls of each are timed.
      compiled: whether the reference's train step is timed again when torch.compile has compiled its networks.
      device: of set_up.
      modules: these networks.
      step: () -> None: one train step of the reference.
      forward: n -> two () -> None: a forward pass of n images, ours and the reference's.
      versions: of other libraries than PyTorch.

    Returns:
      The dict of benchmark.recipe.Reference.compare.
    """
    step_ms = timing.alternate(training, step, repeats)
    images = sharding.divisible(training.config.sample.batch_size, training.mesh)
    forward_ms = timing.alternate(*forward(images), repeats)  # made only now: each step donates the state before it
    times = dict(step_ms=step_ms, forward_ms=forward_ms, forward_images=images)
    if compiled:
        for module in modules:
            module.train()
            module.compile()
        times["compiled_step_ms"] = timing.alternate(training, step, repeats)
    return dict(name=name, **versions, **facts(device), parameters=training.parameters, **times)


def optimizer(config, parameters, ratio=1.0):
    """The torch.optim.Adam or AdamW of a config's `optimizer` section, fused: the fastest that PyTorch has.

    Its learning rate is `ratio` times the config's.
    """
    import torch

    shared = dict(lr=ratio * config.lr, betas=(config.b1, config.b2), eps=config.eps, fused=True)
    if config.name != "adamw":
        return torch.optim.Adam(parameters, **shared)
    kernels, others = [], []  # biases and the scales of norms do not decay
    for parameter in parameters:
        (kernels if parameter.ndim > 1 else others).append(parameter)
    groups = [dict(params=kernels, weight_decay=config.weight_decay), dict(params=others, weight_decay=0.0)]
    return torch.optim.AdamW(groups, **shared)


def moving_average(module, decay):
    """The torch.optim.swa_utils.AveragedModel of a module; its update_parameters(module) follows each step."""
    from torch.optim import swa_utils

    return swa_utils.AveragedModel(module, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(decay))


def images(record, shape, device):
    """The uint8 images of a batch of one domain, (n, c, h, w), as large as networks for images of `shape` take them."""
    height, width, _ = shape
    return tensor(record["image"][:, :height, :width], device)  # which ours still takes a random crop from


def tensor(array, device):
    """(n, h, w, c) array -> (n, c, h, w) tensor of the same dtype on the device."""
    import torch

    return torch.tensor(array, device=device).permute(0, 3, 1, 2).contiguous()


def inference(call, device, network=None):
    """() -> None: `call` without gradients, in the precision of the Linen network (None: float32), until the device is done."""
    import torch

    def forward():
        with torch.inference_mode(), autocast(network, device):
            call()
        synchronize(device)

    return forward


def autocast(network, device):
    """PyTorch's way of computing in bfloat16 with float32 parameters, where the Linen network does so."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=network is not None and network.dtype == jnp.bfloat16)


def synchronize(device):
    """Returns when the device has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
