"""Scores of sets of images against one reference, each with all that it depends on.

What was computed before is not computed again where all that it depends on is the same: a score by its protocol, features by
those of the network and of the images, and both by the versions of this package and of JAX.
"""

from collections.abc import Callable
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import pathlib
import time
from typing import Any

from imagegen_jax import files
from imagegen_jax import machine
from imagegen_jax import progress
from imagegen_jax.data import fingerprints
from imagegen_jax.evaluation import collection
from imagegen_jax.evaluation import distances
from imagegen_jax.evaluation import image_sets
from imagegen_jax.evaluation import measures
from imagegen_jax.evaluation import scoring

HELDOUT = "heldout"  # of a run and not of its images: what its algorithm measures on all test images


@dataclasses.dataclass(frozen=True)
class Heldout:
    """What is measured of a run on its test images.

    Attributes:
      protocol: what the numbers depend on, beside the run, as JSON.
      measure: () -> {metric: mean over the images, or several numbers}.
    """

    protocol: dict[str, Any]
    measure: Callable[[], dict[str, float | list[float]]]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A set of images to be scored.

    Attributes:
      images: the image_sets.ImageSet.
      num: how many of them.
      reference: split -> the image_sets.ImageSet that they are compared with, of 'test' or 'train'; None where there is none.
      label: what sets it apart from the others of a command, such as {'step': 300}.
      folder: where its scores go; None for nowhere of its own.
      heldout: Heldout; None where there is no run or no test split.
      labelled: whether it is known which class each image should be of.
    """

    images: image_sets.ImageSet
    num: int
    reference: Callable[[str], image_sets.ImageSet | None]
    label: dict[str, Any]
    folder: pathlib.Path | None = None
    heldout: Heldout | None = None
    labelled: bool = False


def reference_of(extractor, images, training=None):
    """The scoring.Reference of a set of images.

    Args:
      extractor: a features.Extractor.
      images: the image_sets.ImageSet of the reference.
      training: that of its training images, if they are to be looked through.
    """
    compared = _collected(extractor, images, images.num, "reference images")
    seen = training and _collected(extractor, training, training.num, "training images")
    network = extractor.features.class_names
    names = scoring.common_classes(network, images.class_names, compared.logits, compared.labels)
    moments = distances.Moments.of(compared.features)
    return scoring.Reference(moments, images.protocol, compared, seen, training, names, () if names else network)


class Scorer:
    """Scores sets of images by the same metrics against the same reference."""

    def __init__(self, extractor, reference, metrics, reference_sets, num):
        """Nothing is computed yet.

        Args:
          extractor: a features.Extractor.
          reference: scoring.Reference.
          metrics: keys of scoring.METRICS.
          reference_sets: {name: image_sets.ImageSet}, whose scores give the numbers a scale; those of fewer than `num` images
            are left out.
          num: how many images of each are scored.
        """
        self._extractor = extractor
        self._reference = reference
        self._metrics = metrics
        self._reference_sets = {name: images for name, images in reference_sets.items() if images.num >= num}
        self._num = num

    def report(self, subject, picture=None):
        """A Subject's scores and all that they depend on, as JSON; they are kept in its folder.

        Args:
          subject: Subject.
          picture: (path, collection.Collection) -> None, which writes '<score>.neighbours.png' where `memorisation` is scored.
        """
        protocol = self._protocol(subject)
        name = f"{subject.label.get('step')}-{_kind(protocol)}-{fingerprints.digest(protocol)}.json"
        path = subject.folder and subject.folder / name
        if path and path.exists():
            progress.tell(f"scored before, in {path}")
            return json.loads(path.read_text())
        reference_scores = self._reference_scores
        begin = time.monotonic()
        pieces = _pieces(self._extractor, subject.images, subject.num)
        what = measures.label(subject.label)
        collected = collection.collect(self._extractor, subject.images.batches, subject.num, pieces, what)
        scores = scoring.score(collected, self._reference, self._metrics)
        if subject.heldout:
            scores[HELDOUT] = subject.heldout.measure()
        report = {
            "label": subject.label,
            "scores": scores,
            "anchors": reference_scores,  # the key that earlier reports have
            "protocol": protocol,
            "warnings": scoring.warnings(collected, self._reference),
            "seconds": time.monotonic() - begin,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine.facts(),
        }
        if path:
            if picture and "memorisation" in self._metrics:
                picture(path.with_suffix(".neighbours.png"), collected)
            write(path, report)
        collection.discard(pieces)
        return report

    def _protocol(self, subject):
        protocol = {
            "images": subject.images.protocol | {"num": subject.num},
            "reference": self._reference.protocol | {"num": self._reference.moments.count},
            "features": self._extractor.features.protocol,
            "metrics": self._metrics + [HELDOUT] * bool(subject.heldout),
            "quantised": "uint8",
            "versions": _versions(),
        }
        if "memorisation" in self._metrics:
            protocol["training"] = self._reference.training_set.protocol
        if subject.heldout:
            protocol[HELDOUT] = subject.heldout.protocol
        if self._reference_sets:
            protocol["anchors"] = {name: images.protocol for name, images in self._reference_sets.items()}
        return protocol

    @functools.cached_property
    def _reference_scores(self):
        metrics = [name for name in self._metrics if name != "memorisation"]
        scores = {}
        for name, images in self._reference_sets.items():
            collected = _collected(self._extractor, images, self._num, name)
            scores[name] = scoring.score(collected, self._reference, metrics)
        return scores


def write(path, report):
    """Writes a report, or a list of them, as JSON. Raises errors.UserError."""
    with files.atomic_write(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")


def _kind(protocol):
    return protocol["features"]["features"].split(":")[0]


def _collected(extractor, images, num, what):
    """A Collection that is kept for other scores with the same features."""
    pieces = _pieces(extractor, images, num)
    path = pieces.with_suffix(".npz")
    found = collection.load(path)
    if found is None:
        found = collection.collect(extractor, images.batches, num, pieces, what)
        collection.save(path, found)
        collection.discard(pieces)
    return found


def _pieces(extractor, images, num):
    """The folder for what is collected of a set of images, until it is whole."""
    key = fingerprints.digest(extractor.features.protocol, images.protocol, num, _versions())
    return files.cache_folder() / "features" / key


def _versions():
    return {name: importlib.metadata.version(name) for name in ("imagegen_jax", "jax", "flax")}
