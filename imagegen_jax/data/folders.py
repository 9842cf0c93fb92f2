"""Folders of image files: flat, or with a sub-folder for each class."""

import collections
import functools

from imagegen_jax import errors
from imagegen_jax import progress
from imagegen_jax.data import captions
from imagegen_jax.data import fingerprints
from imagegen_jax.data import pictures
from imagegen_jax.data import walk


class FolderSource:
    """Image files. Their headers are read when the source is opened, their pixels when a record is asked for."""

    def __init__(self, folder, files, labels, headers, class_names, channels, skipped):
        self._folder = folder
        self._files = files
        self.labels = labels
        self.class_names = class_names
        sizes = {header[:2] for header in headers}
        height, width = sizes.pop() if len(sizes) == 1 else (None, None)
        self._channels = channels or headers[0][2]
        self.image_shape = (height, width, self._channels)
        self.skipped = skipped

    @property
    def names(self):
        """Of the files in the folder, without endings."""
        return [file.relative_to(self._folder).with_suffix("").as_posix() for file in self._files]

    @functools.cached_property
    def fingerprint(self):
        names = [file.relative_to(self._folder).as_posix() for file in self._files]
        return fingerprints.of(self.class_names, names, fingerprints.of_files(self._folder, self._files))

    @functools.cached_property
    def captions(self):
        return captions.of_files(self._folder, self._files)

    def __len__(self):
        return len(self._files)

    def __getitems__(self, indices):
        return [self._read(i) for i in indices]

    def _read(self, i):
        with pictures.opened(self._files[i]) as image:
            return {"image": pictures.convert(image, self._channels), "label": self.labels[i]}


def open_folder(config, root, split, class_names=None):
    """The FolderSource of a split.

    Args:
      config: a config's `data` section.
      root: pathlib.Path of the folder. Its sub-folders of the splits' names are the splits; without that of 'train', all
        but the test split is for training.
      split: 'train' or 'test'.
      class_names: of the classes, in the order of their numbers; None for those of the training split.

    Returns:
      A FolderSource, or None where there is no such test split.

    Raises:
      errors.UserError: there are no images, they cannot be read, are not alike, or are not in classes as they should be.
    """
    folder, without = _split_folder(config, root, split)
    if folder is None:
        return None
    if split == config.train_split == "train" and folder != root and (beside := _beside(config, root)):
        progress.tell(f"{root}: train/ is taken for the training images; left out beside it: {', '.join(beside)}")
    files, left_out = walk.walk(folder, without)
    if not files:
        raise errors.UserError(f"no images in {folder}: put {pictures.COMMON_SUFFIXES} files there")
    headers, skipped = pictures.read_headers(files, config.on_bad_image)
    readable = [(file, header) for file, header in zip(files, headers) if header]
    if not readable:
        raise errors.UserError(f"none of the {skipped} images in {folder} can be read")
    classes = _classes(folder, files)
    if class_names is None:
        # Of training images alone, whose unreadable ones count too, so that no split or damage renumbers the others.
        theirs = _train_classes(config, root) if split == "test" else None
        class_names = _in_order(theirs or classes)
    if class_names:
        _check_known(folder, classes, class_names)
    number = {name: i for i, name in enumerate(class_names)}
    files, headers = zip(*readable)
    names = _classes(folder, files)
    _check_alike(config, files, headers)
    counts = collections.Counter(names)
    by_class = {name: counts[name] for name in class_names}
    if line := walk.summary(folder, len(files), left_out, by_class):
        progress.tell(line)
    labels = [number[name] for name in names] if class_names else [-1] * len(files)
    return FolderSource(folder, files, labels, headers, class_names, config.channels, skipped)


def _split_folder(config, root, split):
    """(the folder of a split, or None; the folder in it that is of the other)."""
    name = config.train_split if split == "train" else config.test_split
    if (root / name).is_dir():
        return root / name, None
    if split == "test":
        return None, None
    if name != "train":
        raise errors.UserError(f"config.data.source is {config.source!r}: there is no folder {root / name}")
    return root, root / config.test_split  # no splits: all images are for training


def _beside(config, root):
    """The folders of images in `root` that are no split of it."""
    files = walk.walk(root, root / config.train_split).files
    return _in_order({file.relative_to(root).parts[0] for file in files if file.parent != root} - {config.test_split})


def _classes(folder, files):
    """The name of each file's class, its first folder inside `folder`; [] where all files are directly in it."""
    names = [file.relative_to(folder).parts[0] if file.parent != folder else None for file in files]
    if set(names) == {None}:
        return []
    if None in names:
        direct = files[names.index(None)]
        inside = next(name for name in names if name is not None)
        raise errors.UserError(
            f"{folder} has images of its own, such as {direct.name}, and some in folders, such as {inside}/: "
            "move its own into a folder of their class, or all images into one folder if they have no classes"
        )
    return names


def _train_classes(config, root):
    try:
        folder, without = _split_folder(config, root, "train")
    except errors.UserError:  # there are only test images
        return []
    return _classes(folder, walk.walk(folder, without).files)


def _in_order(names):
    return sorted(set(names), key=walk.natural)


def _check_known(folder, classes, class_names):
    listed = ", ".join(class_names[:10]) + ("" if len(class_names) <= 10 else ", ...")
    if not classes:
        raise errors.UserError(
            f"the images in {folder} are in no class folders, and those of training are in {listed}: make such folders in it"
        )
    unknown = _in_order(set(classes) - set(class_names))
    if unknown:
        raise errors.UserError(
            f"{folder} has the class {unknown[0]}, which training does not ({listed}): rename or remove that folder"
        )


def _check_alike(config, files, headers):
    for name, key, what in (("sizes", "image_size", slice(0, 2)), ("channels", "channels", slice(2, 3))):
        if getattr(config, key):
            continue
        for file, header in zip(files, headers):
            if header[what] != headers[0][what]:
                raise errors.UserError(
                    f"images of different {name}: {files[0]} has {'x'.join(map(str, headers[0][what]))}, "
                    f"{file} has {'x'.join(map(str, header[what]))}",
                    f"data.{key}",
                    "make them alike",
                )
