"""Changes to images that a person has, by a trained run.

Each function takes a runs.Run, whose methods they are: run.reconstruct(images). Images are (n, height, width, channels) uint8.
Labels are (n,), wanted where the run is told a class; None where it is not. Latents are (n, *algorithm.latent_shape) float32.
What a run cannot do is an errors.UserError.
"""

import json
import math
import pathlib
from typing import NamedTuple

import jax
import numpy as np

from imagegen_jax import errors
from imagegen_jax import progress
from imagegen_jax import rng
from imagegen_jax import similarity
from imagegen_jax.algorithms import capabilities
from imagegen_jax.api import restoring
from imagegen_jax.data import domains
from imagegen_jax.generation import inputs
from imagegen_jax.generation import latent_space
from imagegen_jax.generation import output
from imagegen_jax.generation import tiling
from imagegen_jax.generation import translation

STRENGTHS = (0.5, 1, 1.5)  # of `attribute`
_TRAVERSED = 10  # dimensions by default
_SURVEYED = 500  # images whose latents tell what the deviations are
_AVERAGED = 2000  # labelled images whose latents are averaged


def check_encodes(trained, or_random=False, or_inverts=False):
    """Raises errors.UserError where images have no latents.

    With `or_random` random latents that can be decoded are enough, and with `or_inverts` the noise that images are drawn from.
    """
    decodes_noise = _decodes_noise(trained.algorithm)
    inverts = or_inverts and isinstance(trained.algorithm, capabilities.DrawsByDenoising)
    if not isinstance(trained.algorithm, capabilities.Autoencodes) and not inverts and not (or_random and decodes_noise):
        raise errors.UserError(
            f"{trained.workdir} is a run of {trained.config.algorithm}, whose images have no codes: "
            "give the folder of an autoencoder's run"
            + (", or interpolate between random codes with --input=seed:1,2,3" if decodes_noise else "")
        )


def check_translates(trained):
    """Raises errors.UserError where a run does not translate images."""
    if not isinstance(trained.algorithm, capabilities.Translates):
        raise errors.UserError(
            f"{trained.workdir} is a run of {trained.config.algorithm}, which does not translate: "
            "give the folder of a run of cyclegan or pix2pix"
        )


def encode(trained, images, labels=None):
    """The most likely latents of images."""
    return _encoded(trained, images, labels)[0].reshape(-1, *trained.algorithm.latent_shape)


def decode(trained, latents, labels=None):
    """The images of latents, of a GAN's noise too."""
    check_encodes(trained, or_random=True)
    return trained.codec.decode(np.reshape(latents, (len(latents), -1)), _labels(trained, labels, latents))


class Reconstructions(NamedTuple):
    """Images after encoding and decoding, and how far they are from the originals.

    Attributes:
      images: (n, h, w, c) uint8.
      squared_error: (n,), on the scale of [-1, 1], averaged over pixels.
      psnr: (n,) peak signal-to-noise ratio in dB, infinite where the error is 0.
    """

    images: np.ndarray
    squared_error: np.ndarray
    psnr: np.ndarray

    def json(self, names, **about):
        """The errors of images of these names as JSON, which has no infinity."""
        listed = [
            {"input": name, "squared_error": error, "psnr": ratio if math.isfinite(ratio) else None}
            for name, error, ratio in zip(names, self.squared_error, self.psnr)
        ]
        return json.dumps(about | {"images": listed}, indent=1) + "\n"

    def table(self, names):
        """The errors of images of these names, and their means, as lines."""
        width = max(map(len, [*names, "mean"]))
        rows = zip([*names, "mean"], *([*column, column.mean()] for column in self[1:]))
        lines = [f"{name:{width}}  {error:13.5f}  {ratio:9.2f}" for name, error, ratio in rows]
        return "\n".join([f"{'':{width}}  squared error  PSNR (dB)", *lines])


def reconstruct(trained, images, labels=None):
    """The Reconstructions of images."""
    made = trained.codec.decode(*_encoded(trained, images, labels))
    return Reconstructions(made, *similarity.reconstruction_errors(images, made))


def interpolate(trained, images_or_seeds, num=9, labels=None, **request):
    """From each image, or random latents of a seed, to the next in `num` steps, both ends among them.

    Returns:
      (n - 1, num, h, w, c) uint8. On the way the label is that of the nearer end. Latents of a run that draws by denoising are
      noise, see `invert`.
    """
    if len(images_or_seeds) < 2:
        raise errors.UserError("give at least two, to go from one to the other")
    random = not np.ndim(images_or_seeds[0])
    codec = _codec(trained, request, random)
    labels = _labels(trained, labels, images_or_seeds)
    if not random:
        ends = codec.encode(images_or_seeds, labels)
    elif not codec.prior_is_normal:
        raise errors.UserError(
            "--input=seed:…: the codes of this run have no standard normal prior: "
            "give images instead, such as experiments.sample draws with --out=folder/"
        )
    else:
        for seed in images_or_seeds:
            rng.check_seed(seed, "--input=seed:…")
        ends = latent_space.of_prior(images_or_seeds, codec.dimensions)
    return codec.decode(latent_space.paths(ends, num), latent_space.labels_of_paths(labels, num))


def blend(trained, images, weights=None, labels=None, **request):
    """One image of the latents of several, each with its weight, by default all alike: (h, w, c) uint8.

    The label is that of the heaviest. Latents of a run that draws by denoising are noise, see `invert`.
    """
    weights = np.ones(len(images)) if weights is None else np.asarray(weights, np.float64)
    if len(weights) != len(images) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        said = ",".join(f"{weight:g}" for weight in weights)
        raise errors.UserError(f"--weights={said}: give one for each of the {len(images)} images, none below 0 and not all 0")
    codec = _codec(trained, request)
    labels = _labels(trained, labels, images)
    blended = latent_space.blended(codec.encode(images, labels), weights)
    return codec.decode(blended[None], labels[np.argmax(weights)])[0]


def invert(trained, images, labels=None, **request):
    """The noise that images are drawn from, by a run that draws by denoising, and what it draws from that: Reconstructions.

    `request` is of the run's own options: steps, by default 100, of two evaluations each, and guidance.

    Returns:
      (noise (n, h, w, c) float32, about standard normal, Reconstructions).
    """
    restoring.check_denoises(trained)
    codec = _codec(trained, request)
    labels = _labels(trained, labels, images)
    noise = codec.encode(images, labels)
    made = codec.decode(noise, labels)
    return noise.reshape(images.shape), Reconstructions(made, *similarity.reconstruction_errors(images, made))


class Traversals(NamedTuple):
    """Single dimensions of latents on their way.

    Attributes:
      images: (k, num, h, w, c) uint8, one row for each dimension.
      dimensions: k numbers of dimensions, in latents as one vector.
      deviations: (k,), standard deviations of these over the test images or, where there are none, the training images.
    """

    images: np.ndarray
    dimensions: list[int]
    deviations: np.ndarray

    def table(self):
        """Which row is of which dimension, as lines."""
        rows = zip(range(len(self.dimensions)), self.dimensions, self.deviations)
        return "\n".join(["row  dimension  deviation", *(f"{row:3}  {number:9}  {unit:9.4f}" for row, number, unit in rows)])


def traverse(trained, image, dimensions=None, num=9, range=2.5, label=None):
    """Changes one dimension of the latents of an (h, w, c) image at a time.

    Args:
      trained: the run.
      image: (h, w, c) uint8.
      dimensions: which; by default the ten that vary most.
      num: images for each.
      range: how far to go to either side, in deviations.
      label: of the image.

    Returns:
      Traversals.
    """
    if not 0 < range < math.inf:
        raise errors.UserError(f"--range is {range}: it must be more than 0, and finite")
    (latents,), label = _encoded(trained, image[None], label)
    for dimension in dimensions or ():
        if not 0 <= dimension < len(latents):
            raise errors.UserError(f"--dimensions: there is no {dimension}, they go from 0 to {len(latents) - 1}")
    _, surveyed = inputs.test_or_train(trained.config.data, trained.spec)
    deviations = latent_space.of_domain(trained.codec, surveyed, _SURVEYED)[0].std(0)
    dimensions = list(dimensions or map(int, np.argsort(-deviations, kind="stable")[:_TRAVERSED]))
    moved = latent_space.traversals(latents, deviations, dimensions, np.linspace(-range, range, num))
    return Traversals(trained.codec.decode(moved, label), dimensions, deviations[dimensions])


def attribute(trained, images, source, target, strengths=STRENGTHS, labels=None):
    """Moves images from the mean latents of one class towards those of another.

    Args:
      trained: the run.
      images: (n, h, w, c) uint8.
      source: the class to come from, its name or number.
      target: the class to go to, likewise. Where the decoder is told a class, it is this one, but for the reconstruction.
      strengths: m numbers, how far to go, 1 being from one mean to the other.
      labels: of the images.

    Returns:
      (n, 2 + m, h, w, c) uint8: each image, its reconstruction, and itself at each strength.
    """
    spec = trained.spec
    if not spec.classes:
        raise errors.UserError(
            f"attribute goes from class to class, and the images of {trained.config.data.source} have no labels"
        )
    source, target = (spec.label_of(word, flag) for word, flag in ((source, "from"), (target, "to")))
    latents, labels = _encoded(trained, images, labels)
    labelled = domains.open_domains(trained.config.data, "train", trained.spec)
    towards = latent_space.direction(*latent_space.of_domain(trained.codec, labelled, _AVERAGED), source, target)
    told = np.stack([labels, *[np.full_like(labels, target)] * len(strengths)], 1)
    moved = trained.codec.decode(latent_space.shifts(latents, towards, [0, *strengths]), told)
    return np.concatenate([images[:, None], moved], 1)


def translate(trained, images, direction, tile=512, overlap=None):
    """The translations of images, which may differ in size: a list of (h, w, c) uint8, as long as `images` is."""
    return list(map(_translator(trained, direction, tile, overlap), images))


def translate_files(trained, given, out, direction, tile=512, overlap=None, on_bad_image="error", overwrite=False):
    """Translates files to PNGs under their names, behind a progress bar, with a page that shows both.

    Everything is checked before the first file is written, and what is done has its page, however this ends.

    Args:
      trained: the run.
      given: see translation.plan.
      out: folder for the results.
      direction: one of the run's.
      tile: larger images are translated in square tiles with this side, in pixels.
      overlap: pixels that neighbouring tiles share; None for a quarter of a tile, at most 64.
      on_bad_image: see translation.Reader; a line says what was skipped.
      overwrite: whether to replace a folder of earlier results.
    """
    if jax.process_count() > 1:
        raise errors.UserError("images are translated in one process: start it on one host, without --distributed")
    planned = translation.plan(given, out)
    translator = _translator(trained, direction, tile, overlap)
    reader = translation.Reader(translator.channels, on_bad_image)
    planned = reader.check(planned)
    output.check_folder(out, overwrite)

    output.clear(out)
    done = []
    try:
        with progress.Progress(len(planned), "image", f"step {trained.step}") as bar:
            for file in planned:
                image = reader.read(file.source)
                if image is not None:
                    translation.save(file.target, translator(image))
                    done.append(file)
                bar.update()
    finally:
        if done:
            ends = " to ".join(trained.algorithm.directions[direction])
            translation.save_index(out, done, f"{pathlib.Path(trained.workdir).name}, step {trained.step}: {ends}")
    if not done:
        raise errors.UserError(f"none of the {len(planned)} images can be read, such as: {reader.skipped[0]}")
    for error in reader.skipped:
        progress.tell(f"skipped: {error}")
    if reader.skipped:
        progress.tell(f"{len(reader.skipped)} unreadable images were skipped")


def _decodes_noise(algorithm):
    return isinstance(algorithm, capabilities.Decodes) and algorithm.prior_is_normal


def _codec(trained, request, random=False):
    """The latent_space.Codec of a run: of its latents, or of the noise that images are drawn from. Raises errors.UserError."""
    check_encodes(trained, or_random=random, or_inverts=True)
    if isinstance(trained.algorithm, capabilities.Decodes):
        for name, value in request.items():
            raise errors.UserError(f"--{name}={value}: the images of this run are decoded, not drawn; leave it out")
        return trained.codec
    if request.get("sampler"):
        raise errors.UserError(
            f"--sampler={request['sampler']}: from images to noise and back there is one solver; leave it out"
        )
    ours, request, prompt = restoring.prepared(trained, request, steps=100)
    return ours.codec_by_noise(request, prompt)


def _labels(trained, labels, rows):
    """(n,) int32 of as many rows, -1 where there are none."""
    return inputs.labels_of(labels, len(rows), trained.algorithm.classes)


def _encoded(trained, images, labels):
    """(latents (n, d) float32, `_labels`)."""
    check_encodes(trained)
    labels = _labels(trained, labels, images)
    return trained.codec.encode(images, labels), labels


def _translator(trained, direction, tile, overlap):
    check_translates(trained)
    if direction not in trained.algorithm.directions:
        raise errors.UserError(f"--direction={direction}: write one of {', '.join(trained.algorithm.directions)}")
    return tiling.Translator(trained.algorithm, trained.state, direction, tile, overlap)
