"""What is looked at while a run trains, with its moving averages: grids, panels, held-out metrics, distances to test images.

Each of `_KINDS` builds the hooks of a config that its algorithm has the capability for.
"""

import dataclasses
import functools

import jax
import numpy as np

from imagegen_jax import files
from imagegen_jax import images
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import capabilities
from imagegen_jax.config import Experiment
from imagegen_jax.data import domains
from imagegen_jax.evaluation import evaluator
from imagegen_jax.generation import output
from imagegen_jax.generation import sampling
from imagegen_jax.training import interruption
from imagegen_jax.training import loop
from imagegen_jax.training import power_ema
from imagegen_jax.training import sharding


@dataclasses.dataclass(frozen=True)
class Context:
    """What hooks are built from.

    Attributes:
      config: of the run.
      algorithm: of the run.
      mesh: the devices.
      test_set: the domains.Domain of the test images, {name: Domain} of two; None where there are none.
      workdir: the run's folder.
      records: images in an epoch.
      stop: ends what they do when it is requested.
    """

    config: Experiment
    algorithm: base.Algorithm
    mesh: jax.sharding.Mesh
    test_set: domains.Domain | dict[str, domains.Domain] | None
    workdir: str
    records: int
    stop: interruption.Interruption

    def steps(self, duration):
        """A keys.Duration in steps."""
        return self.config.steps(duration, self.records)

    @functools.cached_property
    def drawer(self):
        """What draws with the batch size of the grids; compiled once for all that is drawn."""
        return sampling.Drawer(self.algorithm, self.mesh, self.config.sample.batch_size)

    def save(self, writer, step, folder, sheet, columns=None):
        """Writes a grid to <folder>/<step>.png and to the writer."""
        if jax.process_index() == 0:
            path = files.to_path(self.workdir) / folder / f"{step}.png"
            writer.image(step, folder, output.save_grid(path, sheet, columns))
        return {}


def build(context):
    """The loop.Hooks of a run, in the order in which they run."""
    hooks = [hook for kind in _KINDS for hook in kind(context)]
    return [dataclasses.replace(hook, run=_on_averages(context.mesh, hook.run)) for hook in hooks]


def _on_averages(mesh, run):
    """A hook's run, which gets of a state the averages alone, whole on every device: see placement.py."""

    def on_averages(step, state, writer):
        averages = power_ema.without(state.with_ema()).replace(opt_state={}, ema_params={})
        return run(step, jax.device_put(averages, sharding.replicated(mesh)), writer)

    return on_averages


def _grids(context):
    """A grid from fixed noise."""
    config, algorithm, stop = context.config, context.algorithm, context.stop
    if not isinstance(algorithm, capabilities.Draws):
        return

    num, texts = config.sample.num, None
    if algorithm.text:
        texts = algorithm.text.tokens(config.sample.prompts or ("",))

    def draw(step, state, writer):
        drawn = np.concatenate(list(stop.each(context.drawer.batches(state, config.seed, num, texts=texts))))
        labels = sampling.labels(np.arange(num), algorithm.classes)
        rows = sampling.rows(num, labels, texts)
        sheet = [drawn] if rows is None else images.rows_by_label(drawn, rows)
        return context.save(writer, step, "samples", *sheet)

    yield loop.Hook(context.steps(config.sample.every), draw)


def _panels(context):
    """What becomes of test images."""
    config, algorithm, stop = context.config, context.algorithm, context.stop
    if context.test_set is None or not isinstance(algorithm, capabilities.ShowsPanels):
        return
    num = min(config.sample.num, domains.smallest(context.test_set))
    panels = sampling.Panels(algorithm, context.mesh, num, config.sample.batch_size, config.seed)

    def show(step, state, writer):
        share = jax.process_index(), jax.process_count()
        batches = domains.eval_batches(context.test_set, panels.num, panels.batch_size, *share)
        shown = list(stop.each(panels.batches(state, batches)))
        return context.save(writer, step, "panels", np.concatenate(shown), len(algorithm.columns))

    yield loop.Hook(context.steps(config.sample.every), show)


def _heldout(context):
    """The metrics of eval_step on test images."""
    test_set, algorithm, stop = context.test_set, context.algorithm, context.stop
    section = context.config.eval
    if test_set is None:
        return
    measure = evaluator.Evaluator(
        algorithm.eval_step, context.mesh, test_set, section.num, section.batch_size, context.config.seed
    )

    def names():
        batch = domains.abstract_batch(test_set, section.batch_size, None)
        state = jax.eval_shape(lambda key: algorithm.init(key).with_ema(), jax.random.key(0))
        return [f"eval/{name}" for name in jax.eval_shape(algorithm.eval_step, state, batch, jax.random.key(0))]

    yield loop.Hook(context.steps(section.every), lambda step, state, _: stop.run(measure, state, stop.between), names)


def _distances(context):
    """How far drawn images, or translations in each direction, are from test images, and how varied."""
    config, algorithm, num = context.config, context.algorithm, context.config.eval.samples
    draws, translates = (isinstance(algorithm, able) for able in (capabilities.Draws, capabilities.Translates))
    if context.test_set is None or not num or not (draws or translates):
        return
    # Most runs do without, and SciPy and the networks of scores take their time to import.
    from imagegen_jax.evaluation import features
    from imagegen_jax.evaluation import image_sets
    from imagegen_jax.evaluation import tracking

    extractor = features.Extractor(features.named(config.eval.features), context.mesh, config.eval.batch_size)
    tells_classes = bool(extractor.features.class_names)
    sections = domains.sections(config.data)
    every = context.steps(config.eval.every)

    def tests(section, domain, half=None):
        return image_sets.of_data(section, "test", domain.spec.shape, domain.spec.known_names, half)

    if draws:
        compared = tests(sections, context.test_set)
        measure = tracking.Distances(extractor, compared)
        monitor = tracking.CollapseMonitor(context.steps(config.duration) // 10, algorithm.hint)
        shares = compared.class_shares() if algorithm.classes else None
        texts = domains.captions_of(context.test_set, num) if algorithm.text else None

        def drawn(step, state, _):
            batches = context.drawer.batches(state, config.seed, num, shares=shares, texts=texts)
            measured = measure(context.stop.each(batches))
            monitor(step, measured)
            return measured

        yield loop.Hook(every, drawn, lambda: tracking.names(tells_classes, ""))
    if not translates:
        return

    def translated(direction, source, target):
        # Else translations would be compared with the very images whose pictures of the other kind were translated.
        same = image_sets.same_content(sections[source], sections[target], paired=algorithm.paired_test)
        translations = sampling.Translations(algorithm, context.mesh, direction, config.sample.batch_size)
        originals = tests(sections[source], context.test_set[source], 0 if same else None)
        compared = tests(sections[target], context.test_set[target], 1 if same else None)
        measure, suffix = tracking.Distances(extractor, compared), f"_{direction}"

        def run(step, state, _):
            return measure(context.stop.each(translations.batches(state, originals.images(num))), suffix)

        return loop.Hook(every, run, lambda: tracking.names(tells_classes, suffix))

    for direction, ends in algorithm.directions.items():
        yield translated(direction, *ends)


_KINDS = (_grids, _panels, _heldout, _distances)
