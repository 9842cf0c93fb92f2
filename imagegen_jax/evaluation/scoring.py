"""Scores: which numbers are made of collected features, and how they are shown."""

import dataclasses
from typing import Any

import numpy as np

from imagegen_jax import errors
from imagegen_jax import tables
from imagegen_jax.evaluation import collection
from imagegen_jax.evaluation import distances
from imagegen_jax.evaluation import image_sets
from imagegen_jax.evaluation import measures
from imagegen_jax.evaluation import prdc

_ENOUGH = 2048  # fewer samples are too few for the Fréchet distance of Inception's 2048 features
_SUBSET = 1000  # of the kernel distance


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """What images are compared with.

    Attributes:
      moments: of its features.
      protocol: what a score's protocol says of it.
      images: the set itself; None where only its statistics are known.
      training: the training images, for `memorisation`; None where there are none.
      training_set: the image_sets.ImageSet of these.
      class_names: of the logits; empty where they mean no class of these images.
      other_classes: names of what the logits mean instead, where the features are a classifier's of other images.
    """

    moments: distances.Moments
    protocol: dict[str, Any]
    images: collection.Collection | None = None
    training: collection.Collection | None = None
    training_set: image_sets.ImageSet | None = None
    class_names: tuple[str, ...] = ()
    other_classes: tuple[str, ...] = ()


def common_classes(network, data, logits, labels):
    """The classes that a classifier tells and a data set has; () where those of the one are not those of the other.

    Names decide. Where one side has only numbers, which any data has, the images do: the classifier sees the class that each is
    labelled as in most of them.

    Args:
      network: the classifier's class names.
      data: those of the data set.
      logits: (n, k) of images of the data set.
      labels: (n,) of these, -1 where there is none.

    Returns:
      The names of the data set, or of the classifier where only those say more than a number.
    """
    if not network or len(network) != len(data):
        return ()
    if _named(network) and _named(data):
        return tuple(data) if tuple(network) == tuple(data) else ()
    known = labels >= 0
    if not known.any() or np.mean(logits.argmax(1)[known] == labels[known]) <= 0.5:
        return ()
    return tuple(network if _named(network) else (name or str(i) for i, name in enumerate(data)))


def _named(names):
    return not all(name in ("", str(i)) for i, name in enumerate(names))


def other_classes_note(names, remedy):
    """What is to be said of a classifier's features where its classes, of these names, are not those of the images."""
    listed = ", ".join(name or str(i) for i, name in enumerate(names[:3]))
    return f"the features are those of a classifier of other images ({listed}, ...), and may not see what matters: {remedy}"


def _frechet(generated, reference):
    own = distances.Moments.of(generated.features)
    value = distances.frechet_distance(own, reference.moments)
    rows = [value + distances.frechet_influence(generated.features, own, reference.moments)]
    if reference.images is not None:
        rows.append(distances.frechet_influence(reference.images.features, reference.moments, own))
    score = {"value": value, "interval": distances.bootstrap(*rows)}
    if _few(generated):
        score["infinity"], score["slope"] = distances.frechet_infinity(generated.features, reference.moments)
    return score


def _kernel(generated, reference):
    real = reference.images.features
    value, deviation = distances.kernel_distance(generated.features, real, subset_size=_SUBSET)
    whole, *rows = distances.kernel_influence(generated.features, real)
    interval = distances.bootstrap(whole + rows[0], rows[1])
    return {"value": value, "deviation": deviation, "subset_size": _SUBSET, "all_samples": whole, "interval": interval}


def _inception_score(generated, reference):
    value, deviation = distances.inception_score(generated.logits)
    return {"value": value, "deviation": deviation, "splits": 10}


def _prdc(generated, reference):
    rows = prdc.prdc_rows(reference.images.features, generated.features)
    scores = {name: {"value": float(row.mean()), "interval": distances.bootstrap(row)} for name, row in rows.items()}
    return scores | {"neighbours": {"precision": 3, "recall": 3, "density": 5, "coverage": 5}}


def _classes(generated, reference):
    """By the decisions of the classifier, on both sides."""
    names = reference.class_names
    ours, theirs = (one.logits.argmax(1) for one in (generated, reference.images))
    score = distances.class_coverage(ours, len(names))
    score["of_reference"] = distances.class_coverage(theirs, len(names))
    score["classes"] = {name: _one_class(generated, reference, ours == i, theirs == i) for i, name in enumerate(names)}
    return score


def _one_class(generated, reference, ours, theirs):
    score = {"share": float(ours.mean()), "share_of_reference": float(theirs.mean())}
    if min(ours.sum(), theirs.sum()) > 1:
        moments = (distances.Moments.of(one.features[rows]) for one, rows in ((generated, ours), (reference.images, theirs)))
        score["fid"] = distances.frechet_distance(*moments)
    return score


def _labels(generated, reference):
    """How often the classifier sees the class that an image was drawn as, or that the data says it is of."""
    hits = (generated.logits.argmax(1) == generated.labels).astype(np.float64)
    return {"value": float(hits.mean()), "interval": distances.bootstrap(hits)} if (generated.labels >= 0).all() else {}


def _memorisation(generated, reference):
    found = prdc.memorisation(generated.features, reference.training.features, reference.images.features)
    return found.scores() | {"interval": distances.bootstrap(found.nearer)}


def _diversity(generated, reference):
    return {
        "pairwise_distance": prdc.pairwise_distance(generated.features),
        "pairwise_ssim": prdc.pairwise_ssim(generated.images / np.float32(255)),
        "duplicates": prdc.duplicate_rate(generated.features),
    }


METRICS = {
    "fid": _frechet,
    "kid": _kernel,
    "is": _inception_score,
    "prdc": _prdc,
    "classes": _classes,
    "labels": _labels,
    "diversity": _diversity,
    "memorisation": _memorisation,
}
_LEAST = {"fid": 4, "kid": _SUBSET, "is": 10, "prdc": 6, "classes": 1, "labels": 1, "diversity": 2, "memorisation": 1}


def chosen(metrics, num, reference, logits, labelled):
    """The metrics to compute, before anything is drawn.

    Args:
      metrics: keys of METRICS; None for all that can be had.
      num: how many images will be scored.
      reference: the Reference.
      logits: whether the features come with logits.
      labelled: whether it is known which class each image should be of.

    Raises:
      errors.UserError: one of them does not exist or cannot be had.
    """
    names = METRICS if metrics is None else metrics
    objections = {name: _objection(name, num, reference, logits, labelled) for name in names}
    if metrics is None:
        return [name for name, objection in objections.items() if not objection]
    for name, objection in objections.items():
        if objection:
            raise errors.UserError(f"--metrics={name}: {objection}")
    return list(metrics)


def _objection(name, num, reference, logits, labelled):
    """Why a metric cannot be had; None where it can."""
    if name not in METRICS:
        return f"choose of {', '.join(METRICS)}"
    if reference.images is None and name not in ("fid", "is", "diversity"):
        return "the reference is statistics without images, which give fid alone"
    if (name == "is" and not logits) or (name in ("classes", "labels") and not reference.class_names):
        of_them = " of these images' classes" if name != "is" and reference.other_classes else ""
        return f"it needs the logits of a classifier{of_them}: choose other --features, or leave it out"
    if name == "labels" and not labelled:
        return "these images were not drawn as one class or another: leave it out"
    if name == "memorisation" and reference.training is None:
        return "it needs training and test images, and the reference has not both: leave it out"
    smallest = num if reference.images is None else min(num, len(reference.images))
    if smallest < _LEAST[name]:
        return f"{smallest} images are too few, it needs {_LEAST[name]}: raise --num, or leave it out"
    return None


def score(generated, reference, metrics):
    """{metric: its numbers, as JSON} of a Collection against a Reference; `metrics` are keys of METRICS."""
    return {name: METRICS[name](generated, reference) for name in metrics}


def _few(generated):
    return len(generated) < max(_ENOUGH, 5 * generated.features.shape[1])


def warnings(generated, reference):
    """What a reader of the scores should know, as sentences."""
    found = []
    if reference.other_classes:
        remedy = "train one on them (configs/classifier.py), and choose --features=run:WORKDIR"
        found.append(other_classes_note(reference.other_classes, remedy))
    width = generated.features.shape[1]
    for what, count in (("images", len(generated)), ("reference images", reference.moments.count)):
        if count is not None and count <= width:
            found.append(f"{count} {what} for {width} features: their covariance is singular, and the Fréchet distance biased")
    if _few(generated):
        found.append(
            f"{len(generated)} images are few: a Fréchet distance falls with their number; compare at one number only, "
            "or by its 'infinity'"
        )
    return found


# -------------------------------------------------------------------------------------------------------------- the table


def table(columns):
    """Scores side by side, as text.

    Args:
      columns: {heading: what `score` returns}.
    """
    measured = [dict(measures.of(scores)) for scores in columns.values()]
    lines = [["", *columns]]
    for path, measure in measures.MEASURES.items():
        if measure.brief and any(path in found for found in measured):
            lines.append([measure.name, *(measures.cell(path, found.get(path), brief=True) for found in measured)])
    return tables.aligned(lines)
