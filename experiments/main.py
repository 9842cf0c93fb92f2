"""Trains a recipe, or continues a run that was stopped.

python -m experiments.main --config=configs/ddpm.py --workdir=runs/ddpm
"""

import contextlib
import functools
import pathlib
import sys
import time

from absl import flags
import jax
from ml_collections import config_flags
import numpy as np

from imagegen_jax import command_line
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax.data import augment
from imagegen_jax.data import pipeline
from imagegen_jax.data import sources
from imagegen_jax.evaluation import evaluator
from imagegen_jax.generation import output
from imagegen_jax.generation import sampling
from imagegen_jax.training import checkpoint
from imagegen_jax.training import interruption
from imagegen_jax.training import logging
from imagegen_jax.training import loop
from imagegen_jax.training import run
from imagegen_jax.training import sharding

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A recipe and its variant, such as configs/ddpm.py or configs/ddpm.py:smoke; --config.KEY=VALUE changes a key.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; one that holds checkpoints is continued.")
_CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Continue from this step; later checkpoints are moved aside.")


def main():
    """Trains until the end or until a signal asks to stop; either way what was trained is saved."""
    with interruption.Interruption() as stop:
        try:
            _train(stop)
        except interruption.StopRequested:
            print("stopped before the first step: nothing is lost, the same command starts again", file=sys.stderr)
        command_line.finish(stop.abandoned)


def _train(stop):
    """Reads top to bottom: check everything, restore or initialise, and only then write; compile; train."""
    config = _CONFIG.value
    config_lib.check(config)
    workdir = pathlib.Path(_WORKDIR.value)

    source = sources.open_source(config.data, "train")
    test_source = sources.open_source(config.data, "test")
    host_shape = pipeline.host_shape(source, config.data)
    image_shape = pipeline.model_shape(source, config.data)
    run.check_resumable(workdir, config, image_shape)

    steps = functools.partial(config_lib.in_steps, config, records=len(source))
    total_steps = steps("duration")
    algorithm = run.build_algorithm(config, image_shape, total_steps, steps("optimizer.warmup"))
    mesh = sharding.make_mesh(config.batch_size)
    state_shape = run.abstract_state(algorithm, mesh, config.sharding.rules, config.sharding.min_size)
    batch_shape = run.abstract_batch(mesh, config.batch_size, host_shape)
    rngs = tuple(sharding.key(mesh, config.seed, name) for name in ("train", "augment"))

    folder = workdir / run.CHECKPOINTS
    run.check_space(workdir, state_shape)
    state, position = _restore_or_initialise(stop, config, algorithm, source, mesh, state_shape, folder)
    if position.step >= total_steps:
        print(f"{workdir} is trained to step {position.step}; a longer --config.duration goes on from there", file=sys.stderr)
        return
    if position.step:
        print(f"continuing from step {position.step}", file=sys.stderr)
    if jax.process_index() == 0:
        run.save_config(workdir, config, image_shape)

    begin = time.monotonic()
    augment_fn = functools.partial(augment.augment, size=image_shape[:2], flip=config.data.flip)
    step_fn = stop.run(loop.compile_step, algorithm, augment_fn, mesh, state_shape, batch_shape, rngs)
    compiled = {"compile_seconds": time.monotonic() - begin, "step_flops": step_fn.cost_analysis()["flops"]}

    with checkpoint.Checkpointer(folder, config.checkpoint.keep, config.checkpoint.best_metric) as checkpointer:
        checkpointer.discard_after(position.step)
        with (
            contextlib.closing(logging.MetricWriter(workdir, position.step)) as writer,
            contextlib.closing(logging.Progress(position.step, total_steps)) as progress,
        ):
            writer.write(position.step, compiled)
            hooks = [_grids(config, algorithm, mesh, workdir, writer, stop, steps("sample.every"))]
            if test_source is not None:
                hooks.append(_held_out(config, algorithm, mesh, test_source, image_shape, stop, steps("eval.every")))
            reader = pipeline.Reader(source, host_shape, config.data.on_bad_image)
            state, position = loop.train(
                state,
                position,
                step_fn=step_fn,
                rng=rngs,
                batches=_batches(config, reader, len(source), position.step),
                mesh=mesh,
                total_steps=total_steps,
                log_every=steps("log.every"),
                checkpoint_every=steps("checkpoint.every"),
                hooks=hooks,
                checkpointer=checkpointer,
                writer=writer,
                progress=progress,
                stop=stop,
            )
    if skipped := source.skipped + len(reader.skipped):
        print(f"{skipped} unreadable images were skipped", file=sys.stderr)
    if position.step < total_steps:
        print(f"stopped at step {position.step} of {total_steps}; the same command continues", file=sys.stderr)


def _batches(config, reader, records, first_step):
    """This process's share of the batches to come."""
    return pipeline.train_batches(
        reader,
        records,
        seed=config.seed,
        batch_size=config.batch_size,
        first_step=first_step,
        workers=config.data.workers,
        prefetch=config.data.prefetch,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _restore_or_initialise(stop, config, algorithm, source, mesh, state_shape, folder):
    """(state, position): of the wanted checkpoint, or of step 0 where the run has none yet."""
    if _CHECKPOINT.value is None and not checkpoint.available_steps(folder):
        shardings = jax.tree.map(lambda x: x.sharding, state_shape)
        state = stop.run(loop.initialise, algorithm, sharding.key(mesh, config.seed, "init"), shardings)
        return state, checkpoint.Position(0, 0.0, len(source), source.fingerprint)
    reader = checkpoint.Checkpointer(folder, read_only=True)
    state, position = stop.run(reader.restore, _CHECKPOINT.value, state_shape)
    if (position.records, position.fingerprint) != (len(source), source.fingerprint):
        raise errors.UserError(
            f"the images of {config.data.source} are not those of the run: it was trained on {position.records}, "
            f"there are {len(source)} now; choose another --workdir"
        )
    return state, position


def _grids(config, algorithm, mesh, workdir, writer, stop, every):
    """The hook that draws samples/<step>.png from the same noise each time, with the moving average."""
    drawer = sampling.Drawer(algorithm, mesh, config.sample.batch_size)

    def draw(step, state):
        batches = drawer.batches(state.with_ema(), config.seed, config.sample.num)
        drawn = list(stop.each(batches))
        if jax.process_index() == 0:
            sheet = output.save_grid(workdir / "samples" / f"{step}.png", np.concatenate(drawn))
            writer.image(step, "samples", sheet)
        return {}

    return loop.Hook(every, draw)


def _held_out(config, algorithm, mesh, source, image_shape, stop, every):
    """The hook that measures the moving average on the test split."""
    reader = pipeline.Reader(source, image_shape, config.data.on_bad_image)
    records = min(config.eval.num or len(source), len(source))
    evaluate = evaluator.Evaluator(algorithm, mesh, reader, records, config.eval.batch_size, config.seed)
    return loop.Hook(every, lambda step, state: stop.run(evaluate, state.with_ema()))


if __name__ == "__main__":
    command_line.run(main, required=("config", "workdir"))
