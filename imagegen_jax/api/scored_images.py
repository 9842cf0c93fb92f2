"""The images that are scored: what a run draws, reconstructs, translates or restores, or others; and what to compare with."""

import functools

import jax
import numpy as np

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax.algorithms import capabilities
from imagegen_jax.api import companions
from imagegen_jax.api import sampling
from imagegen_jax.data import domains
from imagegen_jax.data import fingerprints
from imagegen_jax.evaluation import bounds
from imagegen_jax.evaluation import evaluator
from imagegen_jax.evaluation import image_sets
from imagegen_jax.evaluation import scorer
from imagegen_jax.generation import inputs
from imagegen_jax.generation import latent_space
from imagegen_jax.generation import sampling as sampling_lib
from imagegen_jax.training import sharding


def of_samples(samples, reference, num, **drawing):
    """The scorer.Subject of images that exist.

    Args:
      samples: as image_sets.named takes them.
      reference: image_sets.NamedReference.
      num: how many of them, at most.
      **drawing: what is asked of drawings, as `of_run` takes it.

    Raises:
      errors.UserError: there are no such images, there is no reference, or something is asked of drawings.
    """
    if reference.name is None:
        raise errors.UserError("--reference is missing: --samples are compared with it, such as --reference=fashion_mnist_10k")
    _check_none("--samples are there already, and nothing is drawn", **drawing)
    images = image_sets.named(samples)
    _, labels = next(images.batches(0))
    compared = functools.partial(reference.images, images.shape, None, None)
    label = {"samples": image_sets.said(samples)}
    return scorer.Subject(images, min(num, images.num), compared, label, labelled=bool((labels >= 0).all()))


def of_run(trained, *, reference, num, seed, batch_size, direction, reconstructions, metrics, asked, **drawing):
    """Yields the scorer.Subject of each request, all of which are checked before the first image is drawn.

    The arguments are those of scoring.reports, but for `reference`, an image_sets.NamedReference, and `asked`, a bounds.Asked.
    `drawing` are class_shares, latents, sweep and request. Raises errors.UserError where the run cannot do what is asked of it.
    """
    if reconstructions and not isinstance(trained.algorithm, capabilities.Autoencodes):
        raise errors.UserError(f"--reconstructions: {trained.config.algorithm} encodes no images; leave it out")
    about = companions.identity(trained) | {"device": jax.devices()[0].device_kind}  # which rounds in its own way
    mesh = sharding.make_mesh(jax.device_count())
    rest = dict(folder=files.to_path(trained.workdir) / "eval", heldout=_heldout(trained, mesh, metrics, asked))
    if reconstructions:
        _check_none("reconstructions are of test images, and have no options", **drawing)
        images, compared, rest["heldout"] = _reconstructed(trained, mesh, reference, batch_size, about, rest["heldout"])
        yield scorer.Subject(images, min(num, images.num), compared, {"step": trained.step, "of": "reconstructions"}, **rest)
        return
    made = [kind for kind in (capabilities.Translates, capabilities.Restores) if isinstance(trained.algorithm, kind)]
    if not made:
        for images, compared, label in _drawn(trained, reference, num, seed, batch_size, about, **drawing):
            yield scorer.Subject(images, num, compared, label, labelled="labels" in images.protocol, **rest)
        return
    _check_none("translations and restorations are made as the run's config says, and have no options", **drawing)
    if made == [capabilities.Restores]:
        images, compared = _restored(trained, mesh, reference, seed, batch_size, about)
    else:
        images, compared = _translated(trained, mesh, reference, direction, batch_size, about)
    yield scorer.Subject(images, min(num, images.num), compared, {"step": trained.step}, **rest)


def _check_none(reason, class_shares, latents, sweep, request):
    """Raises errors.UserError, which ends in the reason, where something is asked of drawings."""
    of_latents = {"latents": latents.kind, "components": latents.components, "leaves": latents.leaves}
    for name, value in (request | of_latents | {"sweep": sweep, "class_shares": class_shares}).items():
        if value is not None:
            raise errors.UserError(f"--{name}: {reason}; leave it out")


def _heldout(trained, mesh, metrics, asked):
    """The scorer.Heldout of test images, all but where a bounds.Asked says so; None where there are none."""
    config, algorithm = trained.config, trained.algorithm
    more = bounds.measures(algorithm, asked)
    if metrics is not None and scorer.HELDOUT not in metrics:
        return None
    test_set = domains.open_domains(config.data, "test", trained.spec)
    if test_set is None:
        return None

    def means(measure, num, **kwargs):
        of = evaluator.Evaluator(measure, mesh, test_set, num, config.eval.batch_size, config.seed, **kwargs)
        return {name.removeprefix("eval/"): value for name, value in of(trained.state).items()}

    @functools.cache
    def measured():
        found = means(algorithm.eval_step, 0)
        for measure, num in more:
            found |= means(measure, num, standard_errors=True)
        return found

    return scorer.Heldout({"fingerprint": domains.fingerprint(test_set), **asked.protocol(algorithm)}, measured)


def _drawn(trained, reference, num, seed, batch_size, about, class_shares, latents, sweep, request):
    """Yields (ImageSet, split -> ImageSet that it is compared with, label) of each request."""
    spec = trained.spec
    compared = functools.partial(reference.images, spec.shape, trained.config.data, spec.known_names)

    @functools.cache
    def of_reference():
        """(shares of the classes or None, what a protocol says of them)."""
        if class_shares != "equal" and not reference.statistics:
            images = compared(reference.split)
            own = reference.name is None or (spec.known_names and spec.known_names == images.class_names)
            if own and (shares := images.class_shares()) is not None:
                return shares, f"shares of the reference {images.protocol['fingerprint']}"
        return None, "equal shares"

    @functools.cache
    def captions():
        return domains.captions_of(inputs.test_or_train(trained.config.data, spec)[1], num)

    made = dict(batch_size=batch_size, latents=latents, shares=lambda: of_reference()[0], captions=captions)
    for drawing in sampling.prepare_each(trained, num, seed, [request | one for one in sweep or [{}]], **made):
        protocol = about | drawing.protocol()
        kind = {"latents": latents.kind} if latents.kind else {}
        if drawing.labels is not None:
            kind |= {"class_shares": "equal"} if class_shares == "equal" else {}
            protocol["labels"] = f"all {drawing.request['label']}" if "label" in drawing.request else of_reference()[1]
        if trained.algorithm.text:
            protocol["prompts"] = drawing.prompts or f"captions {fingerprints.digest(captions())}"
        images = image_sets.ImageSet.made(protocol, num, spec.shape, drawing.batches, drawing.labels)
        yield images, compared, {"step": trained.step} | kind | drawing.request


def _reconstructed(trained, mesh, reference, batch_size, about, heldout):
    """(ImageSet, split -> ImageSet that it is compared with, scorer.Heldout) of the test images' reconstructions.

    They are compared with all test images, those that they are of among them (Rombach et al. 2022, table 8, R-FID).
    """
    config, algorithm, spec = trained.config, trained.algorithm, trained.spec
    codec = latent_space.Codec(algorithm, trained.state, mesh, batch_size or config.sample.batch_size)
    real = image_sets.of_data(config.data, "test", spec.shape, spec.known_names)

    def batches(first):
        for image, label in real.batches(first):
            yield codec.decode(codec.encode(image, label), label)

    def moments():
        """Of each channel of latents that have places, else of each number."""
        channels = algorithm.latent_shape[-1]
        encoded = (codec.encode(*batch).reshape(-1, channels) for batch in real.batches(0))
        sums = sum(np.stack([np.ones_like(z), z, np.square(z)]).sum(1, dtype=np.float64) for z in encoded)
        mean, square = sums[1:] / sums[0]
        return {"latent_mean": mean.tolist(), "latent_std": np.sqrt(square - np.square(mean)).tolist()}

    measured = heldout and scorer.Heldout(heldout.protocol, lambda: heldout.measure() | moments())
    compared = functools.partial(reference.images, spec.shape, config.data, spec.known_names)
    return (
        image_sets.ImageSet.made(about | {"reconstructions of": real.protocol}, real.num, spec.shape, batches),
        compared,
        measured,
    )


def _translated(trained, mesh, reference, direction, batch_size, about):
    """(ImageSet, split -> ImageSet of the images of a split that the translations belong to).

    Where those are the very images of which the others are drawings, or the true translations, the images of even number are
    translated and compared with those of odd number.
    """
    config, algorithm, spec = trained.config, trained.algorithm, trained.spec
    if direction not in algorithm.directions:
        raise errors.UserError(f"--direction={direction}: choose one of {', '.join(algorithm.directions)}")
    source, target = algorithm.directions[direction]
    sections = domains.sections(config.data)
    own = reference.name is None
    section = sections[target] if own else image_sets.section(reference.name)
    same = section and image_sets.same_content(sections[source], section, reference.split, own and algorithm.paired_test)
    names, half = spec[source].known_names, 0 if same else None
    real = image_sets.of_data(sections[source], "test", algorithm.shapes[source], names, half)
    translations = sampling_lib.Translations(algorithm, mesh, direction, batch_size or config.sample.batch_size)

    def batches(first):
        return translations.batches(trained.state, (batch for batch, _ in real.batches(first)))

    def compared(split):
        half = 1 if same and split == reference.split else None
        return reference.images(algorithm.shapes[target], sections[target], spec[target].known_names, split, half)

    protocol = about | {"direction": direction, "of": real.protocol}
    return image_sets.ImageSet.made(protocol, real.num, algorithm.shapes[target], batches), compared


def _restored(trained, mesh, reference, seed, batch_size, about):
    """The same of restorations: where they are compared with the images that they are of, each has half of those."""
    config, algorithm, spec = trained.config, trained.algorithm, trained.spec
    section = config.data if reference.name is None else image_sets.section(reference.name)
    same = section and image_sets.same_content(config.data, section, reference.split)
    real = image_sets.of_data(config.data, "test", spec.shape, spec.known_names, 0 if same else None)
    restorations = sampling_lib.Restorations(algorithm, mesh, batch_size or config.sample.batch_size, seed)

    def batches(first):
        return restorations.batches(trained.state, real.batches(first), first)

    def compared(split):
        half = 1 if same and split == reference.split else None
        return reference.images(spec.shape, config.data, spec.known_names, split, half)

    protocol = about | {"seed": seed, "of": real.protocol, "sampler": algorithm.about_request(algorithm.Request())}
    return image_sets.ImageSet.made(protocol, real.num, spec.shape, batches), compared
