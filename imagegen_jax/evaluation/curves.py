"""The metrics of a run as curves, drawn in SVG that stands in a page."""

import io
import re

import matplotlib
from matplotlib import figure
import numpy as np

from imagegen_jax.evaluation import markup

_NO_CURVE = ("compile_seconds", "step_flops", "seconds", "hook_seconds", "images_seen", "kl_dimension/")  # prefixes
_ORDER = ("loss", "eval/loss", "eval/fid", "eval/kid", "eval/", "grad_norm", "images_per_second")  # prefixes; then the others
_POINTS = 500  # of a curve; neighbours beyond are averaged
_INK = "#010203"  # stands for the colour of text, which is light on dark for some readers and the reverse for others


def section(one):
    """The part of a page with the curves of a history.Run; '' where it has none."""
    names = [name for name in one.metrics if not name.startswith(_NO_CURVE)]
    rank = {name: next((i for i, prefix in enumerate(_ORDER) if name.startswith(prefix)), len(_ORDER)) for name in names}
    curves = [_curve(name, *one.metrics[name]) for name in sorted(names, key=lambda name: (rank[name], name))]
    note = f"{one.skipped} unreadable lines of metrics.jsonl were skipped." if one.skipped else ""
    about = "Over steps; eval/ is measured on test images with the moving average of the parameters, all else while training."
    return markup.section(
        "Curves",
        curves and markup.tag("p", about),
        note and markup.tag("p", note, class_="note"),
        curves and markup.tag("div", *curves, class_="curves"),
    )


def _curve(name, steps, values):
    label = f"from {values[0]:.4g} at step {steps[0]:.0f} to {values[-1]:.4g} at step {steps[-1]:.0f}"
    if len(values) > 1:
        label += f"; least {values.min():.4g}, greatest {values.max():.4g}"
    caption = markup.tag("figcaption", markup.tag("strong", name), f" {values[-1]:.4g}")
    return markup.tag("figure", caption, _svg(f"{name}: {label}", _thinned(steps), _thinned(values)))


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
    return markup.Html(text.replace("<svg", f'<svg role="img" aria-label="{markup.text(label)}"', 1))
