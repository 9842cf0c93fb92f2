"""Scores a run, or a folder of images, and writes down everything that the numbers depend on.

python -m experiments.evaluate --workdir=runs/ddpm --num=2000
python -m experiments.evaluate --samples=drawn/ --reference=fashion_mnist_10k --out=scores.json

A score is one JSON object: the scores, the same scores of training images and of random pixels, and the protocol, which
names the features, the reference and the images. A run's go to eval/ in its folder, with a picture of some of its images beside
the training images nearest to them, <score>.neighbours.png.
"""

import functools
import itertools
import json

from absl import flags
import jax
import numpy as np

from imagegen_jax import command_line
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import rng
from imagegen_jax.algorithms import capabilities
from imagegen_jax.algorithms import cyclegan
from imagegen_jax.data import domains
from imagegen_jax.data import fingerprints
from imagegen_jax.evaluation import bounds
from imagegen_jax.evaluation import evaluator
from imagegen_jax.evaluation import features
from imagegen_jax.evaluation import image_sets
from imagegen_jax.evaluation import prdc
from imagegen_jax.evaluation import scorer
from imagegen_jax.evaluation import scoring
from imagegen_jax.generation import drawing_flags
from imagegen_jax.generation import latents
from imagegen_jax.generation import output
from imagegen_jax.generation import requests as requests_lib
from imagegen_jax.generation import sampling
from imagegen_jax.reports import plots
from imagegen_jax.training import checkpoint
from imagegen_jax.training import run
from imagegen_jax.training import sharding

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
_METRICS = flags.DEFINE_list(
    "metrics", None, f"Of {', '.join([*scoring.METRICS, scorer.HELDOUT])}; by default all that can be had."
)
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
drawing_flags.define()
flags.adopt_module_key_flags(drawing_flags)  # for --help
_SWEEP = flags.DEFINE_list("sweep", [], "Score each combination, such as steps:10,20,50 or steps:10,20,sampler:ddpm,ddim.")
_CLASS_SHARES = flags.DEFINE_enum(
    "class_shares", "data", ["data", "equal"], "How often each class is drawn: as often as in the reference, or all alike."
)
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
    first, of_split = next(subjects)
    against = _against(extractor, of_split)
    asked = _METRICS.value and [name for name in _METRICS.value if name != scorer.HELDOUT]
    logits = extractor.has_logits(first.images.shape)
    metrics = scoring.chosen(asked, first.num, against.reference, logits, first.labelled)
    scores = scorer.Scorer(extractor, against, metrics, _anchors(first, against, of_split), first.num)

    reports = []
    for subject, _ in itertools.chain([(first, of_split)], subjects):
        report = scores.report(subject, functools.partial(_save_neighbours, against=against))
        print(_shown(report), flush=True)
        reports.append(report)
    if _OUT.value:
        scorer.write(files.to_path(_OUT.value), reports if len(reports) > 1 else reports[0])
    if len(reports) > 1 and "fid" in metrics:
        name = f"sweep-{fingerprints.digest([report['protocol'] for report in reports])}.json"
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
    drawing_flags.check_none(reason)
    for name in ("sweep", "class_shares"):
        if flags.FLAGS[name].present:
            raise errors.UserError(f"--{name}: {reason}; leave it out")


# ---------------------------------------------------------------------------------------------------- the images to be scored


def _files():
    """Yields (scorer.Subject, split -> image_sets.ImageSet of the reference's images of a split, or None) as `_runs` does."""
    image_set = image_sets.named(_SAMPLES.value)
    _, labels = next(image_set.batches(0))
    subject = scorer.Subject(
        image_set, min(_NUM.value, image_set.num), {"samples": _SAMPLES.value}, labelled=bool((labels >= 0).all())
    )
    yield subject, functools.partial(_of_reference, image_set.shape, None, None)


def _runs():
    """The same for each checkpoint and each request of the sweep, each checked before the first is drawn."""
    folder = files.to_path(_WORKDIR.value)
    swept = drawing_flags.sweep(_SWEEP.value, drawing_flags.given())
    asked = drawing_flags.latents()
    mesh = sharding.make_mesh(jax.device_count())
    steps = checkpoint.available_steps(folder / run.CHECKPOINTS) if _CHECKPOINT.value == "all" else [_CHECKPOINT.value]
    for wanted in steps or [None]:  # where there is none, to load the latest is the error that says so
        trained = run.load(folder, wanted, _EMA.value)
        config, algorithm, state, step = trained.config, trained.algorithm, trained.state, trained.step
        specs = trained.specs
        about = {
            "run": folder.name,
            "algorithm": config.algorithm,
            "config": fingerprints.digest(json.dumps(config_lib.to_dict(config), sort_keys=True)),
            "step": step,
            "ema": _EMA.value,
            "parameters": fingerprints.digest(*jax.tree.leaves(jax.device_get((state.params, state.extra)))),
            "device": jax.devices()[0].device_kind,  # which rounds in its own way
        }
        heldout = _heldout(config, algorithm, state, mesh, specs)
        if isinstance(algorithm, capabilities.Translates):
            _check_draws("a CycleGAN's translations are not drawn, and have no options")
            image_set, of_split = _translated(config, algorithm, state, mesh, specs, about)
            num = min(_NUM.value, image_set.num)
            yield scorer.Subject(image_set, num, {"step": step}, folder / "eval", heldout), of_split
            continue
        requests = [requests_lib.typed(request, algorithm, specs) for request in swept]
        for request in requests:
            options = latents.resolve(asked, algorithm, specs, **request)
        labels = [request["label"] for request in requests if "label" in request]
        draw, fitted = latents.drawing(options, trained, mesh, labels)
        drawer = sampling.Drawer(algorithm, mesh, _BATCH_SIZE.value or config.sample.batch_size, draw)
        of_split = functools.partial(_of_reference, specs[""].shape, config.data, specs[""].known_names)
        shares = _shares(algorithm, specs[""], of_split)
        kind = {} if asked.kind is None else {"latents": options.kind}
        kind |= {"class_shares": "equal"} if algorithm.classes and _CLASS_SHARES.value == "equal" else {}
        for request in requests:
            image_set = _drawn(algorithm, state, specs[""].shape, drawer, about | fitted, *shares, request)
            labelled = algorithm.classes > 0 or "label" in request
            label = {"step": step} | kind | request
            yield scorer.Subject(image_set, _NUM.value, label, folder / "eval", heldout, labelled), of_split


def _heldout(config, algorithm, state, mesh, specs):
    """The scorer.Heldout of all test images; None where there are none."""
    samples = _IMPORTANCE_SAMPLES.value
    tighter = samples is not None and bounds.importance_weighted(algorithm, samples)
    if _METRICS.value and scorer.HELDOUT not in _METRICS.value:
        return None
    test_set = domains.open_domains(config.data, "test", specs)
    if test_set is None:
        return None

    def measure(state, batch, rng):
        return algorithm.eval_step(state, batch, rng) | (tighter(state, batch, rng) if tighter else {})

    means = evaluator.Evaluator(measure, mesh, test_set, 0, config.eval.batch_size, config.seed)
    protocol = {"fingerprint": domains.fingerprint(test_set), "importance_samples": samples}
    return scorer.Heldout(
        protocol, functools.cache(lambda: {name.removeprefix("eval/"): value for name, value in means(state).items()})
    )


def _shares(algorithm, spec, of_split):
    """((classes,) shares in which a conditional run draws its classes, or None for each in turn; what that is called)."""
    if algorithm.classes and _CLASS_SHARES.value == "data" and not _statistics():
        image_set = of_split(_REFERENCE_SPLIT.value)
        own = _REFERENCE.value is None or (spec.known_names and spec.known_names == image_set.class_names)
        shares = image_set.class_shares() if own else None
        if shares is not None:
            return shares, f"shares of the reference {image_set.protocol['fingerprint']}"
    return None, "equal shares"


def _drawn(algorithm, state, shape, drawer, about, shares, about_shares, request):
    def batches(first):
        for batch in drawer.batches(state, _SEED.value, _NUM.value, first, shares=shares, **request):
            wanted = sampling.labels(np.arange(first, first + len(batch)), algorithm.classes, request.get("label"), shares)
            yield batch, np.full(len(batch), -1, np.int32) if wanted is None else wanted
            first += len(batch)

    options = {name: value for name, value in request.items() if name != "label"}
    constants = algorithm.about_request(algorithm.Request(**options))
    protocol = about | {"seed": _SEED.value, "sampler": constants}
    if algorithm.classes or "label" in request:
        protocol["labels"] = f"all {request['label']}" if "label" in request else about_shares
    return image_sets.ImageSet(protocol, _NUM.value, shape, batches)


def _translated(config, algorithm, state, mesh, specs, about):
    """(ImageSet, split -> ImageSet of the images of a split that the translations belong to).

    Where those are the very images of which the others are drawings, or the true translations, the images of even number are
    translated and compared with those of odd number.
    """
    source, target = algorithm.directions[_DIRECTION.value]
    sections = domains.sections(config.data)
    own, paired = _REFERENCE.value is None, algorithm.paired_test
    section = sections[target] if own else _named_section()
    same = section and image_sets.same_content(sections[source], section, _REFERENCE_SPLIT.value, own and paired)
    real = image_sets.of_data(
        sections[source], "test", algorithm.shapes[source], specs[source].known_names, 0 if same else None
    )
    translations = sampling.Translations(algorithm, mesh, _DIRECTION.value, _BATCH_SIZE.value or config.sample.batch_size)

    def batches(first):
        for batch in translations.batches(state, (batch for batch, _ in real.batches(first))):
            yield batch, np.full(len(batch), -1, np.int32)

    def of_split(split):
        half = 1 if same and split == _REFERENCE_SPLIT.value else None
        return _of_reference(algorithm.shapes[target], sections[target], specs[target].known_names, split, half)

    protocol = about | {"direction": _DIRECTION.value, "of": real.protocol}
    return image_sets.ImageSet(protocol, real.num, algorithm.shapes[target], batches), of_split


# ---------------------------------------------------------------------------------------- what they are compared with, and how


def _statistics():
    """What image_sets.statistics finds under --reference."""
    return image_sets.statistics(_REFERENCE.value) if _REFERENCE.value else None


def _named_section():
    """The `data` section of --reference; None where it is a file of arrays."""
    return None if _REFERENCE.value.endswith(".npz") else image_sets.section(_REFERENCE.value)


def _of_reference(shape, section, class_names, split, half=None):
    """The ImageSet of the reference's images of a split; None where it has no such split.

    Args:
      shape: of the images that are scored.
      section: the `data` section of the run that made them; None where there is none.
      class_names: of that run.
      split: 'train' or 'test'.
      half: see image_sets.of_data.
    """
    if not _REFERENCE.value:
        return image_sets.of_data(section, split, shape, class_names, half)
    if not image_sets.has_splits(_REFERENCE.value) and split != _REFERENCE_SPLIT.value:
        return None
    image_set = image_sets.named(_REFERENCE.value, split, shape if section else None, half)
    if tuple(image_set.shape) != tuple(shape):
        ours, theirs = ("x".join(map(str, each)) for each in (shape, image_set.shape))
        raise errors.UserError(
            f"the images are {ours} and those of --reference={_REFERENCE.value} {theirs}: convert one of them"
        )
    return image_set


def _against(extractor, of_split):
    """The scorer.Against of the reference."""
    if found := _statistics():
        return scorer.Against(scoring.Reference(found[0]), found[1])
    seen = of_split("train") if _REFERENCE_SPLIT.value == "test" else None
    wanted = seen and (seen.num <= _FEW if _METRICS.value is None else "memorisation" in _METRICS.value)
    return scorer.against(extractor, of_split(_REFERENCE_SPLIT.value), seen if wanted else None)


def _anchors(subject, against, of_split):
    """{name: ImageSet} of images that are as good as can be, and of images that show nothing; as many as are scored."""
    if not _ANCHORS.value:
        return {}
    other = "train" if _REFERENCE_SPLIT.value == "test" else "test"
    found = {"random pixels": image_sets.random_pixels(subject.images.shape, subject.num)}
    if against.reference.images is not None and (best := of_split(other)):
        found = {f"{'training' if other == 'train' else other} images": best} | found
    return found


def _save_neighbours(path, collected, against):
    """A picture: a few images, a row each; right of each the training images nearest to it, by pixels and then by features.

    Pixels find a copy that the features' network does not know as such, and features one that is shifted or shaded.
    """
    seen = against.training
    shown, k = collected[:_SHOWN], min(_NEAREST, seen.num)
    pixels = (batch.reshape(len(batch), -1) for batch, _ in seen.batches(0))
    _, by_pixels = prdc.neighbours_of_batches(shown.images.reshape(len(shown), -1), pixels, k)
    _, by_features = prdc.neighbours(shown.features, against.reference.training.features, k)
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
    if heldout := report["scores"].get(scorer.HELDOUT):
        lines.append("held-out:  " + ", ".join(f"{name} {value:.4g}" for name, value in heldout.items()))
    for name in ("images", "reference", "features"):
        lines.append(f"{name + ':':11}" + ", ".join(f"{key} {value}" for key, value in about[name].items()))
    return "\n".join(lines + [f"note: {warning}" for warning in report["warnings"]])


if __name__ == "__main__":
    command_line.run(main)
