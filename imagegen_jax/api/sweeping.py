"""A recipe trained with each combination of some values of its keys, to find the best of them."""

import ast
import copy
import itertools
import json
import re
import sys

import jax

from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import tables
from imagegen_jax.api import training
from imagegen_jax.reports import plots
from imagegen_jax.training import nonfinite
from imagegen_jax.training import preservation
from imagegen_jax.training import run


def combinations(config, grid):
    """{name: config} of each combination, such as 'optimizer.lr=0.001,optimizer.b2=0.99'.

    Args:
      config: the ConfigDict of a recipe.
      grid: words such as 'optimizer.lr:1e-3,2e-3'; several of them multiply.

    Raises:
      errors.UserError: a word is not of this form, names no key, or has a value that the key cannot have.
    """
    axes = [_axis(word) for word in grid]
    found = {}
    for values in itertools.product(*(values for _, values in axes)):
        changes = dict(zip((key for key, _ in axes), values))
        changed = copy.deepcopy(config)
        for key, value in changes.items():
            _set(changed, key, value)
        config_lib.check(changed)
        found[",".join(f"{key}={value}" for key, value in changes.items())] = changed
    return found


def sweep(config, grid, workdir, stop, metric="eval/loss"):
    """Trains the combinations one after the other, each in a folder of its name; those that are trained stay as they are.

    Then the folder also has sweep.json, sorted by the metric, and sweep.png, its curves. A training whose numbers go wrong is
    noted as such.

    Args:
      config: see combinations.
      grid: likewise.
      workdir: folder of the folders.
      stop: an interruption.Interruption that is entered. A stop saves; the same sweep goes on.
      metric: one that is measured on the way; its name says which way is better (preservation.best).

    Returns:
      [{'name', 'step', 'last', 'best', 'error'}, ...], the best last value first: of the metric, or None where it was never
      measured; 'error' is '' or what ended the training.

    Raises:
      errors.UserError: see combinations and training.train; or the metric was measured in no run.
    """
    workdir, configs = files.to_path(workdir), combinations(config, grid)
    ends = {}
    for number, (name, changed) in enumerate(configs.items(), 1):
        if stop.requested:
            break
        print(f"{number} of {len(configs)}: {name}", file=sys.stderr)
        try:
            training.train(changed, workdir / _folder(name), stop)
            ends[name] = ""
        except nonfinite.NotFiniteError as error:
            ends[name] = error.what
            print(f"{error.what}: left as it is", file=sys.stderr)
        jax.clear_caches()
    curves = {name: run.scores(workdir / _folder(name), metric) for name in ends}
    if ends and not any(curves.values()):
        raise errors.UserError(f"--metric={metric}: no run has measured it; see the names in its metrics.jsonl")
    results = [_result(name, metric, curves[name], error) for name, error in ends.items()]
    results.sort(key=lambda one: (bool(one["error"]), one["last"] is None, preservation.cost(metric, one["last"] or 0.0)))
    _write(workdir, metric, results, curves)
    return results


def table(metric, results):
    """The results as lines of text, the best first."""
    rows = [("run", f"{metric}, last", "best", "step", "")]
    for one in results:
        numbers = ["-" if one[key] is None else f"{one[key]:.4g}" for key in ("last", "best")]
        rows.append((one["name"], *numbers, str(one["step"]), one["error"]))
    return tables.aligned(rows)


def _axis(word):
    """(key, values) of 'optimizer.lr:1e-3,2e-3'; commas within brackets belong to a value."""
    key, colon, values = word.partition(":")
    words = [value.strip() for value in re.split(r",(?![^(\[]*[)\]])", values)]
    if not colon or not all((key, *words)):
        raise errors.UserError(f"--grid={word}: write a key and its values, such as optimizer.lr:1e-3,2e-3")
    return key, [_value(value) for value in words]


def _value(word):
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def _set(config, key, value):
    *sections, last = key.split(".")
    try:
        for name in sections:
            config = getattr(config, name)
        getattr(config, last)  # whose error names the nearest key
        setattr(config, last, value)
    except (KeyError, TypeError, AttributeError) as error:
        why = error
        while isinstance(why, Exception):
            why = why.args[0]
        why = " ".join(str(why).split())
        raise errors.UserError(f"--grid={key}:{value}: no such key or value ({why})") from error


def _folder(name):
    return re.sub(r"[^\w.,=()-]", "_", name)


def _result(name, metric, curve, error):
    step, best = max(curve, default=0), curve.get(preservation.best(metric, curve, curve))
    return {"name": name, "step": step, "last": curve.get(step), "best": best, "error": error}


def _write(workdir, metric, results, curves):
    if jax.process_index() or not results:
        return
    with files.atomic_write(workdir / "sweep.json", f"cannot write to {workdir}") as temporary:
        temporary.write_text(json.dumps({"metric": metric, "runs": results}, indent=1) + "\n")
    plots.curves(workdir / "sweep.png", metric, {one["name"]: curves[one["name"]] for one in results if curves[one["name"]]})
