"""The page of a run: one HTML file, with everything in it and nothing to fetch or execute.

It shows what `history.read` finds in the run's folder. A picture eval/<name>.neighbours.png is shown with the scores of the
same name: a grid (images.grid) in which each row is a generated image and then its nearest training
images, by pixels and by features, nearest first.
"""

import numpy as np

from imagegen_jax import algorithms
from imagegen_jax import config as config_lib
from imagegen_jax.evaluation import curves
from imagegen_jax.evaluation import history
from imagegen_jax.evaluation import leaderboard
from imagegen_jax.evaluation import markup
from imagegen_jax.evaluation import measures


def of_run(folder):
    """The HTML of a run's page. Raises errors.UserError as `history.read` does."""
    one = history.read(folder)
    name = one.folder.resolve().name
    return markup.page(
        f"{name}: {one.config.algorithm}, step {one.step}",
        markup.tag("h1", name),
        _facts(one),
        _pictures("Generated images", "grid of generated images", one.grids, rows=one.rows),
        _pictures("Test images and what becomes of them", f"grid of {', '.join(one.columns)}", one.panels, one.columns),
        curves.section(one),
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
        "time trained": seconds and f"{markup.duration(seconds)}, after {compiling or 0:.1f} s of compiling",
        "images a second": one.speed and f"{one.speed:.4g} (median)",
        "scored on": one.scores and _machine(one.scores[0].content.get("machine")),
    }
    return markup.table("The run", (), [[key, value] for key, value in facts.items() if value], "words")


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


_SHOWN = 8  # pictures over time


def _pictures(title, what, pictures, columns=(), rows=()):
    """The last picture large, and before it the first, the one before the last, and some in between.

    Args:
      title: of the section.
      what: is to be seen.
      pictures: [(step, path)], ascending; of none, there is no section.
      columns: what each column of a picture shows; none where they do not differ.
      rows: what each row shows, likewise.
    """
    if not pictures:
        return ""
    *earlier, (step, path) = pictures
    chosen = sorted({round(i) for i in np.linspace(0, len(earlier) - 1, _SHOWN)}) if earlier else []
    last = markup.image(path, f"{what}, step {step}")
    if columns:
        heads = markup.tag("div", *(markup.tag("span", column) for column in columns), class_="heads")
        shown = markup.tag("div", heads, last, class_="panels")
        last = markup.tag("div", shown, class_="scroll", tabindex="0", role="region", aria_label="grid")
    figures = [
        markup.tag("figure", markup.image(path, f"{what}, step {step}", 800), markup.tag("figcaption", f"step {step:,}"))
        for step, path in (earlier[i] for i in chosen)
    ]
    caption = f"step {step:,}, the latest" + (f"; rows, from the top: {', '.join(rows)}" if rows else "")
    return markup.section(
        title,
        markup.tag("figure", last, markup.tag("figcaption", caption), class_="last"),
        figures and markup.tag("h3", "Before"),
        figures and markup.tag("div", *figures, class_="grids"),
    )


def _scored(one):
    if not one.scores:
        command = f"python -m experiments.evaluate --workdir={one.folder}"
        return markup.section("Scores", markup.tag("p", "There are none yet: ", markup.tag("code", command), " makes them."))
    first, *others = [_score(score) for score in one.scores]
    older = others and [markup.details(_name(score), shown) for score, shown in zip(one.scores[1:], others)]
    about = "↓ less is better, ↑ more is better; [bootstrap interval of 95 %], ± standard deviation."
    overview = leaderboard.boards([one]) if others else ""
    return markup.section("Scores", markup.tag("p", about), markup.tag("h3", _name(one.scores[0])), first, *older, overview)


def _name(score):
    """'step 300, steps 10: fashion, 2000 images'."""
    return f"{measures.label(score.content['label'])}: {measures.comparison(score.content['protocol'])}"


def _score(score):
    """One report: its table beside the anchors, warnings, classes, neighbours, and all that it depends on."""
    content = score.content
    columns = {"these images": content["scores"]} | content.get("anchors", {})
    measured = [dict(measures.of(scores)) for scores in columns.values()]
    paths = list(dict.fromkeys(path for found in measured for path in found))
    rows = [[measures.named(path).heading, *(measures.cell(path, found.get(path)) for found in measured)] for path in paths]
    seconds = content.get("seconds")
    facts = {
        "file": score.path.name,
        "date": content.get("date"),
        "time": seconds and markup.duration(seconds),
        "machine": _machine(content.get("machine")),
    }
    neighbours = score.path.with_suffix(".neighbours.png")
    shown = neighbours.exists() and markup.tag(
        "figure",
        markup.image(neighbours, "rows of a generated image and its nearest training images"),
        markup.tag(
            "figcaption", "Each row: a generated image, then the training images nearest to it, by pixels and features."
        ),
        class_="last",
    )
    return markup.joined(
        [
            markup.table("Beside what gives the numbers a scale", ["", *columns], rows),
            *(markup.tag("p", warning, class_="note") for warning in content.get("warnings", ())),
            _classes(content["scores"]),
            shown and markup.joined([markup.tag("h3", "Nearest training images"), shown]),
            markup.table("How they were made", (), [[key, value] for key, value in facts.items() if value], "words"),
            markup.details("Protocol, every key", _protocol(content)),
        ]
    )


def _classes(scores):
    """A row a class, by the classifier's decisions; '' where there are none."""
    classes = scores.get("classes", {}).get("classes")
    if not classes:
        return ""
    keys = list(dict.fromkeys(key for one in classes.values() for key in one))
    headings = [measures.named(key).heading for key in keys]
    rows = [
        [name, *(measures.cell(key, {"value": one[key]} if measures.is_number(one.get(key)) else one.get(key)) for key in keys)]
        for name, one in classes.items()
    ]
    return markup.table("By class, as the classifier decides", ["class", *headings], rows)


def _protocol(content):
    tree = {"protocol": content["protocol"], "settings": dict(measures.settings(content["scores"]))}
    if isinstance(content.get("machine"), dict):
        tree["machine"] = content["machine"]
    return markup.listing("Protocol, settings and machine", tree)


def _config(config):
    """The keys that differ from the family's defaults, and then all."""
    flat = config_lib.flatten(config)
    # A family's defaults are a function of its name; where a version has none, what all families share.
    known = config.algorithm in algorithms.ALGORITHMS
    defaults = config_lib.flatten(getattr(config_lib, config.algorithm if known else "common", config_lib.common)())
    missing = object()
    differing = [
        [markup.code(key), markup.long(value), markup.long(defaults[key]) if key in defaults else "none"]
        for key, value in flat.items()
        if value != defaults.get(key, missing)
    ]
    return markup.section(
        "Config",
        markup.table(
            "Keys that differ from the defaults (imagegen_jax/config.py)", ("key", "this run", "default"), differing, "words"
        ),
        markup.details(f"All {len(flat)} keys", markup.listing("config.json", flat)),
    )
