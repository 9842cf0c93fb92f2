"""Training a config in a folder, from nothing or from where it was stopped."""

import contextlib
import dataclasses
import sys
import time

import jax

from imagegen_jax import config as config_lib
from imagegen_jax import files
from imagegen_jax import progress
from imagegen_jax.api import monitors
from imagegen_jax.data import domains
from imagegen_jax.training import checkpoint
from imagegen_jax.training import first_stage
from imagegen_jax.training import lock
from imagegen_jax.training import logging
from imagegen_jax.training import loop
from imagegen_jax.training import nonfinite
from imagegen_jax.training import on_device
from imagegen_jax.training import precomputed
from imagegen_jax.training import preservation
from imagegen_jax.training import profiling
from imagegen_jax.training import run
from imagegen_jax.training import sharding
from imagegen_jax.training import start
from imagegen_jax.training import summary
from imagegen_jax.training import superseded


def train(config, workdir, stop, wanted=None, profile=None):
    """Trains until the end or until `stop` is requested; either way what was trained is saved.

    Args:
      config: a config.Experiment, or the ConfigDict of a recipe.
      workdir: folder of the run; one that holds checkpoints of the same experiment is continued.
      stop: an interruption.Interruption that is entered.
      wanted: continue from this step, or 'best'; what is later is moved aside. None for the latest.
      profile: (first, last) of the steps that are recorded (profiling.profiled); None for none.

    Raises:
      errors.UserError: the config, the images or the folder are not as they must be; nothing is written.
      interruption.StopRequested: before the first step.
    """
    with lock.owned(workdir):
        _train(config_lib.check(config), files.to_path(workdir), stop, wanted, profile)


def _train(config, workdir, stop, wanted, profile):
    """Reads top to bottom: check everything, restore or initialise, and only then write; compile; train."""
    train_set = domains.open_domains(config.data, "train")
    specs = domains.specs(train_set)
    test_set = domains.open_domains(config.data, "test", specs)
    records = domains.records(train_set)
    config = first_stage.filled_in(workdir, config, specs)
    gives_way = run.check_resumable(workdir, config, specs)

    algorithm = run.build_algorithm(config, specs, records)
    precomputed.check(config, algorithm, workdir)
    domains.check_pairs(algorithm, test_set)
    mesh = sharding.make_mesh(config.batch_size, (config.mesh.data, config.mesh.fsdp))
    state_shape = run.configured_state(config, algorithm, mesh)
    hooks = monitors.build(monitors.Context(config, algorithm, mesh, test_set, workdir, records, stop))
    policy = _policy(config, records, hooks)

    run.check_space(workdir, state_shape)
    state, position = _restore_or_initialise(stop, config, algorithm, train_set, mesh, state_shape, workdir, wanted)
    total_steps = config.steps(config.duration, records)
    if position.step >= total_steps and not position.due:
        print(_nothing_to_do(workdir, config, position.step), file=sys.stderr)
        return
    position, told = run.scheduled(workdir, config, position)
    algorithm = run.build_algorithm(config, specs, records, position.schedules)
    if position.step:
        print("; ".join(filter(None, (f"continuing from step {position.step}", told))), file=sys.stderr)
    if test_set is None:
        print("there are no test images: nothing is measured on the way", file=sys.stderr)
    superseded.set_aside(workdir, position.step, gives_way)
    if jax.process_index() == 0:
        run.save_config(workdir, config, specs, position.schedules)

    train_set = stop.run(precomputed.in_place_of_images, config, algorithm, state, train_set, mesh, workdir)
    train_set, arrays = stop.run(on_device.kept, config, train_set, total_steps - position.step, mesh)
    step_fn, told = _compile(stop, config, algorithm, train_set, arrays, mesh, state_shape)

    def steps(state, position, told):
        policy.scores = run.scores(workdir, policy.metric, position.step)
        with (
            checkpoint.Checkpointer(workdir / run.CHECKPOINTS, policy) as checkpointer,
            contextlib.closing(logging.MetricWriter(workdir, position.step)) as writer,
            progress.Progress(total_steps, "step", done=position.step) as bar,
            profiling.profiled(step_fn, position.step, profile, workdir) as recorded,
        ):
            writer.write(position.step, told)
            return loop.train(
                state,
                position,
                step_fn=recorded,
                rng=_streams(mesh, config, position.rollbacks),
                batches=domains.train_batches(
                    train_set, config, position.step, jax.process_index(), jax.process_count(), position.rollbacks
                ),
                mesh=mesh,
                batch_size=config.batch_size,
                steps_per_call=config.steps_per_call,
                total_steps=total_steps,
                log_every=config.steps(config.log.every, records),
                checkpoint_every=policy.cadence,
                hooks=hooks,
                checkpointer=checkpointer,
                writer=writer,
                progress=bar,
                stop=stop,
            )[1]

    def last():
        return _restore_or_initialise(stop, config, algorithm, train_set, mesh, state_shape, workdir, None)

    position = _with_rollbacks(config, steps, last, state, position, told)
    _tell_end(workdir, algorithm, train_set, position, total_steps)


def _tell_end(workdir, algorithm, train_set, position, total_steps):
    """Says how a training ended, and what there is to see of it."""
    if skipped := domains.skipped(train_set):
        print(f"{skipped} unreadable images were skipped", file=sys.stderr)
    if position.step < total_steps or position.due:
        print(f"stopped at step {position.step} of {total_steps}; the same command continues", file=sys.stderr)
    if jax.process_index() == 0:
        print(*summary.lines(workdir, algorithm), sep="\n", file=sys.stderr)


def _nothing_to_do(workdir, config, step):
    falls = config.optimizer and config.optimizer.schedule != "constant"
    how = " with --config.optimizer.on_new_duration=restart (or continue)" if falls else ""
    return f"{workdir} is trained to step {step}; a longer --config.duration{how} goes on from there"


def _with_rollbacks(config, steps, last, state, position, told):
    """What `steps` returns, from the last checkpoint on as often as it ends in numbers that are not finite and may go back.

    Args:
      config: checked.
      steps: (state, position, what is logged at its begin) -> position.
      last: () -> (state, position) of the last checkpoint.
      state: to begin with.
      position: likewise.
      told: likewise.

    Raises:
      nonfinite.NotFiniteError: no (other) try may be made.
    """
    while True:
        try:
            return steps(state, position, told)
        except nonfinite.NotFiniteError as error:
            if config.on_nonfinite != "rollback" or position.rollbacks >= config.max_rollbacks:
                raise
            what = error.what
        lived, (state, position) = position, last()
        position = dataclasses.replace(position, schedules=lived.schedules, rollbacks=lived.rollbacks + 1)
        told = {"rollbacks": position.rollbacks}
        tries = f"{position.rollbacks} of {config.max_rollbacks}"
        print(f"{what}: back to step {position.step}, with other batches and noise ({tries})", file=sys.stderr)


def _restore_or_initialise(stop, config, algorithm, train_set, mesh, state_shape, workdir, wanted):
    """(state, position): of the wanted checkpoint, or of step 0 where the run has none yet."""
    records, fingerprint = domains.records(train_set), domains.fingerprint(train_set)
    folder = workdir / run.CHECKPOINTS
    if wanted is None and not checkpoint.available_steps(folder):
        shardings = jax.tree.map(lambda x: x.sharding, state_shape)
        state = stop.run(start.begin, config, algorithm, sharding.key(mesh, config.seed, "init"), shardings)
        return state, checkpoint.Position(0, 0.0, records, fingerprint)
    reader = checkpoint.Checkpointer(folder, read_only=True)
    state, position = stop.run(reader.restore, run.find_step(workdir, config, wanted), state_shape)
    position = run.on_images(position, records, fingerprint)
    return state, loop.still_due(position, logging.rows(workdir))


def _policy(config, records, hooks):
    """The preservation.Policy of a checked config."""
    section = config.checkpoint
    cadence = config.steps(section.every, records)
    measured = [name for hook in hooks for name in (hook.names() if section.best_metric else ())]
    every, total = config.steps(config.eval.every, records), config.steps(config.duration, records)
    preservation.check(section.best_metric, measured, cadence, every, total)
    return preservation.Policy(section.keep, cadence, config.steps(section.keep_every, records), section.best_metric)


def _streams(mesh, config, rollbacks):
    """Keys of the streams 'train' and 'augment', which are others after each rollback."""
    return tuple(sharding.key(mesh, config.seed, f"{name} {rollbacks or ''}".strip()) for name in ("train", "augment"))


def _compile(stop, config, algorithm, train_set, arrays, mesh, state_shape):
    """(the compiled step, which is given the arrays, what is logged of it)."""
    begin = time.monotonic()
    batch_shape = domains.abstract_batch(train_set, config.batch_size, sharding.batched(mesh))
    paired = isinstance(config.data, domains.AlignedConfig)
    augment_fn = domains.augmentation(train_set, config.data.flip, config.data.rotate, paired)
    rngs = _streams(mesh, config, rollbacks=0)
    what = algorithm, augment_fn, mesh, state_shape, batch_shape, rngs, arrays, config.on_nonfinite, config.steps_per_call
    compiled = stop.run(loop.compile_step, *what)
    told = {"compile_seconds": time.monotonic() - begin, "step_flops": compiled.cost_analysis()["flops"]}
    return lambda state, batch, rng: compiled(state, batch, rng, arrays), told
