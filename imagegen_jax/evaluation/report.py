"""The page of a run, and the leaderboard of several: one HTML file each, with everything in it and nothing to fetch or execute.

What is read is what a run's folder holds: config.json, and where they exist metrics.jsonl, samples/<step>.png and
eval/<name>.json. A picture eval/<name>.neighbours.png is shown with the scores of the same name: a grid (images.grid) in which
each row is a generated image and then its nearest training images, nearest first.

A run may still be training or have been killed: whatever is missing is left out, and a line of metrics cut short is skipped.
"""

import base64
from collections.abc import Iterable
import dataclasses
import datetime
import functools
import glob
import html
import io
import json
import math
import pathlib
import re
import statistics
import sys
from typing import Any
from typing import NamedTuple

import jax
import matplotlib
from matplotlib import figure
import numpy as np
from PIL import Image

from imagegen_jax import algorithms
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax.data import sources
from imagegen_jax.training import run

# ---------------------------------------------------------------------------------------------------- what the folder holds


class Score(NamedTuple):
    """A report of experiments.evaluate.

    Attributes:
      path: its file.
      content: label, scores, anchors, protocol, warnings, seconds, date and machine.
    """

    path: pathlib.Path
    content: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What is known of a run.

    Attributes:
      folder: as the person named it.
      config: the ConfigDict.
      specs: {domain: images.Spec}.
      parameters: how many, over all networks; None where this version cannot build the algorithm any more.
      columns: of its grids, where those show what becomes of test images; else empty.
      metrics: {name: (steps, values)}, each an (n,) float64 array, all finite.
      skipped: lines of metrics.jsonl that could not be read.
      grids: [(step, path)], ascending.
      scores: Scores, those of the latest step first.
    """

    folder: pathlib.Path
    config: Any
    specs: dict[str, Any]
    parameters: int | None
    columns: tuple[str, ...]
    metrics: dict[str, tuple[np.ndarray, np.ndarray]]
    skipped: int
    grids: list[tuple[int, pathlib.Path]]
    scores: list[Score]

    def last(self, name, step=math.inf):
        """The latest value of a metric up to a step; None where there is none."""
        steps, values = self.metrics.get(name, ((), ()))
        return next((value for at, value in zip(steps[::-1], values[::-1]) if at <= step), None)

    @property
    def step(self):
        """The last step that is heard of."""
        steps = [int(steps[-1]) for steps, _ in self.metrics.values()] + [step for step, _ in self.grids]
        return max(steps, default=0)

    @property
    def speed(self):
        """Images a second, the median over the lines of metrics; None where there is none."""
        _, values = self.metrics.get("images_per_second", ((), ()))
        return statistics.median(values) if len(values) else None


def read(folder):
    """The Run of a folder. Raises errors.UserError: it is not a run's, or its config or one of its scores is damaged."""
    folder = pathlib.Path(folder)
    found = run.load_config(folder)
    if found is None:
        raise errors.UserError(f"{folder} is not the folder of a run: it has no config.json")
    config, specs = found
    try:
        algorithm = run.build_algorithm(config, specs)
        shapes = jax.eval_shape(algorithm.init, jax.random.key(0)).params
        parameters, columns = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)), tuple(algorithm.columns)
    except (errors.UserError, AttributeError, KeyError, TypeError, ValueError):  # a run of another version
        parameters, columns = None, ()
    metrics, skipped = _metrics(folder / "metrics.jsonl")
    grids = sorted((int(path.stem), path) for path in folder.glob("samples/*.png") if path.stem.isdecimal())
    scores = [score for path in sorted(folder.glob("eval/*.json")) for score in _scores(path)]
    scores.sort(key=lambda score: (_step(score), str(score.content.get("date"))), reverse=True)
    return Run(folder, config, specs, parameters, columns, metrics, skipped, grids, scores)


def _metrics(path):
    """({name: (steps, values)}, lines that could not be read) of metrics.jsonl, which may not exist."""
    series, skipped = {}, 0
    if not path.exists():
        return {}, 0
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                    step = int(entry.pop("step"))
                except (ValueError, KeyError, TypeError, AttributeError):
                    skipped += 1
                    continue
                for name, value in entry.items():
                    if _is_number(value) and math.isfinite(value):
                        series.setdefault(name, []).append((step, value))
    except OSError as error:
        raise errors.UserError(f"cannot read {path}: {error.strerror or error}") from error
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


def _step(score):
    step = score.content["label"].get("step", 0)
    return step if _is_number(step) else 0


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


# -------------------------------------------------------------------------------------------------------------------- HTML


class _Html(str):
    """Text that is HTML already; all other text is escaped."""


def _text(value):
    return value if isinstance(value, _Html) else _Html(html.escape(str(value)))


def _joined(parts):
    return _Html("\n".join(_text(part) for part in parts if part))


def _tag(name, *children, **attributes):
    """An element; `class_` and `aria_label` are written as `class` and `aria-label`."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{_text(value)}"' for key, value in attributes.items())
    return _Html(f"<{name}{written}>{''.join(map(_text, children))}</{name}>")


def _table(caption, headings, rows, kind="numbers", classes=()):
    """A table that scrolls in itself on a narrow screen.

    Args:
      caption: also its name for those who cannot see it.
      headings: of the columns; empty for none.
      rows: lists of cells; the first heads the row.
      kind: 'numbers', each in a line of its own; or 'words', which wrap.
      classes: of the rows, where they have any.
    """
    head = _tag("thead", _tag("tr", *(_tag("th", heading, scope="col") for heading in headings))) if headings else ""
    body = []
    for i, (first, *others) in enumerate(rows):
        name = {"class_": classes[i]} if classes and classes[i] else {}
        body.append(_tag("tr", _tag("th", first, scope="row"), *(_tag("td", cell) for cell in others), **name))
    table = _tag("table", _tag("caption", caption), head, _tag("tbody", *body), class_=kind)
    # A region that scrolls must be reachable with the keyboard.
    return _tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _details(summary, *children):
    return _tag("details", _tag("summary", summary), *children)


def _section(title, *children):
    return _tag("section", _tag("h2", title), _joined(children)) if any(children) else ""


def _image(path, alt, side=1600):
    """A picture file in the page: as it is, or made smaller where a side is longer than `side` pixels."""
    try:
        with Image.open(path) as image:
            image.load()
            size, data = image.size, path.read_bytes()
            if max(size) > side:
                small = image.convert("RGB" if image.mode not in ("L", "RGBA") else image.mode)
                small.thumbnail((side, side))
                buffer = io.BytesIO()
                small.save(buffer, "png", optimize=True)
                size, data = small.size, buffer.getvalue()
    except sources.UNREADABLE:
        return _tag("p", f"{path.name} cannot be read.", class_="note")
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    kind = {"class_": "pixels"} if max(size) < 600 else {}  # which a screen would show enlarged, and blurred
    return _Html(_tag("img", src=source, alt=alt, width=size[0], height=size[1], **kind).removesuffix("</img>"))


_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882 }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 1.5rem auto; padding: 0 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; margin: 0 }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem }
p { margin: .5rem 0 }
.note { border-left: .25rem solid #c80; padding-left: .75rem }
.scroll { overflow-x: auto; margin: .5rem 0 }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; overflow-wrap: normal }
caption { text-align: left; font-size: .875rem; padding-bottom: .25rem; opacity: .8 }
th, td { text-align: left; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
thead th { vertical-align: bottom }
thead th { min-width: 5.5rem }
tbody th { font-weight: normal }
.numbers td { white-space: nowrap }
.numbers tbody th { min-width: 8rem }
.words td { overflow-wrap: anywhere }
tr.anchor { background: var(--soft); font-style: italic }
.board > * { vertical-align: middle }
code { font-family: ui-monospace, monospace; font-size: .9em }
summary { cursor: pointer; padding: .25rem 0 }
figure { margin: 0; min-width: 0 }
figcaption { font-size: .875rem }
img { display: block; max-width: 100%; height: auto; background: #fff }
.last img, .grids img { width: 100% }
.last img.pixels { image-rendering: pixelated }
svg { display: block; width: 100%; height: auto }
.curves, .grids { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)) }
.grids { grid-template-columns: repeat(auto-fill, minmax(min(100%, 10rem), 1fr)) }
.last { max-width: 36rem; margin-bottom: 1.25rem }
.heads { display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; font-size: .75rem; line-height: 1.2; padding: .25rem 0 }
.heads span { overflow-wrap: anywhere; padding-right: .25rem }
.panels { min-width: 30rem }
.thumb img { width: 6rem; min-width: 6rem }
footer { margin: 3rem 0 1rem; font-size: .875rem; opacity: .8 }
@media print { details { break-inside: avoid } }
"""


def _page(title, *children):
    # The policy makes sure of what this module promises: the page asks nobody for anything.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    now = datetime.datetime.now(datetime.UTC).isoformat(" ", "minutes").removesuffix("+00:00")
    head = [
        _Html('<meta charset="utf-8">'),
        _Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        _Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        _tag("title", title),
        _tag("style", _Html(_STYLE)),
    ]
    body = _tag("body", _tag("main", _joined(children)), _tag("footer", f"Written by experiments.report, {now} UTC."))
    return f'<!doctype html>\n<html lang="en">\n{_joined([_tag("head", _joined(head)), body])}\n</html>\n'


# ---------------------------------------------------------------------------------------------------------- the page of a run


def of_run(folder):
    """The HTML of a run's page. Raises errors.UserError as `read` does."""
    one = read(folder)
    name = one.folder.resolve().name
    return _page(
        f"{name}: {one.config.algorithm}, step {one.step}",
        _tag("h1", name),
        _facts(one),
        _grids(one),
        _curves(one),
        _scored(one),
        _config(one.config),
    )


def _facts(one):
    named = [" ".join(filter(None, [name, "x".join(map(str, spec.shape))])) for name, spec in one.specs.items()]
    seen, seconds, compiling = (one.last(key) for key in ("images_seen", "seconds", "compile_seconds"))
    facts = {
        "algorithm": one.config.algorithm,
        "images": f"{_source(one.config.data)} ({', '.join(named)})",
        "step": f"{one.step:,} (config.duration: {one.config.duration})",
        "images seen": seen and f"{seen:,.0f}",
        "parameters": None if one.parameters is None else f"{one.parameters:,}",
        "time trained": seconds and f"{_time(seconds)}, after {compiling or 0:.1f} s of compiling",
        "images a second": one.speed and f"{one.speed:.4g} (median)",
        "scored on": one.scores and _machine(one.scores[0].content.get("machine")),
    }
    return _table("The run", (), [[key, value] for key, value in facts.items() if value], "words")


def _source(data):
    sources = dict.fromkeys(value for key, value in data.items() if key.startswith("source") and value)
    return " and ".join(sources)


def _machine(facts):
    """The machine of a score in a line; None where it names none."""
    if not isinstance(facts, dict):
        return None
    device, count, cores, system, version = (
        facts.get(key, "?") for key in ("device_kind", "device_count", "cpu_count", "system", "jax_version")
    )
    return f"{count} {device}, {cores} CPU cores, {system}, JAX {version}"


def _time(seconds):
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


_SHOWN = 8  # grids over time


def _grids(one):
    """The last grid large, and before it the first, the one before the last, and some in between."""
    if not one.grids:
        return ""
    *earlier, (step, path) = one.grids
    chosen = sorted({round(i) for i in np.linspace(0, len(earlier) - 1, _SHOWN)}) if earlier else []
    what = f"grid of {', '.join(one.columns)}" if one.columns else "grid of generated images"
    last = _image(path, f"{what}, step {step}")
    if one.columns:
        heads = _tag("div", *(_tag("span", column) for column in one.columns), class_="heads")
        shown = _tag("div", heads, last, class_="panels")
        last = _tag("div", shown, class_="scroll", tabindex="0", role="region", aria_label="grid")
    figures = [
        _tag("figure", _image(path, f"{what}, step {step}", 800), _tag("figcaption", f"step {step:,}"))
        for step, path in (earlier[i] for i in chosen)
    ]
    return _section(
        "Test images and what becomes of them" if one.columns else "Generated images",
        _tag("figure", last, _tag("figcaption", f"step {step:,}, the latest"), class_="last"),
        figures and _tag("h3", "Before"),
        figures and _tag("div", *figures, class_="grids"),
    )


# ------------------------------------------------------------------------------------------------------------------- curves

_NO_CURVE = ("compile_seconds", "step_flops", "seconds", "images_seen")
_ORDER = ("loss", "eval/loss", "eval/fid", "eval/kid", "eval/", "grad_norm", "images_per_second")  # prefixes; then the others
_POINTS = 500  # of a curve; neighbours beyond are averaged
_INK = "#010203"  # stands for the colour of text, which is light on dark for some readers and the reverse for others


def _curves(one):
    names = [name for name in one.metrics if name not in _NO_CURVE]
    rank = {name: next((i for i, prefix in enumerate(_ORDER) if name.startswith(prefix)), len(_ORDER)) for name in names}
    curves = [_curve(name, *one.metrics[name]) for name in sorted(names, key=lambda name: (rank[name], name))]
    note = f"{one.skipped} unreadable lines of metrics.jsonl were skipped." if one.skipped else ""
    about = "Over steps; eval/ is measured on test images with the moving average of the parameters, all else while training."
    return _section(
        "Curves",
        curves and _tag("p", about),
        note and _tag("p", note, class_="note"),
        curves and _tag("div", *curves, class_="curves"),
    )


def _curve(name, steps, values):
    label = f"from {values[0]:.4g} at step {steps[0]:.0f} to {values[-1]:.4g} at step {steps[-1]:.0f}"
    if len(values) > 1:
        label += f"; least {values.min():.4g}, greatest {values.max():.4g}"
    caption = _tag("figcaption", _tag("strong", name), f" {values[-1]:.4g}")
    return _tag("figure", caption, _svg(f"{name}: {label}", _thinned(steps), _thinned(values)))


def _thinned(values):
    """(n,) to at most _POINTS means of consecutive numbers."""
    pieces = np.array_split(values, min(len(values), _POINTS))
    return np.array([piece.mean() for piece in pieces])


def _svg(label, x, y):
    """A curve as an SVG element to stand in HTML; logarithmic where the values spread over more than a factor of ten."""
    settings = dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "text.color"), _INK)
    settings |= {"svg.fonttype": "none", "svg.hashsalt": label, "font.size": 8, "axes.formatter.limits": (-3, 5)}
    with matplotlib.rc_context(settings):
        page = figure.Figure(figsize=(3.2, 1.8))
        axes = page.add_axes((0.17, 0.16, 0.79, 0.78))
        axes.plot(x, y, color="#3d7fd9", linewidth=1.2, marker="o", markersize=2.5 if len(x) < 40 else 0)
        if y.min() > 0 and y.max() > 10 * y.min():
            axes.set_yscale("log")
        axes.locator_params("x", nbins=5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.5, color=_INK)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        page.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # What a file needs and HTML does not: names of namespaces, sizes, a style for all elements, names of groups.
    text = re.sub(r'<!--.*?-->|<style.*?</style>| xmlns(:\w+)?="[^"]*"| id="[\w.]+_\d+"', "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"| version="[\d.]+"', "", text)
    text = text.replace("xlink:href", "href").replace(_INK, "currentColor")
    return _Html(text.replace("<svg", f'<svg role="img" aria-label="{_text(label)}"', 1))


# ------------------------------------------------------------------------------------------------------------------- scores

# ↓ and ↑ say which way is better.
_HEADINGS = {
    "fid": "Fréchet distance ↓",
    "fid.infinity": "… of unlimited samples ↓",
    "fid.slope": "… slope over 1 / images",
    "kid": "kernel distance x 1000 ↓",
    "kid.all_samples": "… of all samples x 1000 ↓",
    "is": "Inception Score ↑",
    "prdc.precision": "precision ↑",
    "prdc.recall": "recall ↑",
    "prdc.density": "density ↑",
    "prdc.coverage": "coverage ↑",
    "classes.coverage": "share of classes ↑",
    "classes.entropy": "entropy of classes, nats",
    "classes.relative_entropy": "entropy of classes, relative ↑",
    "classes.of_reference.coverage": "… share of classes, reference",
    "classes.of_reference.entropy": "… entropy, nats, reference",
    "classes.of_reference.relative_entropy": "… entropy, relative, reference",
    "diversity.pairwise_distance": "pairwise distance",
    "diversity.pairwise_ssim": "pairwise SSIM",
    "diversity.duplicates": "duplicates ↓",
    "memorisation.train": "distance to nearest training image",
    "memorisation.test": "distance to nearest test image",
    "memorisation.nearer": "nearer to training",
    "memorisation.interval": "nearer to training, interval",
    "memorisation.nearer_all": "… among all of both",
    "memorisation.chance": "… that by chance",
}


def _measures(scores, prefix=""):
    """Yields ('kid.all_samples', {'value': …, maybe 'interval', 'deviation'}) for each number of scores, but for each class's.

    Whole numbers are settings of a metric and not measured; `_settings` has them.
    """
    for key, value in scores.items():
        path = f"{prefix}{key}"
        if path == "classes.classes":
            continue
        if isinstance(value, dict):
            if "value" in value:
                yield path, value
            inner = ("value", "interval", "deviation") if "value" in value else ()
            yield from _measures({name: part for name, part in value.items() if name not in inner}, f"{path}.")
        elif isinstance(value, float):
            yield path, {"value": value}
        elif key == "interval":
            yield path, {"interval": value}


def _settings(scores, prefix=""):
    """Yields ('kid.subset_size', 1000) for each whole number of scores."""
    for key, value in scores.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{prefix}{key}.")
        elif isinstance(value, int):
            yield f"{prefix}{key}", value


def _cell(path, measure):
    """'1.98 [1.79, 2.19] ± 0.1', as far as there are such; '' for None."""
    if not measure:
        return ""
    scale = 1000 if path in ("kid", "kid.all_samples") else 1
    parts = []
    if _is_number(measure.get("value")):
        parts.append(f"{scale * measure['value']:.4g}")
    if "interval" in measure:
        parts.append(f"[{', '.join(f'{scale * bound:.3g}' for bound in measure['interval'])}]")
    if "deviation" in measure:
        parts.append(f"± {scale * measure['deviation']:.2g}")
    return " ".join(parts)


def _heading(path):
    return _HEADINGS.get(path) or path.replace(".", ": ").replace("_", " ")


def _scored(one):
    if not one.scores:
        command = f"python -m experiments.evaluate --workdir={one.folder}"
        return _section("Scores", _tag("p", "There are none yet: ", _tag("code", command), " makes them."))
    first, *others = [_score(score) for score in one.scores]
    older = others and [_details(_name(score), shown) for score, shown in zip(one.scores[1:], others)]
    about = "↓ less is better, ↑ more is better; [bootstrap interval of 95 %], ± standard deviation."
    overview = _boards([one]) if others else ""
    return _section("Scores", _tag("p", about), _tag("h3", _name(one.scores[0])), first, *older, overview)


def _name(score):
    """'step 300, steps 10: fashion, 2000 images'."""
    return f"{_label(score)}: {_comparison(score.content['protocol'])}"


def _label(score):
    return ", ".join(f"{key} {value}" for key, value in score.content["label"].items())


def _comparison(protocol):
    """Which images were compared with which, in a line."""
    reference, features = protocol["reference"], protocol["features"]
    split = f" ({reference['split']})" if "split" in reference else ""
    against = f"{reference.get('num') or ''} of {reference.get('source', '?')}{split}".strip()
    return f"{protocol['images'].get('num', '?')} images against {against}, in features {features.get('features', '?')}"


def _score(score):
    """One report: its table beside the anchors, warnings, classes, neighbours, and all that it depends on."""
    content = score.content
    columns = {"these images": content["scores"]} | content.get("anchors", {})
    measures = {name: dict(_measures(scores)) for name, scores in columns.items()}
    paths = list(dict.fromkeys(path for found in measures.values() for path in found))
    rows = [[_heading(path), *(_cell(path, found.get(path)) for found in measures.values())] for path in paths]
    seconds = content.get("seconds")
    facts = {
        "file": score.path.name,
        "date": content.get("date"),
        "time": seconds and _time(seconds),
        "machine": _machine(content.get("machine")),
    }
    neighbours = score.path.with_suffix(".neighbours.png")
    shown = neighbours.exists() and _tag(
        "figure",
        _image(neighbours, "rows of a generated image and its nearest training images"),
        _tag("figcaption", "Each row: a generated image, then the training images nearest to it, nearest first."),
        class_="last",
    )
    return _joined(
        [
            _table("Beside what gives the numbers a scale", ["", *columns], rows),
            *(_tag("p", warning, class_="note") for warning in content.get("warnings", ())),
            _classes(content["scores"]),
            shown and _joined([_tag("h3", "Nearest training images"), shown]),
            _table("How they were made", (), [[key, value] for key, value in facts.items() if value], "words"),
            _details("Protocol, every key", _protocol(content)),
        ]
    )


def _classes(scores):
    """A row a class, by the classifier's decisions; '' where there are none."""
    classes = scores.get("classes", {}).get("classes")
    if not classes:
        return ""
    keys = list(dict.fromkeys(key for one in classes.values() for key in one))
    headings = {"share": "share", "share_of_reference": "share of reference", "fid": "Fréchet distance ↓"}
    rows = [
        [name, *(_cell(key, {"value": one[key]} if _is_number(one.get(key)) else one.get(key)) for key in keys)]
        for name, one in classes.items()
    ]
    return _table("By class, as the classifier decides", ["class", *(headings.get(key, _heading(key)) for key in keys)], rows)


def _protocol(content):
    flat = {f"protocol.{key}": value for key, value in _flat(content["protocol"])}
    flat |= {f"settings.{key}": value for key, value in _settings(content["scores"])}
    if isinstance(content.get("machine"), dict):
        flat |= {f"machine.{key}": value for key, value in _flat(content["machine"])}
    return _listing("Protocol, settings and machine", flat)


def _flat(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _code(value):
    return _tag("code", value)


def _listing(caption, flat):
    """{key: value} as a table."""
    return _table(caption, ("key", "value"), [[_code(key), _long(value)] for key, value in flat.items()], "words")


def _long(value):
    """A string as it is, anything else as JSON."""
    return _code(value if isinstance(value, str) else json.dumps(value, default=str))


# ------------------------------------------------------------------------------------------------------------------- config


def _config(config):
    """The keys that differ from the family's defaults, and then all."""
    flat = config_lib.flatten(config)
    # A family's defaults are a function of its name; where a version has none, what all families share.
    known = config.algorithm in algorithms.ALGORITHMS
    defaults = config_lib.flatten(getattr(config_lib, config.algorithm if known else "common", config_lib.common)())
    missing = object()
    differing = [
        [_code(key), _long(value), _long(defaults[key]) if key in defaults else "none"]
        for key, value in flat.items()
        if value != defaults.get(key, missing)
    ]
    return _section(
        "Config",
        _table(
            "Keys that differ from the defaults (imagegen_jax/config.py)", ("key", "this run", "default"), differing, "words"
        ),
        _details(f"All {len(flat)} keys", _listing("config.json", flat)),
    )


# --------------------------------------------------------------------------------------------------------------- leaderboard

_BOARD = ("fid", "kid", "is", "prdc.precision", "prdc.recall", "prdc.density", "prdc.coverage", "memorisation.nearer")


def find(names: Iterable[str]) -> list[pathlib.Path]:
    """The folders of runs that names and patterns such as 'runs/*' mean; what else they mean is skipped, and said on stderr.

    Raises:
      errors.UserError: there is no such file or folder, or no run among them.
    """
    found = []
    for name in names:
        matched = [name] if pathlib.Path(name).exists() else sorted(glob.glob(name))
        if not matched:
            raise errors.UserError(f"--compare: there is no folder {name}")
        for path in map(pathlib.Path, matched):
            if (path / "config.json").exists():
                found.append(path)
            else:
                print(f"skipped: {path} is not the folder of a run", file=sys.stderr)
    if not found:
        raise errors.UserError("--compare: there is no run among them; name folders of runs, such as --compare='runs/*'")
    return list(dict.fromkeys(found))


def of_runs(folders):
    """The HTML of the leaderboard of several runs.

    Raises:
      errors.UserError: as `read` does, or none of them is scored.
    """
    runs = [read(folder) for folder in folders]
    unscored = [one for one in runs if not one.scores]
    if len(unscored) == len(runs):
        raise errors.UserError(
            f"none of the {len(runs)} runs has scores: make them with python -m experiments.evaluate --workdir={folders[0]}"
        )
    names = ", ".join(str(one.folder) for one in unscored)
    about = "Scores of one protocol, in one table, can be compared; numbers of two tables cannot. ↓ less is better, ↑ more is."
    note = f"Without scores, and left out: {names}. A run gets them from python -m experiments.evaluate --workdir=FOLDER."
    return _page(
        "Leaderboard",
        _tag("h1", "Leaderboard"),
        _tag("p", about),
        _boards(runs),
        unscored and _tag("p", note, class_="note"),
    )


def _boards(runs):
    """A table for each protocol, those with most rows first."""
    groups = {}
    for one in runs:
        for score in one.scores:
            groups.setdefault(_comparable(score.content), []).append((one, score))
    return _joined(_board(members) for members in sorted(groups.values(), key=len, reverse=True))


def _comparable(content):
    """What two scores must share for their numbers to be compared, as text."""
    about = content["protocol"]
    shared = {name: about.get(name) for name in ("reference", "features", "quantised")} | {"num": about["images"].get("num")}
    return json.dumps(shared, sort_keys=True)


def _board(members):
    """The table of one protocol: a row for each score, and for each anchor, by Fréchet distance."""
    contents = [score.content for _, score in members]
    rows = [(score.content["scores"], "board", _about(one, score)) for one, score in members]
    anchors = functools.reduce(lambda found, content: content.get("anchors", {}) | found, contents, {})
    rows += [(scores, "board anchor", [name, "anchor", *[""] * 5]) for name, scores in anchors.items()]
    measures = [dict(_measures(scores)) for scores, _, _ in rows]
    paths = [path for path in _BOARD if any(path in found for found in measures)]
    order = sorted(range(len(rows)), key=lambda i: measures[i].get("fid", {}).get("value", math.inf))
    table = []
    for i in order:
        name, scored, picture, *facts = rows[i][2]
        numbers = (_cell(path, measures[i].get(path)) for path in paths)
        table.append([name, scored, picture, *numbers, *facts])
    headings = ["run", "scored", "images", *map(_heading, paths), "family", "parameters", "time trained", "images a second"]
    caption = _comparison(contents[0]["protocol"])
    shared = _flat(json.loads(_comparable(contents[0])))
    protocol = _listing("What these scores share", dict(shared))
    warnings = dict.fromkeys(warning for content in contents for warning in content.get("warnings", ()))
    return _section(
        caption[0].upper() + caption[1:],
        _table("By Fréchet distance, anchors in grey", headings, table, classes=[rows[i][1] for i in order]),
        *(_tag("p", warning, class_="note") for warning in warnings),
        _details("Protocol", protocol),
    )


def _about(one, score):
    """The cells of a leaderboard that say which run, and what it took."""
    step = _step(score)
    picture = _image(one.grids[-1][1], f"images of {one.folder}, step {one.grids[-1][0]}", 256) if one.grids else ""
    seconds = one.last("seconds", step)
    return [
        one.folder,
        _label(score),
        picture and _tag("div", picture, class_="thumb"),
        one.config.algorithm,
        "" if one.parameters is None else f"{one.parameters:,}",
        _time(seconds) if seconds else "",
        f"{one.speed:.4g}" if one.speed else "",
    ]


# --------------------------------------------------------------------------------------------------------------------- file


def check(out):
    """Raises errors.UserError where `out` is not the path of a page."""
    if pathlib.Path(out).suffix != ".html" or pathlib.Path(out).is_dir():
        raise errors.UserError(f"--out={out}: give a file, a path ending in .html")


def save(out, text):
    """Writes a page, as a whole or not at all. Raises errors.UserError."""
    with files.draft(out, f"--out={out}: cannot write it") as draft:
        draft.write_text(text, "utf-8", errors="replace")  # names of files need not be text
