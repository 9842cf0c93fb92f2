"""Images that a person names: files, or numbers of images of the run's own data."""

import math
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from imagegen_jax import conditions
from imagegen_jax import errors
from imagegen_jax import progress
from imagegen_jax import rng
from imagegen_jax.algorithms import capabilities
from imagegen_jax.data import domains
from imagegen_jax.data import pictures
from imagegen_jax.data import pipeline
from imagegen_jax.data import walk

KINDS = {1: "grey", 3: "RGB", 4: "RGBA"}  # of images, by their channels


class Inputs(NamedTuple):
    """Images and what is known of them.

    Attributes:
      names: n paths, or 'test:5'.
      image: (n, h, w, c) uint8.
      label: (n,) int32; -1 where there is none.
    """

    names: list[str]
    image: np.ndarray
    label: np.ndarray


def read(given, out, data, spec):
    """The images that `--input` names.

    Args:
      given: 'test:0,5' or 'train:0,5'; or a file, a folder, which is searched with its sub-folders, or several of them with
        commas between.
      out: where results will go.
      data: a config's `data` section.
      spec: the images.Spec of what the model sees.

    Returns:
      Inputs, those of a folder sorted by name. Files are converted as those of the training were, which a printed line says.

    Raises:
      errors.UserError: there are no such images, they have another size where the training resized none, or `out` would take
        their place.
    """
    match = re.fullmatch(r"(train|test):(.*)", given)
    if match:
        return _from_data(given, match[1], numbers(given, match[2]), data, spec)
    files = [path for path, _ in find(given)]
    for file in files:
        if file.resolve().is_relative_to(pathlib.Path(out).resolve()):
            raise errors.UserError(f"--out={out}: the input {file} is there and could be overwritten; give another path")
    return Inputs([str(file) for file in files], _read(files, data, spec.shape), np.full(len(files), -1, np.int32))


def of_run(trained, given, out, label=None, seeded=False, least=1, most=math.inf):
    """The images that `--input` names, with the labels that a run is told.

    Args:
      trained: the run.Run.
      given: as `read` takes it; where `seeded`, also 'seed:1,2', whose seeds take the place of images.
      out: where results will go.
      label: the name or number of the class of what has none; None where it is not given.
      seeded: whether there may be seeds.
      least: how many there must be.
      most: how many there may be.

    Returns:
      Inputs.

    Raises:
      errors.UserError: there are more or fewer, or see `read` and `labels`.
    """
    if seeded and (given_seeds := seeds(given)):
        found = Inputs([], given_seeds, np.full(len(given_seeds), -1, np.int32))
    else:
        found = read(given, out, trained.config.data, trained.spec)
    if len(found.image) < least:
        raise errors.UserError(f"--input={given}: give at least two, to go from one to the other")
    if len(found.image) > most:
        raise errors.UserError(f"--input={given}: give one image; these are {len(found.image)}")
    label = None if label is None else trained.spec.label_of(label)
    return found._replace(label=labels(found.label, label, trained.algorithm.classes))


def default(trained, num):
    """`--input` where it is not given, which is printed: `some` images, or seeds of latents where images have none."""
    encodes = isinstance(trained.algorithm, capabilities.Autoencodes)
    chosen = some(trained.config.data, trained.spec, num) if encodes else f"seed:{','.join(map(str, range(num)))}"
    progress.tell(f"--input={chosen}")
    return chosen


def some(data, spec, num):
    """'test:12,3,…', a fair draw of at most so many test images, always the same; of training images where those are all."""
    split, domain = test_or_train(data, spec)
    order = pipeline.fair_order(len(domain.source))
    return f"{split}:{','.join(map(str, order[:num]))}"


def test_or_train(data, spec):
    """('test', domains.Domain of the test images), or ('train', that of the training images) where there are no others."""
    for split in ("test", "train"):
        if opened := domains.open_domains(data, split, spec):
            return split, opened


def seeds(given):
    """[1, 2] of 'seed:1,2'; None where `--input` is of images. Raises errors.UserError."""
    if not given.startswith("seed:"):
        return None
    found = numbers(given, given.removeprefix("seed:"))
    for seed in found:
        rng.check_seed(seed, "--input=seed:…")
    return found


def numbers(given, text):
    """[0, 5] of '0,5', a part of --input. Raises errors.UserError."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise errors.UserError(f"--input={given}: write numbers from 0 on, separated by commas, such as test:0,5,17")
    return [int(number) for number in text.split(",")]


def labels_of(given, num, classes):
    """`labels` of `num` arrays: a label of each, or one of all; None for none. Raises errors.UserError."""
    known = np.broadcast_to(np.asarray(-1 if given is None else given, np.int32), num)
    return labels(known, None, classes)


def labels(known, label, classes):
    """The classes that a model is told.

    Args:
      known: (n,) int32 labels of the images; -1 where there is none.
      label: of all the images, as a person says; or None.
      classes: that the model is told of; 0 for none.

    Returns:
      (n,) int32.

    Raises:
      errors.UserError: there is no label, two, or one that the model does not know.
    """
    if label is not None and not classes:
        raise errors.UserError(f"--label={label}: the model of this run takes no labels; leave it out")
    if label is not None and (known >= 0).any():
        raise errors.UserError(f"--label={label}: images of the data set bring their own; leave it out")
    if not classes:
        return known
    if label is None and (known < 0).any():
        raise errors.UserError(f"--label is missing: the model of this run wants one, from 0 to {classes - 1}")
    told = known if label is None else np.full_like(known, label)
    for wrong in told[(told < 0) | (told >= classes)]:
        raise errors.UserError(f"the label {wrong} is none of the model's, which go from 0 to {classes - 1}")
    return told


def _from_data(given, split, wanted, data, spec):
    opened = domains.open_domains(data, split, spec)
    if opened is None:
        raise errors.UserError(f"--input={given}: {data.source} has no test images; write train:… or name files")
    domain = opened
    for number in wanted:
        if number >= len(domain.source):
            raise errors.UserError(f"--input={given}: there is no image {number}, they go from 0 to {len(domain.source) - 1}")
    batch = domain.reader(wanted)
    return Inputs([f"{split}:{number}" for number in wanted], batch["image"], conditions.labels(batch))


def find(given, out=None):
    """Files of images.

    Args:
      given: `--input`, as `read` takes it.
      out: a folder of results; those of an earlier time that lie in a folder of images are none of them.

    Returns:
      [(path, its name relative to the folder that was given)], those of a folder sorted.

    Raises:
      errors.UserError: there are none.
    """
    found = []
    for name in [given] if os.path.exists(given) else given.split(","):
        path = pathlib.Path(name)
        if os.path.isfile(name):
            found.append((path, pathlib.Path(path.name)))
        elif os.path.isdir(name):
            inside, left_out = walk.walk(path, without=out)
            if not inside:
                raise errors.UserError(f"--input={given}: no {pictures.COMMON_SUFFIXES} files in {path}")
            if line := walk.summary(path, len(inside), left_out):
                progress.tell(line)
            found += [(file, file.relative_to(path)) for file in inside]
        else:
            raise errors.UserError(f"--input={given}: there is no file or folder '{name}'")
    return found


def _read(files, data, shape):
    """The images in files, (n, *shape) uint8, converted and fitted as those of a config's `data` section are."""
    read, converted, fitted = [], [], []
    for file in files:
        with pictures.opened(file) as image:
            if pictures.channels_of(image) != shape[-1]:
                converted.append(file)
            read.append(pictures.convert(image, shape[-1]))
        if read[-1].shape != shape:
            fitted.append(file)
            if not data.image_size:
                has, takes = ("{}x{} pixels".format(*size) for size in (read[-1].shape, shape))
                raise errors.UserError(f"{file} has {has} and those of this run {takes}: resize it, as the training did not")
    tell_converted(converted, len(files), KINDS[shape[-1]])
    tell_converted(fitted, len(files), "{}x{} pixels".format(*shape))
    return np.stack([pipeline.fit(array, shape) for array in read])


def tell_converted(converted, total, into):
    """Prints how many of the input files were made into something else, unless there are none."""
    if converted:
        progress.tell(f"{len(converted)} of {total} images, such as {converted[0]}, were converted to {into}")
