"""Measures how fast a recipe trains, draws and reads its images on this machine, or a network of scores extracts features.

python -m experiments.benchmark --config=configs/ddpm.py --out=speed.json
python -m experiments.benchmark --config=configs/ddpm.py --against=diffusers
python -m experiments.benchmark --config=configs/cyclegan.py --against=torch
python -m experiments.benchmark --features=inception --against=torch

With --against the networks meet their PyTorch twins, of equal parameter count, in the same process and by turns. On a
GPU, where JAX takes most of the memory at its start, the twin needs XLA_PYTHON_CLIENT_PREALLOCATE=false in the environment.
"""

import datetime
import functools
import json
import resource
import sys
import time

from absl import flags
import jax
from jax import numpy as jnp
from ml_collections import config_flags
import numpy as np

from experiments.twins import cyclegan as cyclegan_twin
from experiments.twins import gan as gan_twin
from experiments.twins import inception as inception_twin
from experiments.twins import timing
from experiments.twins import unet as unet_twin
from experiments.twins import vae as vae_twin
from imagegen_jax import command_line
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import machine
from imagegen_jax.data import domains
from imagegen_jax.evaluation import features
from imagegen_jax.generation import sampling
from imagegen_jax.networks import inception
from imagegen_jax.training import compiler
from imagegen_jax.training import loop
from imagegen_jax.training import run
from imagegen_jax.training import sharding

# By the value of --against and the family.
_TWINS = {"diffusers": {"diffusion": unet_twin}, "torch": {"cyclegan": cyclegan_twin, "gan": gan_twin, "vae": vae_twin}}

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A recipe and its variant, such as configs/ddpm.py or configs/ddpm.py:smoke; --config.KEY=VALUE changes a key.",
)
_FEATURES = flags.DEFINE_enum(
    "features",
    None,
    ["inception"],
    "Time a network of scores instead of a recipe: inception is that of the Fréchet Inception Distance, with random weights.",
)
_OUT = flags.DEFINE_string("out", None, "Where to write the results with the machine and the config: a path ending in .json.")
_AGAINST = flags.DEFINE_enum(
    "against",
    None,
    list(_TWINS),
    "Also time the PyTorch twin, by turns: diffusers has that of a diffusion's U-Net, torch those of a DCGAN, of a CycleGAN, "
    "of a VAE on pythae's networks, and of features.",
)
_REPEATS = flags.DEFINE_integer("repeats", 20, "How many steps, or batches of features, are timed, each by itself.")

_EXTRACTED = (64, 32, 32, 3)  # a batch of images whose features are timed: config.eval.batch_size of CIFAR-10's
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
    if (config is None) == (_FEATURES.value is None):
        raise errors.UserError("give either --config=FILE, a recipe, or --features=inception (see --help)")
    if config is not None:
        config_lib.check(config)
    command_line.check_at_least(repeats=1)
    if _OUT.value is not None:
        check_out(_OUT.value)
    # A step that an earlier run left in the compilation cache would seem to compile in no time.
    jax.config.update("jax_enable_compilation_cache", False)
    report = dict(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), machine=machine.facts(), repeats=_REPEATS.value
    )
    if config is None:
        report |= dict(features=_FEATURES.value, results=measure_features(_REPEATS.value, _AGAINST.value))
    else:
        results = measure(config, _REPEATS.value, _AGAINST.value)
        report |= dict(recipe=recipe_name(), config=json.loads(config.to_json()), results=results)
    if jax.process_index() == 0:
        print(table(report))
        if _OUT.value is not None:
            write(_OUT.value, report)


def check_out(out):
    """Raises errors.UserError where no JSON can be written to `out`, before anything is measured."""
    path = files.to_path(out)
    if path.suffix != ".json" or path.is_dir():
        raise errors.UserError(f"--out={out}: give a path ending in .json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UserError(f"--out={out}: cannot make {path.parent}: {error.strerror}") from error


def write(out, report):
    """Writes the report as JSON. Raises errors.UserError."""
    with files.atomic_write(out, f"--out={out}") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")


def recipe_name():
    """The recipe as it was typed, with its overrides: 'configs/ddpm.py:smoke --config.seed=1'."""
    flag = flags.FLAGS["config"]
    overrides = config_flags.get_override_values(flag)
    return " ".join([config_flags.get_config_filename(flag), *(f"--config.{key}={value}" for key, value in overrides.items())])


# ---------------------------------------------------------------------------------------------------------------- a recipe


def measure(config, repeats, against=None):
    """Everything that is measured of a recipe.

    Args:
      config: a checked config.
      repeats: how many steps are timed.
      against: a value of --against or None.

    Returns:
      A dict of numbers and dicts of numbers, as `--out` holds it under 'results': what `measured` says of the training, and
      more. Where a batch has images of two domains, one of each counts as one image.

    Raises:
      errors.UserError: the config, its data or the devices do not fit, or the recipe has no twin.
    """
    train_set = domains.open_domains(config.data, "train")
    algorithm = run.build_algorithm(config, domains.specs(train_set), domains.records(train_set))
    mesh = sharding.make_mesh(config.batch_size)
    twin = twin_of(config, against) if against else None
    if twin:
        twin.check(config, algorithm, mesh)

    batch = next(_batches(config, train_set))
    training = Training(config, algorithm, mesh, train_set, batch)
    results = measured(training, config.batch_size, repeats, compute_dtype(config))
    results["pipeline_images_per_second"] = pipeline_rate(config, train_set)
    if algorithm.draws:
        results["sampling_images_per_second"] = sampling_rate(config, algorithm, mesh, training.state.with_ema())
    if len(algorithm.domains) == 2:
        results["translation_images_per_second"] = translation_rate(config, algorithm, mesh, training.state.with_ema())
    if twin:
        results["against"] = twin.compare(config, algorithm, mesh, training, batch, repeats)
    return results


def twin_of(config, against):
    """The module of experiments.twins for a family; raises errors.UserError where that peer has none."""
    if twin := _TWINS[against].get(config.algorithm):
        return twin
    having = [f"choose --against={name}" for name, twins in _TWINS.items() if config.algorithm in twins]
    raise errors.UserError(
        f"--against={against} has no twin of config.algorithm {config.algorithm!r}: {', '.join(having) or 'no peer has'}"
    )


def measured(compiled, images, repeats, dtype):
    """What is measured of every compiled step.

    Args:
      compiled: a Training or an Extraction.
      images: how many a step takes.
      repeats: how many steps are timed.
      dtype: the name of that which it computes in.

    Returns:
      A dict of numbers. FLOP/s and their peak are of one device. Peak memory is that of the steps: of the fullest device, or of
      the process where the backend does not count it.
    """
    seconds = timing.timings(compiled, repeats, timing.WARM_UP)
    memory, memory_of = peak_memory()  # now, before anything else can raise it
    peak = matmul_peak(dtype)
    rate = compiled.flops / np.median(seconds)
    return dict(
        parameters=compiled.parameters(),
        compile_seconds=compiled.compile_seconds,
        step_images=images,
        step_ms=timing.spread(seconds),
        images_per_second=images / np.median(seconds),
        step_flops=compiled.flops,
        flops_per_second=rate,
        matmul_peak_flops_per_second=peak,
        fraction_of_peak=rate / peak,
        step_temporary_bytes=compiled.temporary_bytes,
        peak_memory_bytes=memory,
        peak_memory_of=memory_of,
    )


class Training:
    """The compiled train step of a recipe; each call is one step on the same batch, and returns when it is done.

    Attributes:
      compile_seconds: what tracing and compiling the step took.
      flops: of one step on one device, as the compiler counts them.
      temporary_bytes: what a step needs on one device beside the state and the batch, as the compiler plans it.
      state: TrainState after the last call; the next call donates it.
    """

    def __init__(self, config, algorithm, mesh, train_set, batch):
        """`batch` is this process's share of a batch, as the pipeline delivers it."""
        state_shape = run.abstract_state(algorithm, mesh, config.sharding.rules, config.sharding.min_size)
        batch_shape = domains.abstract_batch(train_set, config.batch_size, sharding.batched(mesh))
        self._rngs = tuple(sharding.key(mesh, config.seed, name) for name in ("train", "augment"))
        augment_fn = domains.augmentation(train_set, config.data.flip, config.data.rotate)
        begin = time.perf_counter()
        self._step = loop.compile_step(algorithm, augment_fn, mesh, state_shape, batch_shape, self._rngs)
        self.compile_seconds = time.perf_counter() - begin
        # The pieces of a batch are one loop, whose body the compiler counts once.
        self.flops = self._step.cost_analysis()["flops"] * config_lib.flatten(config).get("optimizer.accumulate", 1)
        self.temporary_bytes = self._step.memory_analysis().temp_size_in_bytes
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
        seconds = min(timing.timings(lambda x=x: product(x, x).block_until_ready(), 5, 2))
        best = max(best, 2 * n**3 / seconds)
        if seconds > _MATMUL_SECONDS:
            break
    return best


def _batches(config, train_set):
    return domains.train_batches(train_set, config, 0, jax.process_index(), jax.process_count())


def pipeline_rate(config, train_set):
    """Images a second that the pipeline of this process delivers where nobody else uses the machine."""
    batches = _batches(config, train_set)
    for _ in range(config.data.prefetch + config.data.workers):
        next(batches)  # what was decoded ahead would count as made in no time
    count = 0
    begin = time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < _PIPELINE_SECONDS or not count:
        count += len(jax.tree.leaves(next(batches))[0])
    return count / elapsed


def sampling_rate(config, algorithm, mesh, state):
    """Images a second that the recipe's sampler draws, in batches of sample.batch_size."""
    num = sharding.divisible(config.sample.batch_size, mesh)
    drawer = sampling.Drawer(algorithm, mesh, num)
    return num / np.median(timing.timings(lambda: list(drawer.batches(state, config.seed, num)), _DRAWS, 1))


def translation_rate(config, algorithm, mesh, state):
    """Images of domain a a second that become images of b, in batches of sample.batch_size."""
    num = sharding.divisible(config.sample.batch_size, mesh)
    pixels = np.random.default_rng(config.seed).integers(0, 256, (num, *algorithm.shapes["a"]), np.uint8)
    translations = sampling.Translations(algorithm, mesh, "ab", num)
    return num / np.median(timing.timings(lambda: list(translations.batches(state, [pixels])), _DRAWS, 1))


# ---------------------------------------------------------------------------------------------------------------- features


def measure_features(repeats, against=None):
    """Everything that is measured of the Fréchet Inception Distance's network: what `measured` says, and 'against'.

    Args:
      repeats: how many batches are timed.
      against: 'torch' or None.

    Raises:
      errors.UserError: `against` is another, or PyTorch or torch-fidelity is missing.
    """
    mesh = sharding.make_mesh(jax.device_count())
    if against:
        if against != "torch":
            raise errors.UserError(f"--against={against} knows no features: for them there is --against=torch")
        inception_twin.check(mesh)
    extraction = Extraction(mesh)
    results = measured(extraction, len(extraction.images), repeats, "float32")
    if against:
        results["against"] = inception_twin.compare(extraction, repeats)
    return results


class Extraction:
    """The compiled FID network, resizing included; each call takes the same random images, and returns when it is done.

    Attributes:
      images: (n, h, w, 3) uint8.
      compile_seconds, flops, temporary_bytes: as Training has them.
    """

    def __init__(self, mesh):
        """The weights are random: how long it takes does not depend on them, as long as all numbers stay in range."""
        rng = np.random.default_rng(0)
        num, *shape = _EXTRACTED
        self.images = rng.integers(0, 256, (sharding.divisible(num, mesh), *shape), np.uint8)
        extract = functools.partial(features.extract_inception, "legacy_tensorflow")

        def random(leaf):
            if leaf.ndim == 1:  # of a batch normalisation
                return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
            return rng.standard_normal(leaf.shape, np.float32) * np.sqrt(2 / np.prod(leaf.shape[:-1]), dtype=np.float32)

        image = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
        specs = jax.eval_shape(inception.InceptionV3().init, jax.random.key(0), image)
        whole = sharding.replicated(mesh)
        self._arguments = jax.device_put(jax.tree.map(random, specs), whole), sharding.put_rows(mesh, self.images)
        begin = time.perf_counter()
        jitted = jax.jit(extract, out_shardings=whole, compiler_options=compiler.options())
        self._extract = jitted.lower(*self._arguments).compile()
        self.compile_seconds = time.perf_counter() - begin
        self.flops = self._extract.cost_analysis()["flops"]
        self.temporary_bytes = self._extract.memory_analysis().temp_size_in_bytes

    def __call__(self):
        jax.block_until_ready(self._extract(*self._arguments))

    def parameters(self):
        """How many numbers were learned."""
        return sum(leaf.size for leaf in jax.tree.leaves(self._arguments[0]["params"]))


# --------------------------------------------------------------------------------------------------------------- the table


def table(report):
    """A report as text for a person."""
    facts, r = report["machine"], report["results"]
    busy = facts["load_average"] > _BUSY * facts["cpu_count"]
    step, work = ("train step", "training") if "recipe" in report else ("batch", "extraction")

    def ms(times):
        return f"{times['median']:.2f}  (quartiles {times['quartile1']:.2f} to {times['quartile3']:.2f})"

    rows = {
        **{name: report[name] for name in ("recipe", "features") if name in report},
        "machine": f"{facts['device_count']} x {facts['device_kind']} ({facts['platform']}), {facts['cpu_count']} CPU cores, "
        f"JAX {facts['jax_version']}",
        "load before the run": f"{facts['load_average']:.1f}" + ("  (BUSY: others distort these times)" if busy else ""),
        "parameters": f"{r['parameters']:,}",
        "compile time, s": f"{r['compile_seconds']:.1f}",
        f"{step} of {r['step_images']}, ms": ms(r["step_ms"]),
        f"{work}, images/s": f"{r['images_per_second']:.2f}",
        "a device's GFLOP/s": f"{r['flops_per_second'] / 1e9:.1f}",
        "its matmul peak, GFLOP/s": f"{r['matmul_peak_flops_per_second'] / 1e9:.1f}",
        "fraction of peak": f"{r['fraction_of_peak']:.3f}",
        f"temporaries of a {step.split()[-1]}, MB": f"{r['step_temporary_bytes'] / 1e6:.0f}",
        "peak memory, MB": f"{r['peak_memory_bytes'] / 1e6:.0f}  (of the {r['peak_memory_of']})",
    }
    for key, name in {"pipeline": "input pipeline", "sampling": "sampling", "translation": "translation"}.items():
        if rate := r.get(f"{key}_images_per_second"):
            rows[f"{name}, images/s"] = f"{rate:.2f}"
    if peer := r.get("against"):
        versions = [f"{key.removesuffix('_version')} {peer[key]}" for key in peer if key.endswith("_version")]
        rows["against"] = f"{', '.join(versions)} on {peer['device']}"
        timed = {"step": (step, r["step_images"]), "forward": ("forward pass", peer.get("forward_images"))}
        for key, (name, count) in timed.items():
            if times := peer.get(f"{key}_ms"):
                rows[f"{name} of {count}, ours, ms"] = ms(times["ours"])
                rows[f"{name} of {count}, theirs, ms"] = ms(times["theirs"])
                rows[f"{name}, theirs / ours"] = f"{times['ratio']:.2f}"
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())


if __name__ == "__main__":
    command_line.run(main)
