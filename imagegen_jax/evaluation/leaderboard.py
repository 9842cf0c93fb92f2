"""The leaderboard of several runs: scores of one protocol side by side, and never those of two."""

from collections.abc import Iterable
import functools
import glob
import json
import math
import pathlib
import sys

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax.evaluation import history
from imagegen_jax.evaluation import markup
from imagegen_jax.evaluation import measures

_BOARD = ("fid", "kid", "is", "prdc.precision", "prdc.recall", "prdc.density", "prdc.coverage", "memorisation.nearer")


def find(names: Iterable[str]) -> list[pathlib.Path]:
    """The folders of runs that names and patterns such as 'runs/*' mean; what else they mean is skipped, and said on stderr.

    Raises:
      errors.UserError: there is no such file or folder, or no run among them.
    """
    found = []
    for name in names:
        place = files.to_path(name)
        if place.exists():
            matched = [place]
        elif files.is_remote(place):
            matched = sorted(place.parent.glob(place.name))
        else:
            matched = list(map(pathlib.Path, sorted(glob.glob(name))))
        if not matched:
            raise errors.UserError(f"--compare: there is no folder {name}")
        for path in matched:
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
      errors.UserError: as `history.read` does, or none of them is scored.
    """
    runs = [history.read(folder) for folder in folders]
    unscored = [one for one in runs if not one.scores]
    if len(unscored) == len(runs):
        raise errors.UserError(
            f"none of the {len(runs)} runs has scores: make them with python -m experiments.evaluate --workdir={folders[0]}"
        )
    names = ", ".join(str(one.folder) for one in unscored)
    about = "Scores of one protocol, in one table, can be compared; numbers of two tables cannot. ↓ less is better, ↑ more is."
    note = f"Without scores, and left out: {names}. A run gets them from python -m experiments.evaluate --workdir=FOLDER."
    return markup.page(
        "Leaderboard",
        markup.tag("h1", "Leaderboard"),
        markup.tag("p", about),
        boards(runs),
        unscored and markup.tag("p", note, class_="note"),
    )


def boards(runs):
    """A table for each protocol, those with most rows first."""
    groups = {}
    for one in runs:
        for score in one.scores:
            groups.setdefault(_comparable(score.content), []).append((one, score))
    return markup.joined(_board(members) for members in sorted(groups.values(), key=len, reverse=True))


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
    measured = [dict(measures.of(scores)) for scores, _, _ in rows]
    paths = [path for path in _BOARD if any(path in found for found in measured)]
    order = sorted(range(len(rows)), key=lambda i: measured[i].get("fid", {}).get("value", math.inf))
    table = []
    for i in order:
        name, scored, picture, *facts = rows[i][2]
        numbers = (measures.cell(path, measured[i].get(path)) for path in paths)
        table.append([name, scored, picture, *numbers, *facts])
    columns = [measures.named(path).heading for path in paths]
    headings = ["run", "scored", "images", *columns, "family", "parameters", "time trained", "images a second"]
    caption = measures.comparison(contents[0]["protocol"])
    protocol = markup.listing("What these scores share", json.loads(_comparable(contents[0])))
    warnings = dict.fromkeys(warning for content in contents for warning in content.get("warnings", ()))
    return markup.section(
        caption[0].upper() + caption[1:],
        markup.table("By Fréchet distance, anchors in grey", headings, table, classes=[rows[i][1] for i in order]),
        *(markup.tag("p", warning, class_="note") for warning in warnings),
        markup.details("Protocol", protocol),
    )


def _about(one, score):
    """The cells of a leaderboard that say which run, and what it took."""
    pictures = one.grids or one.panels
    picture = markup.image(pictures[-1][1], f"images of {one.folder}, step {pictures[-1][0]}", 256) if pictures else ""
    seconds = one.last("seconds", score.step)
    return [
        one.folder,
        measures.label(score.content["label"]),
        picture and markup.tag("div", picture, class_="thumb"),
        one.config.algorithm,
        "" if one.parameters is None else f"{one.parameters:,}",
        markup.duration(seconds) if seconds else "",
        f"{one.speed:.4g}" if one.speed else "",
    ]
