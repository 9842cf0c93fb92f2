"""Scores a run, or a folder of images, and writes down everything that the numbers depend on.

python -m experiments.evaluate --workdir=runs/ddpm --num=2000
python -m experiments.evaluate --samples=drawn/ --reference=fashion_mnist_10k --out=scores.json

A score is one JSON object: the scores, the same scores of anchors (training images, random pixels), and the protocol, which
names the features, the reference and the images. A run's go to eval/ in its folder, with a picture of some of its images beside
the training images nearest to them, <score>.neighbours.png.
"""

from collections.abc import Callable
import datetime
import functools
import importlib.metadata
import itertools
import json
import pathlib
import sys
import time
from typing import Any
from typing import NamedTuple

from absl import flags
import jax
import numpy as np

from imagegen_jax import command_line
from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import machine
from imagegen_jax import rng
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import cyclegan
from imagegen_jax.data import domains
from imagegen_jax.data import fingerprints
from imagegen_jax.evaluation import bounds
from imagegen_jax.evaluation import collection
from imagegen_jax.evaluation import distances
from imagegen_jax.evaluation import evaluator
from imagegen_jax.evaluation import features
from imagegen_jax.evaluation import manifold
from imagegen_jax.evaluation import measures
from imagegen_jax.evaluation import origins
from imagegen_jax.evaluation import plots
from imagegen_jax.evaluation import scoring
from imagegen_jax.generation import latents
from imagegen_jax.generation import output
from imagegen_jax.generation import requests as requests_lib
from imagegen_jax.generation import sampling
from imagegen_jax.training import checkpoint
from imagegen_jax.training import run
from imagegen_jax.training import sharding

_HELDOUT = "heldout"  # of the run and not of its images: what its algorithm measures on all test images

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run whose images are scored.")
_SAMPLES = flags.DEFINE_string("samples", None, "Images to score instead: a folder, or an .npz with uint8 NHWC under 'images'.")
_REFERENCE = flags.DEFINE_string(
    "reference",
    None,
    "What they are compared with: what config.data.source takes, a folder, an .npz of images or of statistics (mu, sigma); "
    "by default the data of the run.",
)
_REFERENCE_SPLIT = flags.DEFINE_enum("reference_split", "test", ["test", "train"], "Which images of the reference.")
_NUM = flags.DEFINE_integer("num", 2000, "How many images are scored; of --samples, at most.")
_METRICS = flags.DEFINE_list("metrics", None, f"Of {', '.join([*scoring.METRICS, _HELDOUT])}; by default all that can be had.")
_FEATURES = flags.DEFINE_string("features", "fashion", f"What images are compared in: {', '.join(features.NAMES)}.")
_INCEPTION = flags.DEFINE_string("inception", None, "FILE of --features=inception, .pth or .safetensors.")
_VGG = flags.DEFINE_string("vgg", None, "FILE of --features=vgg, .pth or .safetensors.")
_RESIZE = flags.DEFINE_string("resize", None, "How images are resized for these two; by default as their first users did.")
_SEED = flags.DEFINE_integer("seed", 0, "Image i of a run depends on the seed and on i alone.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Step of the checkpoint, best or all; by default the latest.")
_EMA = flags.DEFINE_bool("ema", True, "Score the moving average of the parameters.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images drawn at once; by default the run's sample.batch_size.")
_IMPORTANCE_SAMPLES = flags.DEFINE_integer(
    "importance_samples", None, "Held-out likelihoods of a VAE also by the importance-weighted bound of so many samples."
)
requests_lib.define()
flags.adopt_module_key_flags(requests_lib)  # for --help
_SWEEP = flags.DEFINE_list("sweep", [], "Score each combination, such as steps:10,20,50 or steps:10,20,sampler:ddpm,ddim.")
_DIRECTION = flags.DEFINE_enum("direction", "ab", cyclegan.DIRECTIONS, "Of a CycleGAN: which translations are scored.")
_ANCHORS = flags.DEFINE_bool("anchors", True, "Score training images and random pixels too, to give the numbers a scale.")
_OUT = flags.DEFINE_string("out", None, "Also write the scores here, a path ending in .json.")

_FEATURE_BATCH = 100
_SHOWN = 16  # images whose nearest training images are shown
_NEAREST = 5  # so many of them, by pixels and by features
_FEW = 20_000  # training images that are looked through without being asked to


def main():
    """Reads top to bottom: check everything; collect the reference; then collect and score each set of images."""
    _check_flags()
    file = {"inception": _INCEPTION.value, "vgg": _VGG.value}.get(_FEATURES.value)
    network = features.named(f"{_FEATURES.value}:{file}" if file else _FEATURES.value, _RESIZE.value)
    extractor = features.Extractor(network, sharding.make_mesh(jax.device_count()), _FEATURE_BATCH)
    subjects = _runs() if _WORKDIR.value else _files()
    first = next(subjects)
    reference, about, seen = _reference(extractor, first)
    asked = _METRICS.value and [name for name in _METRICS.value if name != _HELDOUT]
    metrics = scoring.chosen(asked, first.num, reference, extractor.has_logits(first.origin.shape), first.labelled)

    anchors = _anchors(extractor, first, reference, metrics) if _ANCHORS.value else {}
    every = itertools.chain([first], subjects)
    reports = [_report(extractor, subject, reference, about, seen, metrics, anchors) for subject in every]
    if _OUT.value:
        _write(files.to_path(_OUT.value), reports if len(reports) > 1 else reports[0])
    if len(reports) > 1 and "fid" in metrics:
        name = f"sweep-{fingerprints.digest(_SWEEP.value)}.json"
        path = files.to_path(_OUT.value or files.to_path(_WORKDIR.value) / "eval" / name)
        plots.sweep(path.with_suffix(".png"), reports)


def _check_flags():
    command_line.check_at_least(num=2, batch_size=1, importance_samples=1)
    rng.check_seed(_SEED.value, "--seed")
    if bool(_WORKDIR.value) == bool(_SAMPLES.value):
        raise errors.UserError("give either --workdir, a run whose images are scored, or --samples, images that exist")
    if _SAMPLES.value and not _REFERENCE.value:
        raise errors.UserError("--reference is missing: --samples are compared with it, such as --reference=fashion_mnist_10k")
    if _SAMPLES.value:
        _check_draws("--samples are there already, and nothing is drawn")
    if _OUT.value and not _OUT.value.endswith(".json"):
        raise errors.UserError(f"--out={_OUT.value}: give a path ending in .json")
    if jax.process_count() > 1:
        raise errors.UserError("scores are made in one process: start it on one host, without --distributed")


def _check_draws(reason):
    """Raises errors.UserError where options of drawing are given, which this reason forbids."""
    requests_lib.check_none(reason)
    if _SWEEP.value:
        raise errors.UserError(f"--sweep: {reason}; leave it out")


# ---------------------------------------------------------------------------------------------------- the images to be scored


class _Subject(NamedTuple):
    """A set of images to be scored.

    Attributes:
      origin: the images.
      label: what sets it apart from the others of this command, such as {'step': 300}.
      section: the `data` section of the images that the run should make; None where there is no run.
      folder: where its scores go; None for nowhere of its own.
      heldout: () -> {metric: mean over the test images}; None where there is no run or no test split.
      labelled: whether it is known which class each image should be of.
    """

    origin: origins.Origin
    label: dict[str, Any]
    section: Any = None
    folder: pathlib.Path | None = None
    heldout: Callable | None = None
    labelled: bool = False

    @property
    def num(self):
        return min(_NUM.value, self.origin.num)


def _files():
    origin = origins.named(_SAMPLES.value)
    _, labels = next(origin.batches(0))
    yield _Subject(origin, {"samples": _SAMPLES.value}, labelled=bool((labels >= 0).all()))


def _runs():
    """A subject for each checkpoint and each request of the sweep, each checked before the first is drawn."""
    folder = files.to_path(_WORKDIR.value)
    swept = requests_lib.sweep(_SWEEP.value, requests_lib.options())
    asked = requests_lib.latents()
    mesh = sharding.make_mesh(jax.device_count())
    steps = checkpoint.available_steps(folder / run.CHECKPOINTS) if _CHECKPOINT.value == "all" else [_CHECKPOINT.value]
    for wanted in steps or [None]:  # where there is none, to load the latest is the error that says so
        loaded = run.load(folder, wanted, _EMA.value)
        config, algorithm, state, step = loaded
        _, specs = run.load_config(folder)
        about = {
            "run": folder.name,
            "algorithm": config.algorithm,
            "step": step,
            "ema": _EMA.value,
            "parameters": fingerprints.digest(*jax.tree.leaves(jax.device_get((state.params, state.extra)))),
        }
        heldout = _heldout(config, algorithm, state, mesh, specs)
        if algorithm.domains == ("a", "b"):
            _check_draws("a CycleGAN's translations are not drawn, and have no options")
            section, origin = _translated(config, algorithm, state, mesh, about)
            yield _Subject(origin, {"step": step}, section, folder / "eval", heldout)
            continue
        requests = [requests_lib.numbered(request, specs) for request in swept]
        for request in requests:
            options = latents.resolve(asked, algorithm, specs, **request)
        labels = [request["label"] for request in requests if "label" in request]
        draw, fitted = latents.drawing(options, folder, loaded, _EMA.value, specs, mesh, labels)
        drawer = sampling.Drawer(algorithm, mesh, _BATCH_SIZE.value or config.sample.batch_size, draw)
        for request in requests:
            origin = _drawn(algorithm, state, specs[""].shape, drawer, about | fitted, request)
            labelled = algorithm.classes > 0 or "label" in request
            kind = {} if asked.kind is None else {"latents": options.kind}
            yield _Subject(origin, {"step": step} | kind | request, config.data, folder / "eval", heldout, labelled)


def _heldout(config, algorithm, state, mesh, specs):
    """() -> the means of what is measured of all test images, computed once; None where there are none."""
    tighter = _IMPORTANCE_SAMPLES.value is not None and bounds.importance_weighted(algorithm, _IMPORTANCE_SAMPLES.value)
    if _METRICS.value and _HELDOUT not in _METRICS.value:
        return None
    test_set = domains.open_domains(config.data, "test", specs)
    if test_set is None:
        return None

    def measure(state, batch, rng):
        return algorithm.eval_step(state, batch, rng) | (tighter(state, batch, rng) if tighter else {})

    means = evaluator.Evaluator(measure, mesh, test_set, 0, config.eval.batch_size, config.seed)
    return functools.cache(lambda: {name.removeprefix("eval/"): value for name, value in means(state).items()})


def _drawn(algorithm, state, shape, drawer, about, request):
    def batches(first):
        for batch in drawer.batches(state, _SEED.value, _NUM.value, first, **request):
            wanted = sampling.labels(np.arange(first, first + len(batch)), algorithm.classes, request.get("label"))
            yield batch, np.full(len(batch), -1, np.int32) if wanted is None else wanted
            first += len(batch)

    label = {name: value for name, value in request.items() if name == "label"}
    constants = algorithm.about_request(base.SampleRequest(index=None, **request))
    protocol = about | {"seed": _SEED.value, "sampler": constants | label}
    return origins.Origin(protocol, _NUM.value, shape, batches)


def _translated(config, algorithm, state, mesh, about):
    """(section of the domain that the translations belong to, Origin)."""
    source, target = _DIRECTION.value
    sections = domains.sections(config.data)
    real = origins.of_data(sections[source], "test", algorithm.shapes[source])
    translations = sampling.Translations(algorithm, mesh, _DIRECTION.value, _BATCH_SIZE.value or config.sample.batch_size)

    def batches(first):
        for batch in translations.batches(state, (batch for batch, _ in real.batches(first))):
            yield batch, np.full(len(batch), -1, np.int32)

    protocol = about | {"direction": _DIRECTION.value, "of": real.protocol}
    return sections[target], origins.Origin(protocol, real.num, algorithm.shapes[target], batches)


# ---------------------------------------------------------------------------------------- what they are compared with, and how


def _reference(extractor, subject):
    """(scoring.Reference, its protocol, the Origin of the training images or None)."""
    names = extractor.features.class_names
    if _REFERENCE.value and (found := origins.statistics(_REFERENCE.value)):
        moments, protocol = found
        return scoring.Reference(moments), protocol, None
    split = _REFERENCE_SPLIT.value
    origin = _data(subject, split)
    compared = _collected(extractor, origin, origin.num, "reference images")
    training = None
    seen = _data(subject, "train") if split == "test" else None
    if seen and (seen.num <= _FEW if _METRICS.value is None else "memorisation" in _METRICS.value):
        training = _collected(extractor, seen, seen.num, "training images")
    return scoring.Reference(distances.Moments.of(compared.features), compared, training, names), origin.protocol, seen


def _data(subject, split):
    """The Origin of the reference's images of a split; None where it has no such split."""
    wanted = subject.origin.shape
    if not _REFERENCE.value:
        return origins.of_data(subject.section, split, wanted)
    if not origins.has_splits(_REFERENCE.value) and split != _REFERENCE_SPLIT.value:
        return None
    origin = origins.named(_REFERENCE.value, split, wanted if subject.section else None)
    if tuple(origin.shape) != tuple(wanted):
        ours, theirs = ("x".join(map(str, shape)) for shape in (wanted, origin.shape))
        raise errors.UserError(
            f"the images are {ours} and those of --reference={_REFERENCE.value} {theirs}: convert one of them"
        )
    return origin


def _anchors(extractor, subject, reference, metrics):
    """{name: scores} of images that are as good as can be, and of images that show nothing; as many as are scored."""
    other = "train" if _REFERENCE_SPLIT.value == "test" else "test"
    found = {"random pixels": origins.random_pixels(subject.origin.shape, subject.num)}
    if reference.images is not None and (best := _data(subject, other)):
        found = {f"{'training' if other == 'train' else other} images": best} | found
    metrics = [name for name in metrics if name != "memorisation"]
    scores = {}
    for name, origin in found.items():
        collected = _collected(extractor, origin, min(origin.num, subject.num), name)
        if len(collected) == subject.num:  # fewer could not be compared
            scores[name] = scoring.score(collected, reference, metrics)
    return scores


def _collected(extractor, origin, num, what):
    """A Collection that is kept for other scores with the same features."""
    pieces = _pieces(extractor, origin, num)
    path = pieces.with_suffix(".npz")
    found = collection.load(path)
    if found is None:
        found = collection.collect(extractor, origin.batches, num, pieces, what)
        collection.save(path, found)
        collection.discard(pieces)
    return found


def _pieces(extractor, origin, num):
    """The folder for what is collected of a set of images, until it is whole."""
    key = fingerprints.digest(extractor.features.protocol, origin.protocol, num, _versions())
    return files.cache_folder() / "features" / key


def _report(extractor, subject, reference, about_reference, seen, metrics, anchors):
    """Scores one subject, prints its table, and returns all that there is to know of its numbers."""
    protocol = {
        "images": subject.origin.protocol | {"num": subject.num},
        "reference": about_reference | {"num": reference.moments.count},
        "features": extractor.features.protocol,
        "metrics": metrics + [_HELDOUT] * bool(subject.heldout),
        "quantised": "uint8",
        "versions": _versions(),
    }
    name = f"{subject.label.get('step')}-{_FEATURES.value.split(':')[0]}-{fingerprints.digest(protocol)}.json"
    path = subject.folder and subject.folder / name
    if path and path.exists():
        report = json.loads(path.read_text())
        print(f"scored before, in {path}", file=sys.stderr)
    else:
        begin = time.monotonic()
        pieces = _pieces(extractor, subject.origin, subject.num)
        collected = collection.collect(extractor, subject.origin.batches, subject.num, pieces, measures.label(subject.label))
        scores = scoring.score(collected, reference, metrics)
        if subject.heldout:
            scores[_HELDOUT] = subject.heldout()
        report = {
            "label": subject.label,
            "scores": scores,
            "anchors": anchors,
            "protocol": protocol,
            "warnings": scoring.warnings(collected, reference),
            "seconds": time.monotonic() - begin,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine.facts(),
        }
        if path:
            if "memorisation" in metrics:
                _save_neighbours(path.with_suffix(".neighbours.png"), collected, reference, seen)
            _write(path, report)
        collection.discard(pieces)
    print(_shown(report), flush=True)
    return report


def _save_neighbours(path, collected, reference, seen):
    """A picture: a few images, a row each; right of each the training images nearest to it, by pixels and then by features.

    Pixels find a copy that the features' network does not know as such, and features one that is shifted or shaded.
    """
    shown, k = collected[:_SHOWN], min(_NEAREST, seen.num)
    pixels = (batch.reshape(len(batch), -1) for batch, _ in seen.batches(0))
    _, by_pixels = manifold.neighbours_of_batches(shown.images.reshape(len(shown), -1), pixels, k)
    _, by_features = manifold.neighbours(shown.features, reference.training.features, k)
    gap = np.full(seen.shape, 255, np.uint8)
    rows = [
        [image, gap, *map(seen.image, near), gap, *map(seen.image, like)]
        for image, near, like in zip(shown.images, by_pixels, by_features)
    ]
    output.save_grid(path, np.stack(list(itertools.chain(*rows))), len(rows[0]))


def _shown(report):
    """A report as text for a person."""
    about = report["protocol"]
    lines = [scoring.table({"these images": report["scores"]} | report["anchors"]), ""]
    if heldout := report["scores"].get(_HELDOUT):
        lines.append("held-out:  " + ", ".join(f"{name} {value:.4g}" for name, value in heldout.items()))
    for name in ("images", "reference", "features"):
        lines.append(f"{name + ':':11}" + ", ".join(f"{key} {value}" for key, value in about[name].items()))
    return "\n".join(lines + [f"note: {warning}" for warning in report["warnings"]])


def _write(path, report):
    with files.draft(path) as draft:
        draft.write_text(json.dumps(report, indent=1) + "\n")


def _versions():
    return {name: importlib.metadata.version(name) for name in ("imagegen_jax", "jax", "flax")}


if __name__ == "__main__":
    command_line.run(main)
