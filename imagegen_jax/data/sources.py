"""Where images come from. Every source is random access: a length, and records by number.

A record is {'image': (h, w, c) uint8, 'label': int}; the label is -1 where there is none. A spec names a source:

    fashion_mnist_10k   the bundled default
    folder:PATH         png, jpg, jpeg or webp files, flat or in one sub-folder a class
    idx:PATH            a folder of MNIST-format files (train-images-idx3-ubyte.gz, ...)
    edges:SPEC          drawings of the edges in the images of another source
    anything else       a TFDS data set, read from ArrayRecord without TensorFlow
"""

from collections.abc import Sequence
from concurrent import futures
import difflib
import hashlib
import os
import pathlib
import struct
import sys
from typing import Any
from typing import Protocol

from ml_collections import config_dict
import numpy as np
from PIL import Image
from PIL import ImageOps

from imagegen_jax import errors
from imagegen_jax import progress
from imagegen_jax.data import idx

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
_GREY_MODES = ("1", "L", "I", "I;16", "F")
_ALPHA_MODES = ("LA", "PA", "RGBA", "La", "RGBa")
# What Pillow raises for a file that it cannot read; struct.error comes of damaged EXIF.
UNREADABLE = (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError)
_MANY_FILES = 20_000  # from here on, looking through a folder shows its progress


class BadImageError(errors.UserError):
    """An image that cannot be read; its message names it."""


class Source(Protocol):
    """What the pipeline needs of a source.

    Attributes:
      image_shape: (h, w, c) that all records share; None in the places where they differ.
      class_names: of the labels; empty where there are none.
      fingerprint: short text that changes with the records' number, names or sizes.
      skipped: how many unreadable files were left out when the source was opened.
    """

    image_shape: tuple[int | None, int | None, int | None]
    class_names: Sequence[str]
    fingerprint: str
    skipped: int

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The records of these numbers. Raises BadImageError."""


def open_source(config, split):
    """The source of a config's `data` section.

    Args:
      config: the `data` section.
      split: 'train' or 'test'.

    Returns:
      A Source, or None where the source has no such test split.

    Raises:
      errors.UserError: what was asked for is missing or cannot be read.
    """
    name = config.train_split if split == "train" else config.test_split
    kind, colon, path = config.source.partition(":")
    if not config.source:
        raise errors.UserError("config.data.source is empty: write a TFDS name, folder:PATH or idx:PATH")
    if colon and kind == "edges":
        section = config_dict.ConfigDict(config)
        section.source = path
        source = open_source(section, split)
        return source and EdgeSource(source)
    if colon and kind in ("folder", "idx") and not pathlib.Path(path).is_dir():
        raise errors.UserError(f"config.data.source is {config.source!r}: there is no folder {path}")
    if colon and kind == "folder":
        return _open_folder(config, pathlib.Path(path), name, split)
    if colon and kind == "idx":
        return _open_idx(config, pathlib.Path(path), name, split)
    return _open_tfds(config, name, split)


def digest(*parts):
    """Twelve hexadecimal digits that change with the parts: with the bytes of an array, with the text of anything else."""
    parts = tuple(hashlib.sha256(part.tobytes()).hexdigest() if isinstance(part, np.ndarray) else part for part in parts)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def convert(image, channels):
    """A PIL image as (h, w, channels) uint8: upright by its EXIF tag, alpha laid on white where it is dropped."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "I;16", "F"):  # 16 bits a pixel; Pillow's own conversion would clip them
        image = Image.fromarray(np.clip(np.asarray(image, np.float64) / 257 + 0.5, 0, 255).astype(np.uint8))
    if channels != 4 and (image.mode in _ALPHA_MODES or "transparency" in image.info):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert(_CHANNELS[channels])).reshape(image.height, image.width, channels)


def channels_of(image):
    """How many channels a PIL image has to a model: 1, 3 or 4. Reads its header alone."""
    if image.mode in _GREY_MODES:
        return 1
    return 4 if image.mode in _ALPHA_MODES or "transparency" in image.info else 3


# ---------------------------------------------------------------------------------------------------------------- folders


class FolderSource:
    """Image files. Their headers are read when the source is opened, their pixels when a record is asked for."""

    def __init__(self, files, labels, headers, class_names, channels, skipped):
        self._files = files
        self._labels = labels
        self.class_names = class_names
        sizes = {header[:2] for header in headers}
        height, width = sizes.pop() if len(sizes) == 1 else (None, None)
        self._channels = channels or headers[0][2]
        self.image_shape = (height, width, self._channels)
        self.fingerprint = digest(len(files), [(file.name, file.stat().st_size) for file in files])
        self.skipped = skipped

    def __len__(self):
        return len(self._files)

    def __getitems__(self, indices):
        return [self._read(i) for i in indices]

    def _read(self, i):
        try:
            with Image.open(self._files[i]) as image:
                return {"image": convert(image, self._channels), "label": self._labels[i]}
        except UNREADABLE as error:
            raise BadImageError(f"cannot read the image {self._files[i]}: {reason(error)}") from error


def _open_folder(config, root, name, split):
    folder = root / name
    if not folder.is_dir():
        if split == "test":
            return None
        if name != "train":
            raise errors.UserError(f"config.data.source is {config.source!r}: there is no folder {folder}")
        folder = root  # no splits: all images are for training
    test_folder = root / config.test_split
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not (folder == root and file.is_relative_to(test_folder))
    )
    if not files:
        raise errors.UserError(f"no images in {folder}: put {', '.join(SUFFIXES)} files there")
    headers, skipped = _read_headers(files, config.on_bad_image)
    files = [file for file, header in zip(files, headers) if header]
    headers = [header for header in headers if header]
    if not files:
        raise errors.UserError(f"none of the {skipped} images in {folder} can be read")
    _check_alike(config, files, headers)
    class_names = sorted({file.relative_to(folder).parts[0] for file in files if file.parent != folder})
    if class_names and all(file.parent != folder for file in files):
        labels = [class_names.index(file.relative_to(folder).parts[0]) for file in files]
    else:
        class_names, labels = [], [-1] * len(files)
    return FolderSource(files, labels, headers, class_names, config.channels, skipped)


def _read_headers(files, on_bad_image):
    """((height, width, channels) or None for each file, how many are None)."""

    def read(file):
        try:
            with Image.open(file) as image:
                # Pillow decodes a whole PNG to look for EXIF where the header has none.
                exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
                turned = exif.get(0x0112, 1) >= 5  # the orientation tag: 5 to 8 lie on their side
                return (image.size if turned else image.size[::-1]) + (channels_of(image),)
        except UNREADABLE as error:
            return BadImageError(f"cannot read the image {file}: {reason(error)}")

    with futures.ThreadPoolExecutor() as pool:
        found = pool.map(read, files)
        headers = []
        with progress.Progress(len(files), "image", "looking at images", shown=len(files) >= _MANY_FILES) as bar:
            for header in found:
                headers.append(header)
                bar.update()
    bad = [header for header in headers if isinstance(header, BadImageError)]
    if bad and on_bad_image == "error":
        raise BadImageError(f"{bad[0]}; remove it, or set --config.data.on_bad_image=skip")
    for error in bad[:5]:
        print(f"skipped: {error}", file=sys.stderr)
    return [None if isinstance(header, BadImageError) else header for header in headers], len(bad)


def _check_alike(config, files, headers):
    for name, key, what in (("sizes", "image_size", slice(0, 2)), ("channels", "channels", slice(2, 3))):
        if getattr(config, key):
            continue
        for file, header in zip(files, headers):
            if header[what] != headers[0][what]:
                raise errors.UserError(
                    f"images of different {name}: {files[0]} has {'x'.join(map(str, headers[0][what]))}, "
                    f"{file} has {'x'.join(map(str, header[what]))}; set --config.data.{key}"
                )


def reason(error):
    """Why a file cannot be read, in few words."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is empty or not an image"
    return str(error).split("\n")[0] or type(error).__name__


# -------------------------------------------------------------------------------------------------------------------- idx


class ArraySource:
    """Images that are one array in memory."""

    def __init__(self, images, labels, class_names):
        self._images = images
        self._labels = labels
        self.image_shape = images.shape[1:]
        self.class_names = class_names
        self.fingerprint = digest(images.shape, images)
        self.skipped = 0

    def __len__(self):
        return len(self._images)

    def __getitems__(self, indices):
        return [{"image": self._images[i], "label": int(self._labels[i])} for i in indices]


def _open_idx(config, root, name, split):
    path = idx.find(root, name, "images")
    if path is None:
        if split == "test":
            return None
        raise errors.UserError(f"no {name}-images-idx3-ubyte.gz in {root}")
    images = idx.read(path)[..., None]
    labels_path = idx.find(root, name, "labels")
    labels = idx.read(labels_path) if labels_path else np.full(len(images), -1)
    if len(labels) != len(images):
        raise errors.UserError(f"{path} has {len(images)} images and {labels_path} {len(labels)} labels")
    class_names = [str(i) for i in range(int(labels.max()) + 1)] if labels_path else []
    return ArraySource(images, labels, class_names)


# ------------------------------------------------------------------------------------------------------------------ edges


class EdgeSource:
    """The images of another source as grey drawings: white lines on black."""

    def __init__(self, source):
        self._source = source
        self.image_shape = (*source.image_shape[:2], 1)
        self.class_names = source.class_names
        self.fingerprint = digest("edges", source.fingerprint)
        self.skipped = source.skipped

    def __len__(self):
        return len(self._source)

    def __getitems__(self, indices):
        return [dict(record, image=edges(record["image"])) for record in self._source.__getitems__(indices)]


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

    slope = ndimage.gaussian_gradient_magnitude(image.mean(-1, dtype=np.float32), sigma, mode="nearest")
    return np.clip(slope * np.sqrt(2 * np.pi) * sigma + 0.5, 0, 255).astype(np.uint8)[..., None]


# ------------------------------------------------------------------------------------------------------------------- TFDS


class TfdsSource:
    """A prepared TFDS split in ArrayRecord."""

    def __init__(self, builder, split):
        self._records = builder.as_data_source(split)
        features = builder.info.features
        self._image, label = _image_and_label(builder.name, features)
        self._label = label
        self.image_shape = tuple(features[self._image].shape)
        self.class_names = features[label].names if label else []
        self.fingerprint = digest(builder.info.full_name, split, len(self._records))
        self.skipped = 0

    def __len__(self):
        return len(self._records)

    def __getitems__(self, indices):
        records = self._records.__getitems__(indices)
        return [{"image": record[self._image], "label": int(record[self._label]) if self._label else -1} for record in records]


def _image_and_label(name, features):
    import tensorflow_datasets as tfds

    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    if not images:
        raise errors.UserError(f"the TFDS data set {name} has no images: its features are {', '.join(features)}")
    image = "image" if "image" in images else images[0]
    label = "label" if "label" in labels else labels[0] if len(labels) == 1 else None
    return image, label


def _open_tfds(config, name, split):
    # TFDS is imported here: the other sources do not need it.
    import tensorflow_datasets as tfds

    builder = _tfds_builder(config, tfds)
    try:
        if not builder.is_prepared():
            _prepare(builder)
        if split == "test" and name not in builder.info.splits:
            return None
        return TfdsSource(builder, name)
    except NotImplementedError as error:
        raise errors.UserError(
            f"{builder.data_path} holds {builder.name} as {builder.info.file_format.value}, which cannot be read at random: "
            "prepare it as array_record in another --config.data.data_dir"
        ) from error
    except ValueError as error:
        raise errors.UserError(f"the TFDS data set {config.source} has no split {name!r}: {reason(error)}") from error


def _tfds_builder(config, tfds):
    from imagegen_jax.data import fashion_mnist_10k

    data_dir = os.path.expanduser(config.data_dir) or None
    try:
        if config.source == "fashion_mnist_10k":
            return fashion_mnist_10k.FashionMnist10k(data_dir=data_dir, file_format="array_record")
        return tfds.builder(config.source, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        near = difflib.get_close_matches(
            config.source, ["fashion_mnist_10k", *tfds.list_builders(with_community_datasets=False)], n=3
        )
        hint = f"did you mean {' or '.join(near)}?" if near else "write a TFDS name, folder:PATH or idx:PATH"
        raise errors.UserError(f"config.data.source is {config.source!r}, which TFDS does not know: {hint}") from error
    except ValueError as error:  # not a name, such as a path, or no configuration of the data set
        raise errors.UserError(
            f"config.data.source is {config.source!r}, which TFDS does not take ({reason(error)[:120]}): "
            "write a TFDS name, folder:PATH or idx:PATH"
        ) from error


def _prepare(builder):
    import tensorflow_datasets as tfds

    print(f"preparing {builder.name} in {builder.data_path}", file=sys.stderr)
    if builder.name == "fashion_mnist10k":  # a second's work needs no bars
        tfds.disable_progress_bar()
    try:
        builder.download_and_prepare()
    except ImportError as error:
        raise errors.UserError(
            f"TFDS needs TensorFlow to prepare {builder.name}: pip install 'imagegen_jax[prepare]', once"
        ) from error
    except OSError as error:  # requests' errors are OSErrors too
        raise errors.UserError(
            f"{builder.name} is not prepared in {builder.data_path} and cannot be "
            f"({type(error).__name__}: {reason(error)[:120]}): "
            "check the network and the folder, or set --config.data.data_dir to where it is prepared"
        ) from error
