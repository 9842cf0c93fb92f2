"""Trains a recipe, or continues a run that was stopped.

python -m experiments.main --config=configs/ddpm.py --workdir=runs/ddpm
"""

import contextlib
import functools
import sys
import time

from absl import flags
import jax
from ml_collections import config_flags
import numpy as np

from imagegen_jax import command_line
from imagegen_jax import config as config_lib
from imagegen_jax import files
from imagegen_jax import images
from imagegen_jax import progress
from imagegen_jax.algorithms import cyclegan
from imagegen_jax.data import domains
from imagegen_jax.evaluation import evaluator
from imagegen_jax.generation import output
from imagegen_jax.generation import sampling
from imagegen_jax.training import checkpoint
from imagegen_jax.training import interruption
from imagegen_jax.training import lock
from imagegen_jax.training import logging
from imagegen_jax.training import loop
from imagegen_jax.training import preservation
from imagegen_jax.training import run
from imagegen_jax.training import sharding
from imagegen_jax.training import start
from imagegen_jax.training import summary
from imagegen_jax.training import superseded

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A recipe and its variant, such as configs/ddpm.py or configs/ddpm.py:smoke; --config.KEY=VALUE changes a key.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; one that holds checkpoints is continued.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Continue from this step, or best; what is later is moved aside.")


def main():
    """Trains until the end or until a signal asks to stop; either way what was trained is saved."""
    with interruption.Interruption() as stop:
        try:
            with lock.owned(_WORKDIR.value):
                _train(stop)
        except interruption.StopRequested:
            print("stopped before the first step: nothing is lost, the same command starts again", file=sys.stderr)
        command_line.finish(stop.abandoned)


def _train(stop):
    """Reads top to bottom: check everything, restore or initialise, and only then write; compile; train."""
    config = _CONFIG.value
    config_lib.check(config)
    workdir = files.to_path(_WORKDIR.value)

    train_set = domains.open_domains(config.data, "train")
    specs = domains.specs(train_set)
    test_set = domains.open_domains(config.data, "test", specs)
    domains.check_pairs(config, test_set)
    records = domains.records(train_set)
    run.fill_foundation(workdir, config, specs)
    gives_way = run.check_resumable(workdir, config, specs)

    steps = functools.partial(config_lib.in_steps, config, records=records)
    total_steps = steps("duration")
    algorithm = run.build_algorithm(config, specs, records)
    mesh = sharding.make_mesh(config.batch_size)
    state_shape = run.abstract_state(algorithm, mesh, config.sharding.rules, config.sharding.min_size)
    batch_shape = domains.abstract_batch(train_set, config.batch_size, sharding.batched(mesh))
    rngs = tuple(sharding.key(mesh, config.seed, name) for name in ("train", "augment"))
    policy = _policy(config, steps, algorithm, state_shape, test_set)

    folder = workdir / run.CHECKPOINTS
    run.check_space(workdir, state_shape)
    state, position = _restore_or_initialise(stop, config, algorithm, train_set, mesh, state_shape, workdir)
    if position.step >= total_steps and not position.due:
        falls = "optimizer" in config and config.optimizer.schedule != "constant"
        how = " with --config.optimizer.on_new_duration=restart (or continue)" if falls else ""
        longer = f"a longer --config.duration{how} goes on from there"
        print(f"{workdir} is trained to step {position.step}; {longer}", file=sys.stderr)
        return
    position, told = run.scheduled(workdir, config, position)
    algorithm = run.build_algorithm(config, specs, records, position.schedules)
    if position.step:
        print("; ".join(filter(None, (f"continuing from step {position.step}", told))), file=sys.stderr)
    superseded.set_aside(workdir, position.step, gives_way)
    if jax.process_index() == 0:
        run.save_config(workdir, config, specs, position.schedules)

    begin = time.monotonic()
    augment_fn = domains.augmentation(train_set, config.data.flip, config.data.rotate)
    step_fn = stop.run(loop.compile_step, algorithm, augment_fn, mesh, state_shape, batch_shape, rngs)
    compiled = {"compile_seconds": time.monotonic() - begin, "step_flops": step_fn.cost_analysis()["flops"]}

    policy.scores.update(run.scores(workdir, policy.metric, position.step))
    with (
        checkpoint.Checkpointer(folder, policy) as checkpointer,
        contextlib.closing(logging.MetricWriter(workdir, position.step)) as writer,
        progress.Progress(total_steps, "step", done=position.step) as bar,
    ):
        writer.write(position.step, compiled)
        hooks = _hooks(config, algorithm, mesh, test_set, workdir, writer, stop, steps)
        state, position = loop.train(
            state,
            position,
            step_fn=step_fn,
            rng=rngs,
            batches=domains.train_batches(train_set, config, position.step, jax.process_index(), jax.process_count()),
            mesh=mesh,
            batch_size=config.batch_size,
            total_steps=total_steps,
            log_every=steps("log.every"),
            checkpoint_every=policy.cadence,
            hooks=hooks,
            checkpointer=checkpointer,
            writer=writer,
            progress=bar,
            stop=stop,
        )
    if skipped := domains.skipped(train_set):
        print(f"{skipped} unreadable images were skipped", file=sys.stderr)
    if position.step < total_steps or position.due:
        print(f"stopped at step {position.step} of {total_steps}; the same command continues", file=sys.stderr)
    if jax.process_index() == 0:
        print(*summary.lines(workdir, algorithm), sep="\n", file=sys.stderr)


def _restore_or_initialise(stop, config, algorithm, train_set, mesh, state_shape, workdir):
    """(state, position): of the wanted checkpoint, or of step 0 where the run has none yet."""
    records, fingerprint = domains.records(train_set), domains.fingerprint(train_set)
    folder = workdir / run.CHECKPOINTS
    if _CHECKPOINT.value is None and not checkpoint.available_steps(folder):
        shardings = jax.tree.map(lambda x: x.sharding, state_shape)
        state = stop.run(start.first_state, config, algorithm, sharding.key(mesh, config.seed, "init"), shardings)
        return state, checkpoint.Position(0, 0.0, records, fingerprint)
    wanted = run.find_step(workdir, config, _CHECKPOINT.value)
    reader = checkpoint.Checkpointer(folder, read_only=True)
    state, position = stop.run(reader.restore, wanted, state_shape)
    position = run.on_images(position, records, fingerprint)
    return state, loop.still_due(position, logging.rows(workdir))


def _policy(config, steps, algorithm, state_shape, test_set):
    """The preservation.Policy of a checked config."""
    cadence, metric = steps("checkpoint.every"), config.checkpoint.best_metric
    measurable = metric and _measurable(config, algorithm, state_shape, test_set)
    preservation.check(metric, measurable, cadence, steps("eval.every"), steps("duration"))
    return preservation.Policy(config.checkpoint.keep, cadence, steps("checkpoint.keep_every"), metric)


def _measurable(config, algorithm, state_shape, test_set):
    """The names of all that is measured on the way."""
    if test_set is None:
        return []
    batch = domains.abstract_batch(test_set, config.eval.batch_size, None)
    names = jax.eval_shape(algorithm.eval_step, state_shape.with_ema(), batch, jax.random.key(0))
    names = [f"eval/{name}" for name in names]
    if config.eval.samples and (algorithm.draws or len(algorithm.domains) == 2):
        from imagegen_jax.evaluation import tracking  # as in _distances

        tells_classes = config.eval.features.split(":")[0] in ("fashion", "run")
        suffixes = [""] if algorithm.draws else [f"_{direction}" for direction in cyclegan.DIRECTIONS]
        names += tracking.names(tells_classes, suffixes)
    return names


def _hooks(config, algorithm, mesh, test_set, workdir, writer, stop, steps):
    """What is done now and then with the moving averages: a grid in samples/, and metrics of the test images."""

    def save(step, folder, sheet, columns=None):
        if jax.process_index() == 0:
            writer.image(step, folder, output.save_grid(workdir / folder / f"{step}.png", sheet, columns))
        return {}

    hooks = []
    if algorithm.draws:
        drawer = sampling.Drawer(algorithm, mesh, config.sample.batch_size)

        def draw(step, state):
            drawn = np.concatenate(list(stop.each(drawer.batches(state.with_ema(), config.seed, config.sample.num))))
            labels = sampling.labels(np.arange(config.sample.num), algorithm.classes)
            return save(step, "samples", *([drawn] if labels is None else images.rows_by_label(drawn, labels)))

        hooks.append(loop.Hook(steps("sample.every"), draw))
    if test_set is None:
        print("there are no test images: nothing is measured on the way", file=sys.stderr)
        return hooks
    if algorithm.columns:
        num = min(config.sample.num, domains.smallest(test_set))
        panels = sampling.Panels(algorithm, mesh, num, config.sample.batch_size, config.seed)

        def show(step, state):
            share = jax.process_index(), jax.process_count()
            batches = domains.eval_batches(test_set, panels.num, panels.batch_size, *share)
            shown = list(stop.each(panels.batches(state.with_ema(), batches)))
            return save(step, "panels", np.concatenate(shown), len(algorithm.columns))

        hooks.append(loop.Hook(steps("sample.every"), show))

    evaluate = evaluator.Evaluator(algorithm.eval_step, mesh, test_set, config.eval.num, config.eval.batch_size, config.seed)
    hooks.append(loop.Hook(steps("eval.every"), lambda step, state: stop.run(evaluate, state.with_ema(), stop.between)))
    if config.eval.samples and (algorithm.draws or len(algorithm.domains) == 2):
        hooks += [loop.Hook(steps("eval.every"), hook) for hook in _distances(config, algorithm, mesh, test_set, stop, steps)]
    return hooks


def _distances(config, algorithm, mesh, test_set, stop, steps):
    """Measures how far generated images, or translations in each direction, are from test images, and how varied."""
    # Most runs do without, and SciPy and the networks of scores take their time to import.
    from imagegen_jax.evaluation import features
    from imagegen_jax.evaluation import origins
    from imagegen_jax.evaluation import tracking

    extractor = features.Extractor(features.named(config.eval.features), mesh, config.eval.batch_size)
    num = config.eval.samples
    sections = domains.sections(config.data)

    def tests(name, half=None):
        spec = test_set[name].spec
        return origins.of_data(sections[name], "test", spec.shape, spec.known_names, half)

    if algorithm.draws:
        drawer = sampling.Drawer(algorithm, mesh, config.sample.batch_size)
        compared = tests("")
        measure = tracking.Distances(extractor, compared)
        watch = tracking.Watch(steps("duration") // 10, algorithm.advice)
        shares = compared.class_shares() if algorithm.classes else None

        def drawn(step, state):
            measured = measure(stop.each(drawer.batches(state.with_ema(), config.seed, num, shares=shares)))
            watch(step, measured)
            return measured

        return [drawn]

    # Else translations would be compared with the very images whose pictures of the other kind were translated.
    same = origins.same_content(sections["a"], sections["b"], paired=config.cyclegan.paired_test)

    def translated(source, target):
        translations = sampling.Translations(algorithm, mesh, source + target, config.sample.batch_size)
        originals, compared = tests(source, 0 if same else None), tests(target, 1 if same else None)
        measure = tracking.Distances(extractor, compared)

        def run(step, state):
            return measure(stop.each(translations.batches(state.with_ema(), originals.images(num))), f"_{source}{target}")

        return run

    return [translated(source, target) for source, target in cyclegan.DIRECTIONS]


if __name__ == "__main__":
    command_line.run(main, required=("config", "workdir"))
