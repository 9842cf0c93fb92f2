"""Data sets of TensorFlow Datasets, prepared in ArrayRecord and read without TensorFlow."""

import difflib
import functools
import os
import sys

from imagegen_jax import errors
from imagegen_jax import progress
from imagegen_jax.data import fingerprints
from imagegen_jax.data import pictures

_AT_ONCE = 1000  # records that are read together
_CAPTIONS = ("captions", "caption", "text")  # what the texts of images are called


class TfdsSource:
    """A prepared TFDS split in ArrayRecord."""

    def __init__(self, builder, split):
        self._builder = builder
        self._split = split
        self._records = builder.as_data_source(split)
        features = builder.info.features
        self._image, label = _image_and_label(builder.name, features)
        self._label = label
        self._caption = _caption(features)
        self.image_shape = tuple(features[self._image].shape)
        self.class_names = list(features[label].names) if label else []
        # The bytes on disk depend on who prepared them, and so say nothing.
        self.fingerprint = fingerprints.of(builder.info.full_name, split, len(self._records), self.class_names)
        self.skipped = 0

    @functools.cached_property
    def labels(self):
        if not self._label:
            return [-1] * len(self)
        return [int(record[self._label]) for record in self._without_images("label")]

    @functools.cached_property
    def captions(self):
        """A tuple of texts for each record; None where there are none."""
        return self._caption and [_texts(record, *self._caption) for record in self._without_images("caption")]

    def _without_images(self, what):
        """Each record without its image, behind a bar where they are many."""
        import tensorflow_datasets as tfds

        encoded = self._builder.as_data_source(self._split, decoders={self._image: tfds.decode.SkipDecoding()})
        pieces = (_piece(encoded, start) for start in range(0, len(encoded), _AT_ONCE))
        records = (record for piece in pieces for record in piece)
        return progress.each(records, len(encoded), what, f"reading {what}s", len(encoded) >= fingerprints.MANY_FILES)

    def __len__(self):
        return len(self._records)

    def __getitems__(self, indices):
        records = self._records.__getitems__(indices)
        return [{"image": record[self._image], "label": int(record[self._label]) if self._label else -1} for record in records]


def _piece(records, start):
    return records.__getitems__(range(start, min(start + _AT_ONCE, len(records))))


def _image_and_label(name, features):
    import tensorflow_datasets as tfds

    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    if not images:
        raise errors.UserError(f"the TFDS data set {name} has no images: its features are {', '.join(features)}")
    image = "image" if "image" in images else images[0]
    label = "label" if "label" in labels else labels[0] if len(labels) == 1 else None
    return image, label


def _caption(features):
    """Where a record has its texts, (name, ) or (name, name within), as COCO's are; None where it has none."""
    for name in _CAPTIONS:
        if name in features:
            within = getattr(features[name], "feature", features[name])  # of a sequence, what it is of
            if "text" in (within if hasattr(within, "keys") else ()):
                return name, "text"
            if not hasattr(within, "keys") and within.np_dtype in (object, str, bytes):
                return (name,)
    return None


def _texts(record, *names):
    """A tuple of one text or of several."""
    found = functools.reduce(lambda part, name: part[name], names, record)
    several = [found] if isinstance(found, bytes | str) else found
    return tuple(text.decode() if isinstance(text, bytes) else str(text) for text in several)


def open_tfds(config, split, class_names=None):
    """The TfdsSource of a split of config.source, prepared first where it is not, or None where there is no such test split.

    Raises:
      errors.UserError: TFDS does not know the name, cannot prepare the data, or has no such training split.
    """
    name = config.train_split if split == "train" else config.test_split
    # Imported here: the other sources do not need it.
    import tensorflow_datasets as tfds

    builder = _tfds_builder(config, tfds)
    try:
        if not builder.is_prepared():
            _prepare(builder)
            builder = _tfds_builder(config, tfds)  # which reads what was prepared, by this process or another
        if split == "test" and name not in builder.info.splits:
            return None
        source = TfdsSource(builder, name)
    except NotImplementedError as error:
        raise errors.UserError(
            f"{builder.data_path} holds {builder.name} as {builder.info.file_format.value}, which cannot be read at random",
            "data.data_dir to another folder, to prepare it there as array_record",
            "prepare it as array_record",
        ) from error
    except ValueError as error:
        raise errors.UserError(f"the TFDS data set {config.source} has no split {name!r}: {pictures.reason(error)}") from error
    if class_names and list(class_names) != source.class_names:
        theirs = ", ".join(class_names[:10])
        raise errors.UserError(f"the classes of {config.source} are not those of training ({theirs}): prepare the same version")
    return source


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
            f"config.data.source is {config.source!r}, which TFDS does not take ({pictures.reason(error)[:120]}): "
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
        if builder.is_prepared():  # another run was faster, and its folder stood where this one's was to go
            return
        raise errors.UserError(
            f"{builder.name} is not prepared in {builder.data_path} and cannot be "
            f"({type(error).__name__}: {pictures.reason(error)[:120]}): check the network and the folder",
            "data.data_dir to where it is prepared",
            "set the environment variable TFDS_DATA_DIR to where it is prepared",
        ) from error
