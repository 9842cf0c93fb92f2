"""Pictures of scores."""

from imagegen_jax import files
from imagegen_jax.evaluation import measures


def sweep(path, reports):
    """The Fréchet distance of several reports over what was varied, with its interval, as a PNG.

    Args:
      path: where to.
      reports: of experiments.evaluate; their labels name what was varied. The first numeric key with several values is the
        axis, and there is a line for each combination of the others.
    """
    from matplotlib import figure  # takes a second to import, and most scores need no picture

    labels = [report["label"] for report in reports]
    keys = [key for key in labels[0] if len({label.get(key) for label in labels}) > 1]
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
