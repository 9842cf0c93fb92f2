"""The image sets of a run: one, or the two that a method translates between.

A run of one set has batches {'image': ..., 'condition': {...}, 'index': ...}. A run of two has the domains 'a' and 'b', each
drawn in an order of its own, and batches {'a': {'image': ..., ...}, 'b': {...}}. Whatever is known of the images is structured
like a batch: one thing, or a dict of two (`each`).
"""

from collections.abc import Iterator
import dataclasses
import functools
import pathlib
import zlib

import jax
from jax import numpy as jnp

from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.data import augment
from imagegen_jax.data import captions
from imagegen_jax.data import fingerprints
from imagegen_jax.data import pipeline
from imagegen_jax.data import sources


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairConfig(sources.Reading):
    """The section `data` of a method that translates between two sets of images."""

    source: str = ""  # of both domains, unless the next two say otherwise
    source_a: str = ""
    source_b: str = ""  # 'edges:SPEC' is any other source as drawings of its edges
    train_split_a: str = "trainA"
    train_split_b: str = "trainB"
    test_split_a: str = "testA"
    test_split_b: str = "testB"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignedConfig(PairConfig):
    """The same of a method that learns from pairs: files of one name, or of one number."""

    def objections(self):
        """See keys.objections."""
        if self.on_bad_image == "skip":
            yield "on_bad_image", "images come in pairs here, and one that is skipped would leave another alone: choose error"


@dataclasses.dataclass(frozen=True)
class Domain:
    """One set of images, read as one model sees it.

    Attributes:
      source: the sources.Source.
      reader: reads its records as arrays of the same shape.
      spec: the images.Spec of what the model sees, after the random crop if there is one.
    """

    source: sources.Source
    reader: pipeline.Reader
    spec: images.Spec


def each(fn, domains, *others):
    """fn(name, domain, ...) of a single domain, whose name is '', or of each of two, by name; `others` are structured alike."""
    if not isinstance(domains, dict):
        return fn("", domains, *others)
    return {name: fn(name, domain, *(other[name] for other in others)) for name, domain in domains.items()}


def parts(domains):
    """[domain], or [the one, the other]."""
    return list(domains.values()) if isinstance(domains, dict) else [domains]


def open_domains(data, split, specs=None):
    """The domains of a config's `data` section.

    Args:
      data: a sources.Config or a PairConfig.
      split: 'train' or 'test'.
      specs: the images.Spec of what the model sees, {domain: Spec} of two; by default what the section makes of the images.
        With it there is no room for a random crop: the images are resized at once. Its class names number the labels.

    Returns:
      A Domain, or {name: Domain} of two; None where one has no test split.

    Raises:
      errors.UserError: what was asked for is missing, cannot be read, or has no one shape.
    """

    def opened(name, section, spec):
        source = sources.open_source(section, split, spec and spec.known_names)
        if source is None:
            return None
        if data.balance and not source.class_names:
            raise errors.UserError(f"config.data.balance is True, and the images of {section.source} have no classes")
        shape = spec.shape if spec else pipeline.host_shape(source, section)
        if spec is None:
            tokenizer = section.tokenizer and str(pathlib.Path(section.tokenizer).expanduser().absolute())
            shown = pipeline.model_shape(source, section), tuple(source.class_names)
            spec = images.Spec(*shown, section.caption_length, tokenizer)
        kind = spec.conditions.get("text")
        texts = captions.Captions(captions.of_source(source, section.source), kind) if kind else None
        return Domain(source, pipeline.Reader(source, shape, data.on_bad_image, texts), spec)

    sections_of = sections(data)
    found = each(opened, sections_of, specs or each(lambda *_: None, sections_of))
    if None in parts(found):
        return None
    if isinstance(data, AlignedConfig):
        _check_aligned(split, sections_of, found)
    return found


def _check_aligned(split, sections_of, found):
    """Raises errors.UserError where images of one of two domains have no partner in the other."""
    names = {name: getattr(domain.source, "names", None) for name, domain in found.items()}
    if None not in names.values():
        for name, other in (("a", "b"), ("b", "a")):
            for alone in sorted(set(names[name]) - set(names[other])):
                raise errors.UserError(
                    f"config.data.source_{name}: {alone} of the {split} images has no partner of that name in "
                    f"{sections_of[other].source}: give it one, or remove it"
                )
        if names["a"] != names["b"]:
            raise errors.UserError(f"the {split} images are in another order in the two domains: give them the same endings")
    sizes = [len(domain.source) for domain in found.values()]
    if len(set(sizes)) > 1:
        raise errors.UserError(f"the {split} images come in pairs, and there are {sizes[0]} and {sizes[1]}: remove the others")


def sections(data):
    """The sources.Config that a domain is read by, {domain: Config} of two."""
    if isinstance(data, sources.Config):
        return data
    shared = {field.name: getattr(data, field.name) for field in dataclasses.fields(sources.Reading)}

    def of(name):
        own = {key: getattr(data, f"{key}_{name}") for key in ("train_split", "test_split")}
        return sources.Config(**shared | own | {"source": getattr(data, f"source_{name}") or data.source})

    return {name: of(name) for name in ("a", "b")}


def specs(domains):
    """The images.Spec of a domain, {domain: Spec} of two."""
    return each(lambda name, domain: domain.spec, domains)


def records(domains):
    """Images in an epoch: in the larger domain, if there are two."""
    return max(len(domain.source) for domain in parts(domains))


def smallest(domains):
    """Images in the smaller domain, if there are two: so many come together in `eval_batches`."""
    return min(len(domain.source) for domain in parts(domains))


def fingerprint(domains):
    """Short text that changes with the images, and with the captions that come with them."""

    def of(domain):
        captions = domain.reader.captions
        return fingerprints.of(domain.source.fingerprint, captions.digest) if captions else domain.source.fingerprint

    return " ".join(map(of, parts(domains)))


def skipped(domains):
    """How many unreadable images were met so far."""
    return sum(domain.source.skipped + len(domain.reader.skipped) for domain in parts(domains))


def captions_of(domain, num):
    """(k, length) int32 tokens of the captions of at most so many images, a fair draw in random order, always the same."""
    return domain.reader.captions(pipeline.fair_order(len(domain.source))[:num].tolist())


def abstract_batch(domains, batch_size, sharding):
    """The jax.ShapeDtypeStructs of a batch as the host delivers it."""

    def row(shape, dtype):
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=sharding)

    def one(name, domain):
        nulls = jax.eval_shape(lambda: {name: kind.null(1) for name, kind in domain.spec.conditions.items()})
        condition = {name: row(null.shape[1:], null.dtype) for name, null in nulls.items()}
        arrays = {name: row(shape, dtype) for name, (shape, dtype) in domain.reader.rows.items()}
        return arrays | {"condition": condition, "index": row((), jnp.int32)}

    return each(one, domains)


def gathered(batch, arrays):
    """A batch with its records' rows of arrays that have one for each record.

    Args:
      batch: of one domain, {'index': (n,) int32, ...}, or {name: such} of two.
      arrays: {name: array}, structured alike; {} where there are none.
    """
    if "index" not in batch:
        return {name: gathered(rows, arrays.get(name, {})) for name, rows in batch.items()}
    return batch | {name: array.at[batch["index"]].get(mode="promise_in_bounds") for name, array in arrays.items()}


def augmentation(domains, flip, rotate=0.0, paired=False):
    """(rng, batch) -> batch: the crops, mirrorings and rotations of the training, on the device; see augment.augment.

    Images that are `paired` have the same.
    """

    def one(name, domain, batch, rng):
        if "image" not in batch:  # but what was computed of it
            return batch
        rng = jax.random.fold_in(rng, zlib.crc32(name.encode())) if name and not paired else rng
        return dict(batch, image=augment.augment(rng, batch["image"], domain.spec.shape[:2], flip, rotate))

    return lambda rng, batch: each(functools.partial(one, rng=rng), domains, batch)


def train_batches(domains, config, first_step, process_index=0, process_count=1, stream=0) -> Iterator:
    """This process's share of every batch from step `first_step` on, without end, with `config.data`'s threads.

    Each `stream` has orders of its own; so has each of two domains, unless their images are pairs.
    """
    paired = isinstance(config.data, AlignedConfig)

    def batches(name, domain):
        named = " ".join(filter(None, ("" if paired else name, str(stream or ""))))
        seed = zlib.crc32(f"{config.seed} {named}".encode()) if named else config.seed
        source = domain.source
        order = pipeline.balanced(source.labels, seed) if config.data.balance else pipeline.shuffled(len(source), seed)
        return pipeline.train_batches(
            domain.reader,
            order,
            batch_size=config.batch_size,
            first_step=first_step,
            workers=config.data.workers,
            prefetch=config.data.prefetch,
            process_index=process_index,
            process_count=process_count,
        )

    return _together(each(batches, domains))


def _together(streams):
    """A stream, or one of dicts of what two yield at a time."""
    if not isinstance(streams, dict):
        return streams
    return (dict(zip(streams, batches)) for batches in zip(*streams.values()))


def check_pairs(algorithm, test_set):
    """Raises errors.UserError where test images are said to come in true pairs and one domain has more of them."""
    sizes = {len(domain.source) for domain in parts(test_set or {})}
    if len(sizes) > 1 and getattr(algorithm, "paired_test", False):
        raise errors.UserError(
            f"config.cyclegan.paired_test says that test images come in pairs, and there are {min(sizes)} and {max(sizes)}: "
            "remove those without a partner, or set --config.cyclegan.paired_test=False"
        )


def eval_batches(domains, num, batch_size, process_index=0, process_count=1) -> Iterator:
    """(batch, mask) of a fair draw of each domain's images, in order, this process's share; see pipeline.eval_batches.

    Args:
      domains: a Domain, or {name: Domain} of two.
      num: how many of each domain, at most `smallest`. Domains of one size have the same numbers drawn, so that image i of
        one comes with image i of the other.
      batch_size: images of each domain at once, over all processes.
      process_index: which share is this process's.
      process_count: number of shares; it must divide batch_size.
    """

    def stream(name, domain):
        numbers = pipeline.fair_draw(len(domain.source), num)
        return pipeline.eval_batches(domain.reader, numbers, batch_size, process_index, process_count)

    for found in _together(each(stream, domains)):
        if isinstance(found, dict):
            yield {name: batch for name, (batch, _) in found.items()}, parts(found)[0][1]
        else:
            yield found
