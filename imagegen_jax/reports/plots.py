"""Curves of metrics and scores, drawn with Matplotlib, which takes a second to import and is imported where it draws."""

import html
import io
import json
import re

from imagegen_jax import files
from imagegen_jax.evaluation import measures

_INK = "#010203"  # stands for the colour of text, which is light on dark for some readers and the reverse for others


def curve(label, x, y):
    """A curve as an SVG element to stand in HTML; logarithmic where the values spread over more than a factor of ten.

    Args:
      label: what those read who cannot see it.
      x: (n,) array.
      y: (n,) array.
    """
    import matplotlib
    from matplotlib import figure

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
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def sweep(path, reports):
    """The Fréchet distance of several reports over what was varied, with its interval, as a PNG.

    Args:
      path: where to.
      reports: of experiments.evaluate; their labels name what was varied. The first numeric key with several values is the
        axis, and there is a line for each combination of the others.
    """
    from matplotlib import figure

    labels = [report["label"] for report in reports]
    keys = [key for key in labels[0] if len({json.dumps(label.get(key)) for label in labels}) > 1]
    numeric = [key for key in keys if all(isinstance(label.get(key), int | float) for label in labels)]
    axis = numeric[-1] if numeric else None
    lines = {}
    for report in reports:
        name = measures.label({key: report["label"].get(key) for key in keys if key != axis})
        lines.setdefault(name, []).append(report)
    page = figure.Figure(figsize=(5, 3.2), layout="constrained")
    axes = page.subplots()
    for name, members in lines.items():
        scores = [member["scores"]["fid"] for member in members]
        values = [score["value"] for score in scores]
        bars = [[value - score["interval"][0] for value, score in zip(values, scores)]]
        bars += [[score["interval"][1] - value for value, score in zip(values, scores)]]
        where = [member["label"][axis] for member in members] if axis else range(len(members))
        axes.errorbar(where, values, bars, marker="o", capsize=3, label=name or None)
    axes.set_xlabel(axis or "")
    axes.set_ylabel("Fréchet distance")
    axes.set_ylim(bottom=0)
    if len(lines) > 1:
        axes.legend()
    with files.atomic_write(path) as temporary:
        page.savefig(temporary, format="png", dpi=120)


def curves(path, label, members):
    """Several curves over steps in one picture, as a PNG, named in the order that they are given in.

    Args:
      path: where to.
      label: of the values.
      members: {name: {step: value}}.
    """
    from matplotlib import figure

    page = figure.Figure(figsize=(7, 4), layout="constrained")
    axes = page.subplots()
    for name, points in members.items():
        axes.plot(*zip(*sorted(points.items())), label=name, linewidth=1.2, marker="o", markersize=3)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.legend(fontsize=7)
    with files.atomic_write(path) as temporary:
        page.savefig(temporary, format="png", dpi=120)
