"""How fast a recipe trains, draws or translates, and reads its images."""

import dataclasses
import time
from typing import Protocol

import jax
import ml_collections
import numpy as np

from imagegen_jax import config as config_lib
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import capabilities
from imagegen_jax.benchmark import projection
from imagegen_jax.benchmark import steps
from imagegen_jax.benchmark import timing
from imagegen_jax.data import domains
from imagegen_jax.generation import sampling
from imagegen_jax.training import compiler
from imagegen_jax.training import first_stage
from imagegen_jax.training import loop
from imagegen_jax.training import run
from imagegen_jax.training import sharding

_DRAWS = 3  # timed batches of drawn images, each as many network evaluations as the sampler has steps
_LOSSES = 5  # of the first steps: rounding grows with each, as in any training
_PIPELINE_SECONDS = 1.0


class Reference(Protocol):
    """Another implementation of a recipe's networks and train step, such as a module of experiments/torch_reference."""

    def check(self, config: ml_collections.ConfigDict, algorithm: base.Algorithm, mesh: jax.sharding.Mesh) -> None:
        """Raises errors.UserError where it does not do the work of this recipe, or is not installed."""

    def compare(self, training: "Training", repeats: int, compiled: bool) -> dict:
        """Times the train step and a forward pass, ours and its own, by turns.

        Args:
          training: of a recipe that `check` accepts.
          repeats: how many calls of each are timed.
          compiled: whether its train step is timed with compiled networks, too.

        Returns:
          A dict; each 'ratio' is theirs / ours of the medians, above 1 where ours is faster.

        Raises:
          errors.UserError: it does not see the device that JAX computes on.
        """


def measure_steps(config: ml_collections.ConfigDict, repeats: int) -> dict:
    """What is measured of a recipe's training alone, with what shows whether others compute the same.

    Args:
      config: a checked ConfigDict.
      repeats: how many steps are timed.

    Returns:
      What `steps.timed` says, 'state_bytes', which the state takes on a device, 'losses', those of the first steps, and
      'gradient_norms', {name: of the first step}, in which Adam hides no multiple.

    Raises:
      errors.UserError: the config, its data or the devices do not fit.
    """
    train_set, algorithm, mesh = _built(config)
    training = Training(config, algorithm, mesh, train_set)
    results = steps.timed(training, repeats)
    shards = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(training.state)]
    first = [{name: float(value) for name, value in metrics.items()} for metrics in training.metrics[:_LOSSES]]
    norms = {name: value for name, value in first[0].items() if "grad_norm" in name}
    told = dict(losses=[metrics["loss"] for metrics in first], gradient_norms=norms)
    return results | dict(state_bytes=sum(shard.nbytes for shard in shards)) | told


def measure(
    config: ml_collections.ConfigDict, repeats: int, reference: Reference | None = None, compiled: bool = False
) -> dict:
    """Everything that is measured of a recipe.

    Args:
      config: a checked ConfigDict, as reference implementations read it.
      repeats: how many steps are timed.
      reference: what it is compared with.
      compiled: whether the reference's networks are compiled, too.

    Returns:
      A dict of numbers and dicts of numbers: what `steps.measure` says of the training, and more. Where a batch has images of
      two domains, one of each counts as one image.

    Raises:
      errors.UserError: the config, its data or the devices do not fit, or the reference does not fit the recipe.
    """
    train_set, algorithm, mesh = _built(config)
    if reference:
        reference.check(config, algorithm, mesh)
    training = Training(config, algorithm, mesh, train_set)
    results = steps.measure(training, repeats)
    results["pipeline_images_per_second"] = pipeline_rate(config, train_set)
    if isinstance(algorithm, capabilities.Draws):
        results["sampling_images_per_second"] = sampling_rate(config, algorithm, mesh, training.state.with_ema())
    if isinstance(algorithm, capabilities.Translates):
        results["translation_images_per_second"] = translation_rate(config, algorithm, mesh, training.state.with_ema())
    if reference:
        results["against"] = reference.compare(training, repeats, compiled)
    return results


def project(config: ml_collections.ConfigDict) -> dict:
    """What the train step of a recipe, which is traced and not compiled, would cost on many devices.

    Returns:
      What `projection.project` says.

    Raises:
      errors.UserError: the config, its data or the devices do not fit.
    """
    train_set, algorithm, mesh = _built(config)
    state = run.configured_state(config_lib.typed(config), algorithm, mesh)
    lowered = _lower(config, algorithm, mesh, train_set, state, _rngs(config, mesh))
    flops = lowered.cost_analysis()["flops"] * _pieces(config)
    sizes = [sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(part)) for part in (state.params, state)]
    return projection.project(flops / config.batch_size, config.batch_size, *sizes)


def _lower(config, algorithm, mesh, train_set, state, rngs):
    """The jax.stages.Lowered of the train step of a recipe, of a state of these shapes."""
    batch = domains.abstract_batch(train_set, config.batch_size, sharding.batched(mesh))
    augment = domains.augmentation(train_set, config.data.flip, config.data.rotate)
    return loop.lower_step(algorithm, augment, mesh, state, batch, rngs, {})


def _pieces(config):
    """Of a batch: they are one loop, whose body the compiler counts once."""
    return config_lib.flatten(config).get("optimizer.accumulate", 1)


def _rngs(config, mesh):
    return tuple(sharding.key(mesh, config.seed, name) for name in ("train", "augment"))


def _built(config):
    """(data of domains.open_domains, algorithm, mesh) of a config."""
    train_set = domains.open_domains(config_lib.typed(config).data, "train")
    specs = domains.specs(train_set)
    standing = first_stage.filled_in(None, config_lib.typed(config), specs)
    algorithm = run.build_algorithm(standing, specs, domains.records(train_set))
    return train_set, algorithm, sharding.make_mesh(config.batch_size, (config.mesh.data, config.mesh.fsdp))


class Training:
    """The compiled train step of a recipe, a steps.Step; each call is one step on the same batch.

    Attributes:
      config: of the recipe.
      algorithm: of the recipe.
      mesh: the devices.
      batch: this process's share of a batch, as the pipeline delivers it: images (n, h, w, c) uint8.
      state: TrainState after the last call; the next call donates it.
      metrics: of all calls, {name: array}.
      program: steps.Program of one step.
    """

    def __init__(self, config: ml_collections.ConfigDict, algorithm: base.Algorithm, mesh: jax.sharding.Mesh, train_set):
        """`train_set` is of domains.open_domains."""
        self.config, self.algorithm, self.mesh = config, algorithm, mesh
        self.batch = next(_batches(config, train_set))
        state, rngs = run.configured_state(config_lib.typed(config), algorithm, mesh), _rngs(config, mesh)
        program = steps.Program.compile(lambda: _lower(config, algorithm, mesh, train_set, state, rngs).compile())
        self.program = dataclasses.replace(program, flops=program.flops * _pieces(config))
        shardings = jax.tree.map(lambda x: x.sharding, state)
        self.state = loop.initialise(algorithm, sharding.key(mesh, config.seed, "init"), shardings)
        self.metrics = []
        self._arguments = sharding.put_batch(mesh, self.batch), rngs, {}

    def __call__(self):
        self.state, metrics = self.program.call(self.state, *self._arguments)
        self.metrics.append(metrics)
        jax.block_until_ready(self.state)

    @property
    def images(self) -> int:
        """How many images a step takes."""
        return self.config.batch_size

    @property
    def dtype(self) -> str:
        """The name of the dtype that the network computes in."""
        return config_lib.flatten(self.config).get("network.dtype", "float32")

    @property
    def parameters(self) -> int:
        """How many numbers are learned."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))

    def forward(self, function, *rows):
        """() -> None: function(state, *rows), compiled, with the state of now; the rows of these arrays belong to images."""
        compiled = jax.jit(function, compiler_options=compiler.options())
        state, rows = self.state, [sharding.put_rows(self.mesh, x) for x in rows]
        return lambda: compiled(state, *rows).block_until_ready()


def _batches(config, train_set):
    return domains.train_batches(train_set, config, 0, jax.process_index(), jax.process_count())


def pipeline_rate(config: ml_collections.ConfigDict, train_set) -> float:
    """Images a second that the pipeline of this process delivers of domains.open_domains, where nobody else is at work."""
    batches = _batches(config, train_set)
    for _ in range(config.data.prefetch + config.data.workers):
        next(batches)  # what was decoded ahead would count as made in no time
    count = 0
    begin = time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < _PIPELINE_SECONDS or not count:
        count += len(jax.tree.leaves(next(batches))[0])
    return count / elapsed


def sampling_rate(
    config: ml_collections.ConfigDict, algorithm: base.Algorithm, mesh: jax.sharding.Mesh, state: base.TrainState
) -> float:
    """Images a second that the recipe's sampler draws, in batches of sample.batch_size."""
    num = sharding.divisible(config.sample.batch_size, mesh)
    drawer = sampling.Drawer(algorithm, mesh, num)
    return num / np.median(timing.timings(lambda: list(drawer.batches(state, config.seed, num)), _DRAWS, 1))


def translation_rate(
    config: ml_collections.ConfigDict, algorithm: base.Algorithm, mesh: jax.sharding.Mesh, state: base.TrainState
) -> float:
    """Images of domain a a second that become images of b, in batches of sample.batch_size."""
    num = sharding.divisible(config.sample.batch_size, mesh)
    pixels = np.random.default_rng(config.seed).integers(0, 256, (num, *algorithm.shapes["a"]), np.uint8)
    translations = sampling.Translations(algorithm, mesh, "ab", num)
    return num / np.median(timing.timings(lambda: list(translations.batches(state, [pixels])), _DRAWS, 1))
