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
from imagegen_jax.evaluation import measures
from imagegen_jax.reports import history
from imagegen_jax.reports import page

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
    """The HTML of the leaderboard of several runs: scores of one protocol side by side, and never those of two.

    Raises:
      errors.UserError: as `history.read` does, or none of them is scored.
    """
    runs = [history.read(folder) for folder in folders]
    if not any(one.scores for one in runs):
        raise errors.UserError(
            f"none of the {len(runs)} runs has scores: make them with python -m experiments.evaluate --workdir={folders[0]}"
        )
    unscored = [str(one.folder) for one in runs if not one.scores]
    return page.render("leaderboard.html.jinja", boards=boards(runs), unscored=unscored)


def boards(runs):
    """[what a template shows of a protocol: a table of all scores that share it], those with most rows first."""
    groups = {}
    for one in runs:
        for score in one.scores:
            groups.setdefault(_comparable(score.content), []).append((one, score))
    return [_board(members) for members in sorted(groups.values(), key=len, reverse=True)]


def _comparable(content):
    """What two scores must share for their numbers to be compared, as text."""
    about = content["protocol"]
    shared = {name: about.get(name) for name in ("reference", "features", "quantised")} | {"num": about["images"].get("num")}
    return json.dumps(shared, sort_keys=True)


def _board(members):
    """A row for each score, and for each reference score, by Fréchet distance."""
    contents = [score.content for _, score in members]
    reference_scores = functools.reduce(lambda found, content: content.get("anchors", {}) | found, contents, {})
    rows = [_row(one, score) for one, score in members] + [
        {"kind": "board reference", "name": name, "scored": "reference", "picture": None, "scores": scores, "facts": [""] * 4}
        for name, scores in reference_scores.items()
    ]
    measured = [dict(measures.of(row["scores"])) for row in rows]
    paths = [path for path in _BOARD if any(path in found for found in measured)]
    for row, found in zip(rows, measured):
        row["distance"] = found.get("fid", {}).get("value", math.inf)
        row["numbers"] = [measures.cell(path, found.get(path)) for path in paths]
    caption = measures.comparison(contents[0]["protocol"])
    return {
        "title": caption[0].upper() + caption[1:],
        "measures": [measures.named(path).heading for path in paths],
        "rows": sorted(rows, key=lambda row: row["distance"]),
        "warnings": list(dict.fromkeys(warning for content in contents for warning in content.get("warnings", ()))),
        "shared": json.loads(_comparable(contents[0])),
    }


def _row(one, score):
    """Which run, what it took, and its scores."""
    pictures = one.grids or one.panels
    seconds = one.last("seconds", score.step)
    return {
        "kind": "board",
        "name": one.folder,
        "scored": measures.label(score.content["label"]),
        "picture": pictures[-1] if pictures else None,
        "scores": score.content["scores"],
        "facts": [
            one.config["algorithm"],
            "" if one.parameters is None else f"{one.parameters:,}",
            page.duration(seconds) if seconds else "",
            f"{one.speed:.4g}" if one.speed else "",
        ],
    }
