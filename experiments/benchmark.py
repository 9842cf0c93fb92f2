"""Measures how fast a recipe trains, draws and reads its images on this machine, and what it needs for that.

python -m experiments.benchmark --config=configs/ddpm.py --out=speed.json
python -m experiments.benchmark --config=configs/ddpm.py --against=diffusers

With --against the recipe's U-Net meets its PyTorch twin, of equal parameter count, in the same process and by turns. On a
GPU, where JAX takes most of the memory at its start, the twin needs XLA_PYTHON_CLIENT_PREALLOCATE=false in the environment.
"""

import datetime
import functools
import importlib.util
import json
import os
import pathlib
import platform
import resource
import sys
import time

from absl import flags
import jax
from jax import numpy as jnp
from ml_collections import config_flags
import numpy as np

from imagegen_jax import command_line
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax.algorithms import diffusion
from imagegen_jax.data import augment
from imagegen_jax.data import pipeline
from imagegen_jax.data import sources
from imagegen_jax.diffusion import parametrisations
from imagegen_jax.diffusion import weightings
from imagegen_jax.generation import sampling
from imagegen_jax.networks import unet
from imagegen_jax.training import compiler
from imagegen_jax.training import loop
from imagegen_jax.training import run
from imagegen_jax.training import sharding

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A recipe and its variant, such as configs/ddpm.py or configs/ddpm.py:smoke; --config.KEY=VALUE changes a key.",
)
_OUT = flags.DEFINE_string("out", None, "Where to write the results with the machine and the config: a path ending in .json.")
_AGAINST = flags.DEFINE_enum("against", None, ["diffusers"], "Also time the PyTorch twin of the recipe's U-Net, by turns.")
_REPEATS = flags.DEFINE_integer("repeats", 20, "How many steps are timed, each by itself.")

_WARM_UP = 3  # calls that are not counted: the first ones allocate
_TURN = 5  # timed calls before it is the other's turn
_DRAWS = 3  # timed batches of drawn images, each as many network evaluations as the sampler has steps
# Load for each core from which the table warns. With one busy process beside it on two cores PyTorch's forward pass took
# 12 ms or 900 ms: OpenMP threads that spin for one another. OMP_WAIT_POLICY=passive steadies that.
_BUSY = 0.3
_PIPELINE_SECONDS = 1.0
_MATMUL_SIZES = (512, 1024, 2048, 4096, 8192)
_MATMUL_SECONDS = 0.1  # a product that takes so long has the device busy: a larger one would be no faster


def main():
    """Checks what was asked for, measures, prints a table and writes --out."""
    config = _CONFIG.value
    config_lib.check(config)
    if _REPEATS.value < 1:
        raise errors.UserError(f"--repeats is {_REPEATS.value}: it must be at least 1")
    if _OUT.value is not None:
        check_out(_OUT.value)
    # A step that an earlier run left in the compilation cache would seem to compile in no time.
    jax.config.update("jax_enable_compilation_cache", False)
    report = dict(
        recipe=recipe_name(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=machine(),
        repeats=_REPEATS.value,
        config=json.loads(config.to_json()),
        results=measure(config, _REPEATS.value, _AGAINST.value),
    )
    if jax.process_index() == 0:
        print(table(report))
        if _OUT.value is not None:
            write(_OUT.value, report)


def check_out(out):
    """Raises errors.UserError where no JSON can be written to `out`, before anything is measured."""
    path = pathlib.Path(out)
    if path.suffix != ".json" or path.is_dir():
        raise errors.UserError(f"--out={out}: give a path ending in .json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UserError(f"--out={out}: cannot make {path.parent}: {error.strerror}") from error


def write(out, report):
    """Writes the report as JSON, aside first, so that the path is never half a report."""
    path = pathlib.Path(out)
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_text(json.dumps(report, indent=1) + "\n")
        draft.replace(path)
    except OSError as error:
        raise errors.UserError(f"--out={out}: {error.strerror or error}") from error


def recipe_name():
    """The recipe as it was typed, with its overrides: 'configs/ddpm.py:smoke --config.seed=1'."""
    flag = flags.FLAGS["config"]
    overrides = config_flags.get_override_values(flag)
    return " ".join([config_flags.get_config_filename(flag), *(f"--config.{key}={value}" for key, value in overrides.items())])


def machine():
    """What the results depend on and the config does not say."""
    return dict(
        platform=jax.default_backend(),
        system=platform.platform(),
        device_kind=jax.devices()[0].device_kind,
        device_count=jax.device_count(),
        process_count=jax.process_count(),
        cpu_count=cpu_count(),
        load_average=os.getloadavg()[0],  # before the run: above 0 others were at work, and every time is too long
        jax_version=jax.__version__,
        python_version=platform.python_version(),
    )


def cpu_count():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


# ---------------------------------------------------------------------------------------------------------------- a recipe


def measure(config, repeats, against=None):
    """Everything that is measured of a recipe.

    Args:
      config: a checked config.
      repeats: how many steps are timed.
      against: 'diffusers' or None.

    Returns:
      A dict of numbers and dicts of numbers, as `--out` holds it under 'results'. FLOP/s and their peak are of one device.
      Peak memory is that of the training: of the fullest device, or of the process where the backend does not count it.

    Raises:
      errors.UserError: the config, its data or the devices do not fit, or the recipe has no twin.
    """
    source = sources.open_source(config.data, "train")
    host_shape = pipeline.host_shape(source, config.data)
    image_shape = pipeline.model_shape(source, config.data)
    steps = functools.partial(config_lib.in_steps, config, records=len(source))
    algorithm = run.build_algorithm(config, image_shape, steps("duration"), steps("optimizer.warmup"))
    mesh = sharding.make_mesh(config.batch_size)
    if against:
        check_twin(config, algorithm, mesh)

    batch = next(_batches(config, source, host_shape))
    training = Training(config, algorithm, mesh, host_shape, batch)
    seconds = timings(training, repeats, _WARM_UP)
    memory, memory_of = peak_memory()  # now, before anything else can raise it
    peak = matmul_peak(compute_dtype(config))
    rate = training.flops / np.median(seconds)
    results = dict(
        parameters=training.parameters(),
        compile_seconds=training.compile_seconds,
        step_ms=spread(seconds),
        images_per_second=config.batch_size / np.median(seconds),
        step_flops=training.flops,
        flops_per_second=rate,
        matmul_peak_flops_per_second=peak,
        fraction_of_peak=rate / peak,
        peak_memory_bytes=memory,
        peak_memory_of=memory_of,
        pipeline_images_per_second=pipeline_rate(config, source, host_shape),
        sampling_images_per_second=sampling_rate(config, algorithm, mesh, training.state.with_ema()),
    )
    if against:
        results["against"] = compare(config, algorithm, mesh, training, batch["image"], repeats)
    return results


class Training:
    """The compiled train step of a recipe; each call is one step on the same batch, and returns when it is done.

    Attributes:
      compile_seconds: what tracing and compiling the step took.
      flops: of one step on one device, as the compiler counts them.
      state: TrainState after the last call; the next call donates it.
    """

    def __init__(self, config, algorithm, mesh, host_shape, batch):
        """`batch` is this process's share of a batch, as the pipeline delivers it."""
        state_shape = run.abstract_state(algorithm, mesh, config.sharding.rules, config.sharding.min_size)
        batch_shape = run.abstract_batch(mesh, config.batch_size, host_shape)
        self._rngs = tuple(sharding.key(mesh, config.seed, name) for name in ("train", "augment"))
        augment_fn = functools.partial(augment.augment, size=algorithm.image_shape[:2], flip=config.data.flip)
        begin = time.perf_counter()
        self._step = loop.compile_step(algorithm, augment_fn, mesh, state_shape, batch_shape, self._rngs)
        self.compile_seconds = time.perf_counter() - begin
        # The pieces of a batch are one loop, whose body the compiler counts once.
        self.flops = self._step.cost_analysis()["flops"] * config.optimizer.accumulate
        shardings = jax.tree.map(lambda x: x.sharding, state_shape)
        self.state = loop.initialise(algorithm, sharding.key(mesh, config.seed, "init"), shardings)
        self._batch = sharding.put_batch(mesh, batch)

    def __call__(self):
        self.state, _ = self._step(self.state, self._batch, self._rngs)
        jax.block_until_ready(self.state)

    def parameters(self):
        """How many numbers are learned."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))


def compute_dtype(config):
    """The name of the dtype that the network computes in."""
    return config_lib.flatten(config).get("network.dtype", "float32")


def timings(call, repeats, warm_up):
    """Seconds of each of `repeats` calls, after `warm_up` that are not counted."""
    for _ in range(warm_up):
        call()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return seconds


def spread(seconds):
    """Median and quartiles in milliseconds."""
    quartiles = 1e3 * np.percentile(seconds, (25, 50, 75))
    return dict(zip(("quartile1", "median", "quartile3"), quartiles.tolist()))


def peak_memory():
    """(bytes, 'device') of the fullest device so far, or (bytes, 'process') where the backend does not count."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(one and "peak_bytes_in_use" in one for one in stats):
        return max(one["peak_bytes_in_use"] for one in stats), "device"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "process"


def matmul_peak(dtype):
    """The most FLOP/s that one device reaches on a product of two square matrices, over sizes that keep it busy."""
    product = jax.jit(jnp.matmul, compiler_options=compiler.options())
    best = 0.0
    for n in _MATMUL_SIZES:
        x = jax.random.normal(jax.random.key(n), (n, n), dtype)  # zeros would cost a GPU less power and so run faster
        seconds = min(timings(lambda x=x: product(x, x).block_until_ready(), 5, 2))
        best = max(best, 2 * n**3 / seconds)
        if seconds > _MATMUL_SECONDS:
            break
    return best


def _batches(config, source, host_shape):
    return pipeline.train_batches(
        pipeline.Reader(source, host_shape, config.data.on_bad_image),
        len(source),
        seed=config.seed,
        batch_size=config.batch_size,
        first_step=0,
        workers=config.data.workers,
        prefetch=config.data.prefetch,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def pipeline_rate(config, source, host_shape):
    """Images a second that the pipeline of this process delivers where nobody else uses the machine."""
    batches = _batches(config, source, host_shape)
    for _ in range(config.data.prefetch + config.data.workers):
        next(batches)  # what was decoded ahead would count as made in no time
    images = 0
    begin = time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < _PIPELINE_SECONDS or not images:
        images += len(next(batches)["image"])
    return images / elapsed


def sampling_rate(config, algorithm, mesh, state):
    """Images a second that the recipe's sampler draws, in batches of sample.batch_size."""
    num = drawn_at_once(config, mesh)
    drawer = sampling.Drawer(algorithm, mesh, num)
    return num / np.median(timings(lambda: list(drawer.batches(state, config.seed, num)), _DRAWS, 1))


def drawn_at_once(config, mesh):
    """sample.batch_size, rounded up to a multiple of the number of devices."""
    return -(-config.sample.batch_size // mesh.size) * mesh.size


# ------------------------------------------------------------------------------------------------------- the PyTorch twin


def check_twin(config, algorithm, mesh):
    """Raises errors.UserError where the recipe has no twin in diffusers that would do the same work."""
    missing = [name for name in ("torch", "diffusers") if importlib.util.find_spec(name) is None]
    if missing:
        raise errors.UserError(f"--against=diffusers needs {' and '.join(missing)}: pip install 'imagegen_jax[peers]'")
    if not (isinstance(algorithm, diffusion.Diffusion) and isinstance(algorithm.network, unet.UNet)):
        raise errors.UserError(f"--against=diffusers knows the U-Net of a diffusion; config.algorithm is {config.algorithm!r}")
    network = algorithm.network
    widths = [network.channels * multiplier for multiplier in network.multipliers]
    side = network.patch_size * 2 ** (len(widths) - 1)
    reasons = {
        f"config.optimizer.name is {config.optimizer.name!r}: choose adam or adamw": config.optimizer.name
        not in ("adam", "adamw"),
        "config.optimizer.accumulate must be 1": config.optimizer.accumulate != 1,
        "config.network.remat must be False": network.remat,
        f"config.network.groups is {network.groups}: it must divide {widths}": any(w % network.groups for w in widths),
        f"image sides {algorithm.image_shape[:2]} must be multiples of {side}": any(
            n % side for n in algorithm.image_shape[:2]
        ),
        f"there are {mesh.size} devices: let the process see one, as by CUDA_VISIBLE_DEVICES=0": mesh.size > 1
        and jax.default_backend() != "cpu",
    }
    for reason, holds in reasons.items():
        if holds:
            raise errors.UserError(f"--against=diffusers: {reason}")


def compare(config, algorithm, mesh, training, image, repeats):
    """Train step and forward pass of the recipe's U-Net and of its twin, by turns.

    Args:
      config: of the recipe.
      algorithm: the Diffusion that check_twin accepts.
      mesh: the devices.
      training: Training of the recipe.
      image: (n, h, w, c) uint8, a batch.
      repeats: how many calls of each are timed.

    Returns:
      A dict; each 'ratio' is theirs / ours of the medians, above 1 where ours is faster.

    Raises:
      errors.UserError: PyTorch does not see the device that JAX computes on.
    """
    import diffusers
    import torch

    torch.set_num_threads(cpu_count())
    device = _twin_device()
    twin = build_twin(algorithm.network, algorithm.image_shape).to(device)
    ours, theirs = training.parameters(), sum(parameter.numel() for parameter in twin.parameters())
    if ours != theirs:
        raise ValueError(f"the twin is not one: {ours} parameters of ours, {theirs} of diffusers")

    step = alternate(training, twin_step(config, algorithm, twin, image), repeats)
    n = drawn_at_once(config, mesh)
    noise = np.random.default_rng(config.seed).standard_normal((n, *algorithm.image_shape), np.float32)
    params = training.state.params["unet"]  # only now: each step donates the parameters before it
    forward = alternate(_forward(algorithm.network, mesh, params, noise), twin_forward(algorithm.network, twin, noise), repeats)
    return dict(
        name="diffusers",
        torch_version=torch.__version__,
        diffusers_version=diffusers.__version__,
        threads=torch.get_num_threads(),
        device=str(device),
        parameters=theirs,
        step_ms=step,
        forward_ms=forward,
        forward_images=n,
    )


def alternate(ours, theirs, repeats):
    """Times two calls by turns, so that whatever else the machine does hits both.

    Returns:
      {'ours': spread, 'theirs': spread, 'ratio': median theirs / median ours}.
    """
    seconds = {ours: [], theirs: []}
    for call in seconds:
        timings(call, 0, _WARM_UP)
    while len(seconds[theirs]) < repeats:
        for call, taken in seconds.items():
            # The first call of a turn finds the caches cold and the other's threads still spinning.
            taken += timings(call, min(_TURN, repeats - len(taken)), 1)
    return dict(
        ours=spread(seconds[ours]),
        theirs=spread(seconds[theirs]),
        ratio=float(np.median(seconds[theirs]) / np.median(seconds[ours])),
    )


def _twin_device():
    """The torch device that stands for JAX's. Raises errors.UserError where this PyTorch does not see it."""
    import torch

    backend = jax.default_backend()
    if backend == "cpu":
        return torch.device("cpu")
    if backend == "gpu" and torch.cuda.is_available():
        return torch.device("cuda")
    raise errors.UserError(
        f"--against=diffusers: this PyTorch sees no {backend.upper()}; set JAX_PLATFORMS=cpu to compare there"
    )


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
    from torch.optim import swa_utils

    c = config.optimizer
    device = next(twin.parameters()).device
    kind, extra = (torch.optim.AdamW, {"weight_decay": c.weight_decay}) if c.name == "adamw" else (torch.optim.Adam, {})
    optimizer = kind(twin.parameters(), lr=c.lr, betas=(c.b1, c.b2), eps=c.eps, fused=True, **extra)
    average = swa_utils.AveragedModel(twin, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(config.ema.decay))
    image = _to_torch(image, device)
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
        with _autocast(algorithm.network, device):
            prediction = twin(signal * x0 + noise * eps, t, return_dict=False)[0]
        loss = (weights[t] * (prediction.float() - target).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        if c.clip_norm:
            torch.nn.utils.clip_grad_norm_(twin.parameters(), c.clip_norm)
        optimizer.step()
        average.update_parameters(twin)
        _synchronize(device)

    return step


def twin_forward(network, twin, noise):
    """() -> None: one network evaluation of `twin` on (n, h, w, c) float images, as sampling does it."""
    import torch

    device = next(twin.parameters()).device
    twin.eval()
    x = torch.nn.functional.pixel_unshuffle(_to_torch(noise, device), network.patch_size)
    t = torch.full((len(x),), 500, device=device)

    def forward():
        with torch.inference_mode(), _autocast(network, device):
            twin(x, t, return_dict=False)
        _synchronize(device)

    return forward


def _forward(network, mesh, params, noise):
    """() -> None: one network evaluation of ours on (n, h, w, c) float images, as sampling does it."""
    apply = jax.jit(lambda params, x, t: network.apply({"params": params}, x, t), compiler_options=compiler.options())
    x, t = (sharding.put_rows(mesh, rows) for rows in (noise, np.full(len(noise), 500, np.int32)))
    return lambda: apply(params, x, t).block_until_ready()


def _to_torch(array, device):
    import torch

    return torch.tensor(array, device=device).permute(0, 3, 1, 2).contiguous()


def _autocast(network, device):
    """PyTorch's way of computing in bfloat16 with float32 parameters, where the network does so."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=network.dtype == jnp.bfloat16)


def _synchronize(device):
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


# --------------------------------------------------------------------------------------------------------------- the table


def table(report):
    """A report as text for a person."""
    facts, r = report["machine"], report["results"]
    busy = facts["load_average"] > _BUSY * facts["cpu_count"]

    def ms(times):
        return f"{times['median']:.2f}  (quartiles {times['quartile1']:.2f} to {times['quartile3']:.2f})"

    rows = {
        "recipe": report["recipe"],
        "machine": f"{facts['device_count']} x {facts['device_kind']} ({facts['platform']}), {facts['cpu_count']} CPU cores, "
        f"JAX {facts['jax_version']}",
        "load before the run": f"{facts['load_average']:.1f}" + ("  (BUSY: others distort these times)" if busy else ""),
        "parameters": f"{r['parameters']:,}",
        "compile time, s": f"{r['compile_seconds']:.1f}",
        "train step, ms": ms(r["step_ms"]),
        "training, images/s": f"{r['images_per_second']:.1f}",
        "a device's GFLOP/s": f"{r['flops_per_second'] / 1e9:.1f}",
        "its matmul peak, GFLOP/s": f"{r['matmul_peak_flops_per_second'] / 1e9:.1f}",
        "fraction of peak": f"{r['fraction_of_peak']:.3f}",
        "peak memory, MB": f"{r['peak_memory_bytes'] / 1e6:.0f}  (of the {r['peak_memory_of']})",
        "input pipeline, images/s": f"{r['pipeline_images_per_second']:.0f}",
        "sampling, images/s": f"{r['sampling_images_per_second']:.2f}",
    }
    if peer := r.get("against"):
        rows["against"] = f"diffusers {peer['diffusers_version']}, torch {peer['torch_version']} on {peer['device']}"
        n = report["config"]["batch_size"]
        for name, count, times in (("train step", n, "step_ms"), ("forward pass", peer["forward_images"], "forward_ms")):
            rows[f"{name} of {count}, ours, ms"] = ms(peer[times]["ours"])
            rows[f"{name} of {count}, theirs, ms"] = ms(peer[times]["theirs"])
            rows[f"{name}, theirs / ours"] = f"{peer[times]['ratio']:.2f}"
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())


if __name__ == "__main__":
    command_line.run(main, required=("config",))
