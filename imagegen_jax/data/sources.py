"""Where images come from. Every source is random access: a length, and records by number.

A record is {'image': (h, w, c) uint8, 'label': int}; the label is -1 where there is none. A spec names a source:

    fashion_mnist_10k   the bundled default
    folder:PATH         image files (pictures.SUFFIXES), flat or in one sub-folder a class
    idx:PATH            a folder of MNIST-format files (train-images-idx3-ubyte.gz, ...)
    emoji:FONT          the bitmaps of a colour font; without FONT that of Debian's package fonts-noto-color-emoji
    edges:SPEC          drawings of the edges in the images of another source
    tinted:SPEC         the images of another source in colours of a palette
    left:SPEC           the left halves of the images of another source, right:SPEC the right ones
    anything else       a TFDS data set, read from ArrayRecord without TensorFlow
"""

from collections.abc import Sequence
import dataclasses
import functools
import pathlib
from typing import Annotated
from typing import Any
from typing import Literal
from typing import Protocol

import numpy as np

from imagegen_jax import errors
from imagegen_jax import keys
from imagegen_jax.data import derived
from imagegen_jax.data import emoji
from imagegen_jax.data import fingerprints
from imagegen_jax.data import folders
from imagegen_jax.data import held_out
from imagegen_jax.data import idx
from imagegen_jax.data import tfds_sources
from imagegen_jax.data import tinted


class Source(Protocol):
    """What the pipeline needs of a source.

    Attributes:
      image_shape: (h, w, c) that all records share; None in the places where they differ.
      class_names: of the labels, that of label 0 first; empty where there are none.
      labels: of all records, in their order.
      fingerprint: short text that changes with the records' contents, names and labels, and not with the place of the source.
      skipped: how many unreadable files were left out when the source was opened.

    It may have `captions` (captions.py), `combinations` (held_out.py) and `names` of its records, too.
    """

    image_shape: tuple[int | None, int | None, int | None]
    class_names: Sequence[str]
    labels: Sequence[int]
    fingerprint: str
    skipped: int

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The records of these numbers. Raises pictures.BadImageError."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How images are read, wherever they come from."""

    source: str = "fashion_mnist_10k"  # bundled; or a TFDS name, folder:PATH, idx:PATH, emoji:FONT
    data_dir: str = keys.resumable("")  # where TFDS keeps prepared data sets; '' for TFDS's own choice
    image_size: Annotated[int, keys.AtLeast(0)] = 0  # side of the square that the model sees; 0 keeps the source's own shape
    load_size: Annotated[int, keys.AtLeast(0)] = 0  # resize to this first and crop image_size at random; 0: no random crop
    channels: Literal[0, 1, 3, 4] = 0  # 0 keeps the source's own
    flip: bool = False  # mirror each training image with probability 1/2
    # Degrees by which each training image is turned at random, either way; 0: not at all.
    rotate: Annotated[float, keys.AtLeast(0), keys.AtMost(180)] = 0.0
    balance: bool = False  # training images of each class equally often, however many there are
    # 'error' stops and names the file; 'skip' counts it and reads its successor.
    on_bad_image: Literal["error", "skip"] = keys.resumable("error")
    workers: Annotated[int, keys.AtLeast(1)] = keys.resumable(2)  # threads that decode, each a batch at a time
    prefetch: Annotated[int, keys.AtLeast(1)] = keys.resumable(4)  # decoded batches that wait for the device
    # Whether training images are decoded once and stay on the devices; auto: up to 512 MB of them, for an epoch or more.
    on_device: Literal["auto", "always", "never"] = keys.resumable("auto")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Reading):
    """The section `data` of a method that trains on one set of images."""

    train_split: str = "train"  # as TFDS names them ('train[:90%]' works there); in a folder, a sub-folder
    test_split: str = "test"
    # Tokens of each image's caption that come with it, for models that are told such; 0: none.
    caption_length: Annotated[int, keys.AtLeast(0)] = 0
    tokenizer: str = keys.resumable("")  # tokenizer.json, or the folder of a model with one; '': a token is a byte
    # Share of the combinations of a colour and a class, or of a figure and a skin tone, that training images do not show.
    hold_out: Annotated[float, keys.AtLeast(0), keys.Below(1)] = 0.0


def open_source(config, split, class_names=None):
    """The source of a config's `data` section.

    Args:
      config: a Config.
      split: 'train' or 'test'.
      class_names: of the classes, in the order of their numbers; None for those of the training split.

    Returns:
      A Source, or None where the source has no such test split.

    Raises:
      errors.UserError: what was asked for is missing or cannot be read, or has other classes than those.
    """
    source = _opened(config, split, class_names)
    if config.hold_out and split == "train":
        return held_out.remaining(source, config.hold_out, config.source)
    return source


def _opened(config, split, class_names):
    """The whole source."""
    kind, colon, path = config.source.partition(":")
    if not config.source:
        raise errors.UserError("config.data.source is empty: write a TFDS name, folder:PATH or idx:PATH")
    if colon and kind in _MADE_OF_OTHERS:
        source = _opened(dataclasses.replace(config, source=path), split, class_names)
        return source and _MADE_OF_OTHERS[kind](source)
    if kind == "emoji":
        return emoji.open_emoji(config, pathlib.Path(path or emoji.FONT).expanduser(), split, class_names)
    if not colon or kind not in ("folder", "idx"):
        return tfds_sources.open_tfds(config, split, class_names)
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        raise errors.UserError(f"config.data.source is {config.source!r}: there is no folder {root}")
    return (folders.open_folder if kind == "folder" else open_idx)(config, root, split, class_names)


# -------------------------------------------------------------------------------------------------------------------- idx


class ArraySource:
    """Images that are one array in memory."""

    def __init__(self, images, labels, class_names):
        self._images = images
        self.labels = labels
        self.image_shape = images.shape[1:]
        self.class_names = class_names
        self.skipped = 0

    @functools.cached_property
    def fingerprint(self):
        return fingerprints.of(self.class_names, self._images.shape, self._images, np.asarray(self.labels, np.int32))

    def __len__(self):
        return len(self._images)

    def __getitems__(self, indices):
        return [{"image": self._images[i], "label": int(self.labels[i])} for i in indices]


def open_idx(config, root, split, class_names=None):
    """The ArraySource of a split; arguments and errors as those of folders.open_folder."""
    name = config.train_split if split == "train" else config.test_split
    path = idx.find(root, name, "images")
    if path is None:
        if split == "test":
            return None
        raise errors.UserError(f"no {name}-images-idx3-ubyte.gz in {root}")
    images = idx.read(path)[..., None]
    labels_path = idx.find(root, name, "labels")
    labels = idx.read(labels_path).astype(np.int32) if labels_path else np.full(len(images), -1, np.int32)
    if len(labels) != len(images):
        raise errors.UserError(f"{path} has {len(images)} images and {labels_path} {len(labels)} labels")
    if class_names is None:
        of_train = idx.find(root, config.train_split, "labels")
        deciding = idx.read(of_train).astype(np.int32) if of_train else labels
        class_names = [str(i) for i in range(deciding.max(initial=-1) + 1)]
    if class_names and labels_path is None:
        raise errors.UserError(f"no {name}-labels-idx1-ubyte.gz in {root}, and the training images have labels: add it")
    if class_names and labels.max(initial=-1) >= len(class_names):
        raise errors.UserError(
            f"{labels_path} has the label {labels.max()}, and those of training go from 0 to {len(class_names) - 1}"
        )
    return ArraySource(images, labels, class_names)


# --------------------------------------------------------------------------------------------------------- edges, halves


def _of_edges(source):
    """Grey drawings: white lines on black."""
    return derived.Derived(source, ("edges",), (*source.image_shape[:2], 1), lambda image, _: edges(image))


def _half(kind, source):
    """The left or the right halves; of an odd width the column in the middle is in neither."""
    height, width, channels = source.image_shape

    def half(image, _):
        n = image.shape[1] // 2
        return image[:, :n] if kind == "left" else image[:, -n:]

    return derived.Derived(source, (kind,), (height, width and width // 2, channels), half)


def edges(image, sigma=0.7):
    """How steep the brightness of an image is.

    The length of the gradient of the image under a Gaussian of `sigma` pixels (the filter of Canny 1986, without its
    thresholds), scaled so that a step from black to white becomes a line whose middle is white.

    Args:
      image: (h, w, c) uint8.
      sigma: in pixels.

    Returns:
      (h, w, 1) uint8.
    """
    from scipy import ndimage  # imported here: the other sources do not need it

    gradient = ndimage.gaussian_gradient_magnitude(image.mean(-1, dtype=np.float32), sigma, mode="nearest")
    return np.clip(gradient * np.sqrt(2 * np.pi) * sigma + 0.5, 0, 255).astype(np.uint8)[..., None]


_MADE_OF_OTHERS = {
    "edges": _of_edges,
    "tinted": tinted.TintedSource,
    "left": functools.partial(_half, "left"),
    "right": functools.partial(_half, "right"),
}
