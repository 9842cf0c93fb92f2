"""Sets of images to score or to compare with: of data, of folders, of files, of chance."""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from imagegen_jax import conditions
from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax.data import fingerprints
from imagegen_jax.data import pipeline
from imagegen_jax.data import sources
from imagegen_jax.evaluation import distances

_BATCH = 100


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A numbered set of images.

    Attributes:
      protocol: what a score's protocol says of it, as JSON; two sets of one protocol hold the same images.
      num: how many images there are.
      shape: (height, width, channels).
      batches: first -> iterator over (images (n, h, w, c) uint8, labels (n,) int32) from image `first` on.
      read: (n,) int -> (images (n, h, w, c) uint8, labels (n,) int32) of these numbers; None where images are only made in
        order.
      class_names: of the labels; () where there are none, or they are not named.
      labels: () -> (num,) int32 labels of all images, in any order; None where that is not known beforehand.
    """

    protocol: dict[str, Any]
    num: int
    shape: tuple[int, int, int]
    batches: Callable[[int], Iterator]
    read: Callable | None = None
    class_names: tuple[str, ...] = ()
    labels: Callable[[], np.ndarray] | None = None

    @classmethod
    def readable(cls, protocol, num, shape, read, **known):
        """The ImageSet of images that can be read in any order, `num` of them by `read`; `known` are fields of it."""

        def batches(first):
            for start in range(first, num, _BATCH):
                yield read(np.arange(start, min(start + _BATCH, num)))

        return cls(protocol, num, tuple(shape), batches, read, **known)

    @classmethod
    def made(cls, protocol, num, shape, batches, labels=None):
        """The ImageSet of images that are only made in order; `batches` yield them alone, `labels` are (num,) int32 or None."""
        labels = np.full(num, -1, np.int32) if labels is None else labels

        def labelled(first):
            for batch in batches(first):
                yield batch, labels[first : first + len(batch)]
                first += len(batch)

        return cls(protocol, num, tuple(shape), labelled)

    def class_shares(self):
        """(classes,) float64, the share of each class among the images; None where some have no label, or classes no names."""
        labels = np.asarray(self.labels() if self.labels and self.class_names else (-1,))
        if labels.min() < 0:
            return None
        return np.bincount(labels, minlength=len(self.class_names)) / len(labels)

    def images(self, num):
        """Yields (n, h, w, c) uint8 arrays: the first `num` images."""
        for batch, _ in self.batches(0):
            if num <= 0:
                return
            yield batch[:num]
            num -= len(batch)


def of_data(data, split, shape=None, class_names=None, half=None):
    """The images of a config's `data` section, as a model of this shape sees them.

    Args:
      data: the section.
      split: 'train' or 'test'.
      shape: (h, w, c) to resize and convert to; None for what the section says.
      class_names: in the order of their numbers; None for those of the training images.
      half: 0 for the images of even number alone, 1 for those of odd number; None for all.

    Raises:
      errors.UserError: there are no such images, or no such split.
    """
    source = sources.open_source(data, split, class_names)
    if source is None:
        raise errors.UserError(f"{data.source} has no split {data.test_split!r}: choose --reference_split=train")
    shape = tuple(shape or pipeline.model_shape(source, data))
    reader = pipeline.Reader(source, shape, data.on_bad_image)
    protocol = {"source": data.source, "split": _split(data, split), "fingerprint": source.fingerprint, "shape": list(shape)}
    numbers = np.arange(len(source))
    if half is not None:
        numbers = numbers[half::2]
        protocol["half"] = ("even numbers", "odd numbers")[half]

    def read(index):
        found = reader(numbers[index].tolist())
        return found["image"], conditions.labels(found)

    known = {"class_names": tuple(source.class_names), "labels": lambda: np.asarray(source.labels)[numbers]}
    return ImageSet.readable(protocol, len(numbers), shape, _shuffled(read, len(numbers)), **known)


def _split(data, split):
    return data.train_split if split == "train" else data.test_split


def same_content(data, reference, split="test", paired=False):
    """Whether test images of one `data` section show, number by number, the same things as the images of another.

    Drawings of the edges of images show what these show. So do pairs of which each is the other's true translation.

    Args:
      data: a section, of which the test images are meant.
      reference: another.
      split: of the latter.
      paired: whether the test images of the two are such pairs.
    """
    shown, other = (
        (part.source.rpartition("edges:")[2], _split(part, of)) for part, of in ((data, "test"), (reference, split))
    )
    return shown == other or (paired and split == "test")


def _shuffled(read, num):
    """ImageSet.read in an order that is always the same, in which the first so many are a fair draw, not the first class."""
    order = pipeline.fair_order(num)
    return lambda index: read(order[index])


def named(spec, split="test", shape=None, half=None):
    """The images that a person names.

    Args:
      spec: a folder of images, an .npz file with uint8 NHWC under 'images', such an array, or what config.data.source takes.
      split: of the latter.
      shape: to resize the images of a folder or a source to.
      half: as `of_data` takes it; of arrays, always all.

    Raises:
      errors.UserError: there are no such images, or not of one shape.
    """
    data = section(spec)
    if data is None:
        return _of_arrays(spec)
    return of_data(data, split if has_splits(spec) else "train", shape, half=half)


def section(spec):
    """The sources.Config of what a person names; None where that is arrays."""
    if _is_arrays(spec):
        return None
    return sources.Config(source=f"folder:{spec}" if pathlib.Path(spec).is_dir() else spec)


def has_splits(spec):
    """Whether `named` finds a 'train' and a 'test' under this name."""
    return not _is_arrays(spec) and not pathlib.Path(spec).is_dir()


def said(spec):
    """What is said of a name: the name, or that it is an array."""
    return "array" if isinstance(spec, np.ndarray) else spec


def _is_arrays(spec):
    return isinstance(spec, np.ndarray) or spec.endswith(".npz")


def statistics(spec):
    """Published statistics: an .npz file with `mu` (d,) and `sigma` (d, d).

    Returns:
      (distances.Moments, what a protocol says of them), or None where the name means something else.
    """
    if isinstance(spec, np.ndarray) or not spec.endswith(".npz") or not pathlib.Path(spec).is_file():
        return None
    path = pathlib.Path(spec)
    found = _arrays(path, ("mu", "sigma"))
    if len(found) < 2:
        return None
    mean, covariance = found["mu"], found["sigma"]
    if mean.dtype.kind not in "fiu" or covariance.dtype.kind not in "fiu":
        raise errors.UserError(f"{path}: mu is {mean.dtype} and sigma {covariance.dtype}: give numbers")
    mean, covariance = (array.astype(np.float64) for array in (mean, covariance))
    finite = np.isfinite(mean).all() and np.isfinite(covariance).all()
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not finite:
        raise errors.UserError(f"{path}: mu is {mean.shape} and sigma {covariance.shape}: give (d,) and (d, d), all finite")
    protocol = {"source": path.name, "fingerprint": fingerprints.digest(mean, covariance)}
    return distances.Moments(None, mean, covariance), protocol


def _of_arrays(spec):
    path = pathlib.Path(said(spec))
    found = {"images": spec} if isinstance(spec, np.ndarray) else _arrays(path, ("images", "labels"))
    images, labels = _checked(path, found)
    protocol = {"source": path.name, "fingerprint": fingerprints.digest(images.shape, images, labels)}
    protocol["shape"] = list(images.shape[1:])
    read = _shuffled(lambda index: (images[index], labels[index]), len(images))
    return ImageSet.readable(protocol, len(images), images.shape[1:], read)


def _checked(path, found):
    if "images" not in found:
        raise errors.UserError(f"{path} holds no array 'images': save uint8 images (n, h, w, c) under that name")
    images = found["images"]
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise errors.UserError(f"{path}: its images have pixels that are not finite")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or not len(images):
        raise errors.UserError(
            f"{path}: its images are {images.dtype} of shape {images.shape}: give uint8 in [0, 255] of shape (n, h, w, 1 or 3)"
        )
    labels = found.get("labels", np.full(len(images), -1))
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise errors.UserError(
            f"{path}: its labels are {labels.dtype} of shape {labels.shape}: give integers of shape ({len(images)},)"
        )
    return images, labels.astype(np.int32)


def _arrays(path, names):
    try:
        return files.read_npz(path, names)
    except ValueError as error:
        raise errors.UserError(f"cannot read {path}: {error}") from error


def random_pixels(shape, num, seed=0):
    """Images whose pixels are uniform and independent; image i depends on the seed and on i alone."""

    def read(index):
        rngs = [np.random.default_rng((seed, i)) for i in index]
        return np.stack([rng.integers(0, 256, shape, np.uint8) for rng in rngs]), np.full(len(rngs), -1, np.int32)

    return ImageSet.readable({"source": "random pixels", "seed": seed, "shape": list(shape)}, num, shape, read)


@dataclasses.dataclass(frozen=True)
class NamedReference:
    """The reference that a person names.

    Attributes:
      name: as `named` or `statistics` takes it; None for the data of the run that is scored.
      split: 'test' or 'train', whichever images of it are compared with.
    """

    name: str | np.ndarray | None
    split: str

    @functools.cached_property
    def statistics(self):
        """What `statistics` finds; None where the reference is images."""
        return None if self.name is None else statistics(self.name)

    def images(self, shape, section, class_names, split, half=None):
        """The ImageSet of a split; None where there is no such split.

        Args:
          shape: of the images that are scored.
          section: the `data` section of the run that made them; None where there is none.
          class_names: of that run.
          split: 'train' or 'test'.
          half: see `of_data`.

        Raises:
          errors.UserError: there are no such images, or they are of another shape.
        """
        if self.name is None:
            return of_data(section, split, shape, class_names, half)
        if not has_splits(self.name) and split != self.split:
            return None
        found = named(self.name, split, shape if section else None, half)
        if tuple(found.shape) != tuple(shape):
            ours, theirs = ("x".join(map(str, each)) for each in (shape, found.shape))
            name = said(self.name)
            raise errors.UserError(f"the images are {ours} and those of --reference={name} {theirs}: convert one of them")
        return found
