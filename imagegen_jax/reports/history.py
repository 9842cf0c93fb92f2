"""What a run's folder tells of it: config.json, and where they exist metrics.jsonl, pictures and eval/<name>.json.

Pictures are samples/<step>.png and panels/<step>.png. A run may still be training or have been killed: whatever is missing is
left out, and a line of metrics cut short is skipped.
"""

import dataclasses
import json
import math
import pathlib
import statistics
from typing import Any
from typing import NamedTuple

import jax
import numpy as np

from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax.algorithms import capabilities
from imagegen_jax.evaluation import measures
from imagegen_jax.training import run


class Score(NamedTuple):
    """A report of experiments.evaluate.

    Attributes:
      path: its file.
      content: label, scores, anchors, protocol, warnings, seconds, date and machine.
    """

    path: pathlib.Path
    content: dict[str, Any]

    @property
    def step(self):
        """Of the checkpoint; 0 where there is none."""
        step = self.content["label"].get("step", 0)
        return step if measures.is_number(step) else 0


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What is known of a run.

    Attributes:
      folder: as the person named it.
      config: {'optimizer.lr': 2e-4, ...}.
      defaults: the same, of the defaults of its family; empty where this version has no such family.
      spec: its images.Spec, {domain: Spec} of two domains.
      parameters: how many, over all networks; None where this version cannot build the algorithm any more.
      rows: the classes that the rows of the grids are of, from the top; empty where they are of none.
      columns: what the panels show of a test image, from left to right; empty where there are no panels.
      metrics: {name: (steps, values)}, each an (n,) float64 array, all finite.
      skipped: lines of metrics.jsonl that could not be read.
      grids: [(step, path)] of generated images, ascending.
      panels: [(step, path)] of test images and what becomes of them, ascending.
      scores: Scores, those of the latest step first.
    """

    folder: pathlib.Path
    config: dict[str, Any]
    defaults: dict[str, Any]
    spec: Any
    parameters: int | None
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    metrics: dict[str, tuple[np.ndarray, np.ndarray]]
    skipped: int
    grids: list[tuple[int, pathlib.Path]]
    panels: list[tuple[int, pathlib.Path]]
    scores: list[Score]

    def last(self, name, step=math.inf):
        """The latest value of a metric up to a step; None where there is none."""
        steps, values = self.metrics.get(name, ((), ()))
        return next((value for at, value in zip(steps[::-1], values[::-1]) if at <= step), None)

    @property
    def step(self):
        """The last step that is heard of."""
        steps = [int(steps[-1]) for steps, _ in self.metrics.values()] + [step for step, _ in self.grids + self.panels]
        return max(steps, default=0)

    @property
    def speed(self):
        """Images a second, the median over the lines of metrics; None where there is none."""
        _, values = self.metrics.get("images_per_second", ((), ()))
        return statistics.median(values) if len(values) else None


def read(folder):
    """The Run of a folder. Raises errors.UserError: it is not a run's, or its config or one of its scores is damaged."""
    folder = files.to_path(folder)
    flat, spec = run.saved(folder)
    defaults, parameters, rows, columns = {}, None, (), ()
    try:
        config, spec = run.load_config(folder)
        flat, defaults = config_lib.flatten(config), config_lib.flatten(config_lib.defaults_like(config))
        algorithm = run.build_algorithm(config, spec)
        shapes = jax.eval_shape(algorithm.init, jax.random.key(0)).params
        parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
        columns = algorithm.columns if isinstance(algorithm, capabilities.ShowsPanels) else ()
        if isinstance(algorithm, capabilities.Draws):
            rows = tuple(spec.name_of(label) for label in range(min(algorithm.classes, config.sample.num)))
    except errors.UserError:  # a run of another version
        pass
    metrics, skipped = _metrics(folder / "metrics.jsonl")
    scores = [score for path in sorted(folder.glob("eval/*.json")) for score in _scores(path)]
    scores.sort(key=lambda score: (score.step, str(score.content.get("date"))), reverse=True)
    grids, panels = (_pictures(folder / name) for name in ("samples", "panels"))
    return Run(folder, flat, defaults, spec, parameters, rows, columns, metrics, skipped, grids, panels, scores)


def _pictures(folder):
    """[(step, path)], ascending."""
    return sorted((int(path.stem), path) for path in folder.glob("*.png") if path.stem.isdecimal())


def _metrics(path):
    """({name: (steps, values)}, lines that could not be read) of metrics.jsonl, which may not exist."""
    series, skipped = {}, 0
    if not path.exists():
        return {}, 0
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise errors.UserError(f"cannot read {path}: {error.strerror or error}") from error
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            step = int(entry.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError):
            skipped += 1
            continue
        for name, value in entry.items():
            if measures.is_number(value) and math.isfinite(value):
                series.setdefault(name, []).append((step, value))
    return {name: tuple(np.array(points, np.float64).T) for name, points in series.items()}, skipped


def _scores(path):
    """The Scores of a file: an object, or a list of them as --sweep makes."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise errors.UserError(f"{path} cannot be read ({error}): remove it, and score again") from error
    found = content if isinstance(content, list) else [content]
    for one in found:
        fits = isinstance(one, dict) and all(isinstance(one.get(name), dict) for name in ("label", "scores", "protocol"))
        fits = fits and isinstance(one.get("anchors", {}), dict)
        if not fits or not all(isinstance(one["protocol"].get(name), dict) for name in ("images", "reference", "features")):
            raise errors.UserError(f"{path} holds no scores of experiments.evaluate: remove it, and score again")
    return [Score(path, one) for one in found]
