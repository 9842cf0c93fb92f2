"""The page of a run, of all that `history.read` finds in its folder.

A picture eval/<name>.neighbours.png is shown with the scores of the same name: a grid (images.grid) in which each row is a
generated image and then its nearest training images, by pixels and by features, nearest first.
"""

import numpy as np

from imagegen_jax.data import domains
from imagegen_jax.evaluation import measures
from imagegen_jax.reports import boards
from imagegen_jax.reports import history
from imagegen_jax.reports import page
from imagegen_jax.reports import plots

_SHOWN = 8  # pictures over time
_NO_CURVE = ("compile_seconds", "step_flops", "seconds", "hook_seconds", "images_seen", "kl_dimension/")  # prefixes
_ORDER = ("loss", "eval/loss", "eval/fid", "eval/kid", "eval/", "grad_norm", "images_per_second")  # prefixes; then the others
_POINTS = 500  # of a curve; neighbours beyond are averaged


def of_run(folder):
    """The HTML of a run's page. Raises errors.UserError as `history.read` does."""
    one = history.read(folder)
    return page.render(
        "run.html.jinja",
        name=one.folder.resolve().name,
        run=one,
        facts=_facts(one),
        spread=_spread,
        curves=_curves(one),
        scores=[_score(score) for score in one.scores],
        boards=boards.boards([one]) if len(one.scores) > 1 else [],
        config=one.config,
        defaults=one.defaults,
    )


def _facts(one):
    named = domains.parts(domains.each(lambda name, spec: f"{name} {'x'.join(map(str, spec.shape))}".strip(), one.spec))
    sources = dict.fromkeys(value for key, value in one.config.items() if key.startswith("data.source") and value)
    seen, seconds, compiling = (one.last(key) for key in ("images_seen", "seconds", "compile_seconds"))
    return {
        "algorithm": one.config["algorithm"],
        "images": f"{' and '.join(sources)} ({', '.join(named)})",
        "step": f"{one.step:,} (config.duration: {one.config['duration']})",
        "images seen": seen and f"{seen:,.0f}",
        "parameters": None if one.parameters is None else f"{one.parameters:,}",
        "time trained": seconds and f"{page.duration(seconds)}, after {compiling or 0:.1f} s of compiling",
        "images a second": one.speed and f"{one.speed:.4g} (median)",
        "scored on": one.scores and _machine(one.scores[0].content.get("machine")),
    }


def _machine(facts):
    """The machine of a score in a line; None where it names none."""
    if not isinstance(facts, dict):
        return None
    device, count, cores, system, version = (
        facts.get(key, "?") for key in ("device_kind", "device_count", "cpu_count", "system", "jax_version")
    )
    return f"{count} {device}, {cores} CPU cores, {system}, JAX {version}"


def _spread(pictures):
    """At most _SHOWN of the pictures: the first, the last, and some in between."""
    return [pictures[i] for i in sorted({round(i) for i in np.linspace(0, len(pictures) - 1, _SHOWN)})] if pictures else []


def _curves(one):
    """[(name, its last value, SVG)] of the metrics."""
    names = [name for name in one.metrics if not name.startswith(_NO_CURVE)]
    rank = {name: next((i for i, prefix in enumerate(_ORDER) if name.startswith(prefix)), len(_ORDER)) for name in names}
    return [_curve(name, *one.metrics[name]) for name in sorted(names, key=lambda name: (rank[name], name))]


def _curve(name, steps, values):
    label = f"{name}: from {values[0]:.4g} at step {steps[0]:.0f} to {values[-1]:.4g} at step {steps[-1]:.0f}"
    if len(values) > 1:
        label += f"; least {values.min():.4g}, greatest {values.max():.4g}"
    return name, f"{values[-1]:.4g}", plots.curve(label, _thinned(steps), _thinned(values))


def _thinned(values):
    """(n,) to at most _POINTS means of consecutive numbers."""
    pieces = np.array_split(values, min(len(values), _POINTS))
    return np.array([piece.mean() for piece in pieces])


def _score(score):
    """What the page shows of a report: its numbers beside the reference scores', warnings, classes, neighbours, protocol."""
    content = score.content
    columns = {"these images": content["scores"]} | content.get("anchors", {})
    measured = [dict(measures.of(scores)) for scores in columns.values()]
    paths = dict.fromkeys(path for found in measured for path in found)
    neighbours = score.path.with_suffix(".neighbours.png")
    classes = content["scores"].get("classes", {}).get("classes") or {}
    protocol = {"protocol": content["protocol"], "settings": dict(measures.settings(content["scores"]))}
    if isinstance(content.get("machine"), dict):
        protocol["machine"] = content["machine"]
    return {
        "name": f"{measures.label(content['label'])}: {measures.comparison(content['protocol'])}",
        "columns": list(columns),
        "rows": [
            [measures.named(path).heading, *(measures.cell(path, found.get(path)) for found in measured)] for path in paths
        ],
        "warnings": content.get("warnings", ()),
        "classes": _classes(classes),
        "neighbours": neighbours if neighbours.exists() else None,
        "facts": {
            "file": score.path.name,
            "date": content.get("date"),
            "time": content.get("seconds") and page.duration(content["seconds"]),
            "machine": _machine(content.get("machine")),
        },
        "protocol": protocol,
    }


def _classes(classes):
    """A table with a row for each class, by the classifier's decisions: headings first."""
    keys = list(dict.fromkeys(key for one in classes.values() for key in one))
    table = [["class", *(measures.named(key).heading for key in keys)]]
    for name, one in classes.items():
        found = [{"value": one[key]} if measures.is_number(one.get(key)) else one.get(key) for key in keys]
        table.append([name, *map(measures.cell, keys, found)])
    return table
