"""Scores of runs and of sets of images, with everything that they depend on."""

import functools
import itertools
import os
import pathlib

import jax
import numpy as np

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import rng
from imagegen_jax.api import scored_images
from imagegen_jax.data import fingerprints
from imagegen_jax.evaluation import bounds
from imagegen_jax.evaluation import features as features_lib
from imagegen_jax.evaluation import image_sets
from imagegen_jax.evaluation import prdc
from imagegen_jax.evaluation import scorer
from imagegen_jax.evaluation import scoring
from imagegen_jax.generation import latents as latents_lib
from imagegen_jax.generation import output
from imagegen_jax.reports import plots
from imagegen_jax.training import run
from imagegen_jax.training import sharding

SPLITS = ("test", "train")
SHARES = ("data", "equal")

_FEATURE_BATCH = 100
_SHOWN = 16  # images whose nearest training images are shown
_NEAREST = 5  # so many of them, by pixels and by features
_FEW = 20_000  # training images that are looked through without being asked to


def evaluate(scored, **options):
    """Scores a run or a set of images: the report of `reports`, whose arguments these are; a list where there are several."""
    found = list(reports(scored, **options))
    return found if len(found) > 1 else found[0]


def reports(
    scored,
    *,
    num=2000,
    reference=None,
    reference_split="test",
    metrics=None,
    features="fashion",
    resize=None,
    reference_scores=True,
    seed=0,
    batch_size=None,
    importance_samples=None,
    likelihood=None,
    likelihood_samples=None,
    likelihood_num=None,
    class_shares=None,
    direction="ab",
    reconstructions=False,
    latents=None,
    sweep=None,
    **request,
):
    """Yields a report of each set of images that is scored: a dict of JSON, which is kept in eval/ in a run's folder.

    It holds the scores, those of the reference sets under 'anchors', and the protocol, which names the features, the reference
    and the images. What was scored before is read there. Beside it lies a picture of some images and the training images
    nearest to them, <score>.neighbours.png.

    Args:
      scored: a run.Run, or an iterator of several; or images: a folder, an .npz file with uint8 NHWC under 'images', or such an
        array.
      num: how many images are scored; of images that exist, at most.
      reference: what they are compared with: what config.data.source takes, a folder, an array, an .npz file of images or of
        statistics (mu, sigma); None for the data of the run.
      reference_split: which images of the reference, 'test' or 'train'.
      metrics: keys of evaluation.scoring.METRICS, and 'heldout'; None for all that can be had.
      features: what images are compared in, one of features.NAMES.
      resize: a key of resizing.PROTOCOLS, for features that are a published network.
      reference_scores: score training images and random pixels too, to give the numbers a scale.
      seed: image i of a run depends on the seed and on i alone.
      batch_size: images drawn at once; by default the run's sample.batch_size.
      importance_samples: also the importance-weighted bound of so many samples of held-out likelihoods.
      likelihood: also the held-out likelihood of this kind, 'bound' or 'ode', with the standard error of the mean.
      likelihood_samples: terms, times or probes of it an image.
      likelihood_num: test images whose likelihood it is; by default all.
      class_shares: 'equal' to draw all classes alike; by default, or 'data', as often as in the reference.
      direction: of a run that translates.
      reconstructions: score those of test images in place of drawn ones, of a run that encodes and decodes; what is held out
        then has mean and standard deviation of each channel of the latents, too.
      latents: see sampling.prepare.
      sweep: requests that are scored one after the other, such as [{'steps': 10}, {'steps': 20}].
      **request: see sampling.prepare.

    Raises:
      errors.UserError: what is asked for cannot be had.
    """
    asked_bounds = bounds.Asked(importance_samples, likelihood, likelihood_samples, likelihood_num)
    of_images = isinstance(scored, str | pathlib.Path | np.ndarray)
    asked_bounds.check(measured=not of_images and (metrics is None or scorer.HELDOUT in metrics))
    _check(num, batch_size, reference_split, class_shares or "data", seed)
    named = image_sets.NamedReference(_path(reference), reference_split)
    network = features_lib.named(features, resize)
    extractor = features_lib.Extractor(network, sharding.make_mesh(jax.device_count()), _FEATURE_BATCH)

    drawing = dict(class_shares=class_shares, latents=latents or latents_lib.Options(), sweep=sweep, request=request)
    if of_images:
        if reconstructions:
            raise errors.UserError("--reconstructions are of a run, --workdir, and not of --samples: give one of them")
        subjects = iter([scored_images.of_samples(_path(scored), named, num, **drawing)])
    else:
        of_run = functools.partial(
            scored_images.of_run,
            reference=named,
            num=num,
            seed=seed,
            batch_size=batch_size,
            direction=direction,
            reconstructions=reconstructions,
            metrics=metrics,
            asked=asked_bounds,
            **drawing,
        )
        subjects = itertools.chain.from_iterable(map(of_run, [scored] if isinstance(scored, run.Run) else scored))
    first = next(subjects)
    compared = _compared(extractor, first, named, metrics)
    asked = metrics and [name for name in metrics if name != scorer.HELDOUT]
    logits = extractor.has_logits(first.images.shape)
    chosen = scoring.chosen(asked, first.num, compared, logits, first.labelled)
    others = _reference_sets(first, compared, named) if reference_scores else {}
    scores = scorer.Scorer(extractor, compared, chosen, others, first.num)
    for subject in itertools.chain([first], subjects):
        yield scores.report(subject, functools.partial(_save_neighbours, compared))


def save(found, out=None, workdir=None):
    """Writes reports to one .json file where `out` names it, and draws the Fréchet distances of several.

    The picture is a .png beside that file, or in eval/ in the folder of the run. Raises errors.UserError.
    """
    if out:
        scorer.write(files.to_path(out), found if len(found) > 1 else found[0])
    if len(found) > 1 and "fid" in found[0]["scores"]:
        name = f"sweep-{fingerprints.digest([report['protocol'] for report in found])}.json"
        path = files.to_path(out or files.to_path(workdir) / "eval" / name)
        plots.sweep(path.with_suffix(".png"), found)


def text(report):
    """A report as text for a person."""
    about = report["protocol"]
    lines = [scoring.table({"these images": report["scores"]} | report["anchors"]), ""]
    if heldout := report["scores"].get(scorer.HELDOUT):
        lines.append(f"held-out:  {_heldout(heldout)}")
    for name in ("images", "reference", "features"):
        lines.append(f"{name + ':':11}" + ", ".join(f"{key} {value}" for key, value in about[name].items()))
    return "\n".join(lines + [f"note: {warning}" for warning in report["warnings"]])


def _heldout(metrics):
    """'loss 0.5, bits_per_dim_ode 3.2 ± 0.01', with what is under '<metric>_se' behind the metric."""
    found = []
    for name, value in metrics.items():
        if name.removesuffix("_se") not in metrics.keys() - {name}:
            error = metrics.get(f"{name}_se")
            said = " ".join(f"{number:.4g}" for number in np.atleast_1d(value))
            found.append(f"{name} {said}" + ("" if error is None else f" ± {error:.2g}"))
    return ", ".join(found)


def _check(num, batch_size, reference_split, class_shares, seed):
    """What needs no file. Raises errors.UserError."""
    errors.check_at_least({"num": num, "batch_size": batch_size}, num=2, batch_size=1)
    for name, value, choices in (("reference_split", reference_split, SPLITS), ("class_shares", class_shares, SHARES)):
        if value not in choices:
            raise errors.UserError(f"--{name}={value}: choose one of {', '.join(choices)}")
    rng.check_seed(seed, "--seed")
    if jax.process_count() > 1:
        raise errors.UserError("scores are made in one process: start it on one host, without --distributed")


def _path(name):
    """A path as text; what is no path as it is."""
    return os.fspath(name) if isinstance(name, os.PathLike) else name


def _compared(extractor, subject, reference, metrics):
    """The scoring.Reference that a subject is compared with."""
    if found := reference.statistics:
        return scoring.Reference(*found)
    seen = subject.reference("train") if reference.split == "test" else None
    wanted = seen and (seen.num <= _FEW if metrics is None else "memorisation" in metrics)
    return scorer.reference_of(extractor, subject.reference(reference.split), seen if wanted else None)


def _reference_sets(subject, compared, reference):
    """{name: ImageSet} of images that are as good as can be, and of images that show nothing; as many as are scored."""
    other = "train" if reference.split == "test" else "test"
    found = {"random pixels": image_sets.random_pixels(subject.images.shape, subject.num)}
    if compared.images is not None and (best := subject.reference(other)):
        found = {f"{'training' if other == 'train' else other} images": best} | found
    return found


def _save_neighbours(compared, path, collected):
    """A picture: a few images, a row each; right of each the training images nearest to it, by pixels and then by features.

    Pixels find a copy that the features' network does not know as such, and features one that is shifted or shaded.
    """
    seen = compared.training_set
    shown, k = collected[:_SHOWN], min(_NEAREST, seen.num)
    pixels = (batch.reshape(len(batch), -1) for batch, _ in seen.batches(0))
    _, by_pixels = prdc.neighbours_of_batches(shown.images.reshape(len(shown), -1), pixels, k)
    _, by_features = prdc.neighbours(shown.features, compared.training.features, k)
    gap = np.full(seen.shape, 255, np.uint8)
    rows = [
        [image, gap, *seen.read(near)[0], gap, *seen.read(like)[0]]
        for image, near, like in zip(shown.images, by_pixels, by_features)
    ]
    output.save_grid(path, np.stack(list(itertools.chain(*rows))), len(rows[0]))
