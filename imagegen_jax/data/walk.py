"""Which files of a folder are its images: one answer for training, scoring and translating."""

import collections
import os
import pathlib
import re
from typing import NamedTuple

from imagegen_jax import errors
from imagegen_jax.data import pictures

# What systems and programs leave behind, beside all names that begin with a dot.
_DEBRIS = {
    "__MACOSX",
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "Thumbs.db",
    "desktop.ini",
    "lost+found",
}
_MANY_CLASSES = 12  # from here on they are counted instead of listed


class Walk(NamedTuple):
    """What lies in a folder and its sub-folders.

    Attributes:
      files: paths of the images, sorted.
      left_out: {kind: how many files, or folders that were not entered}, such as {'.txt': 2}.
    """

    files: list[pathlib.Path]
    left_out: collections.Counter


def walk(folder, without=None):
    """The images in a folder and its sub-folders, by their names' endings (pictures.SUFFIXES). Links are followed.

    Args:
      folder: path.
      without: path of a folder to leave out, such as that of another split.

    Raises:
      errors.UserError: a folder cannot be read.
    """
    files, left_out = [], collections.Counter()
    without = without and os.path.realpath(without)

    def visit(place, above):
        real = os.path.realpath(place)
        if real == without:
            return
        if real in above:
            left_out["link in a circle"] += 1
            return
        with os.scandir(place) as entries:
            for entry in entries:
                suffix = pathlib.PurePath(entry.name).suffix.lower()
                if entry.name.startswith(".") or entry.name in _DEBRIS:
                    left_out["hidden or of the system"] += 1
                elif entry.is_dir():
                    visit(entry.path, above | {real})
                elif suffix in pictures.SUFFIXES:
                    files.append(pathlib.Path(entry.path))
                else:
                    left_out[suffix or "without an ending"] += 1

    try:
        visit(folder, frozenset())
    except OSError as error:
        raise errors.UserError(f"cannot look into the folder {error.filename}: {error.strerror}") from error
    return Walk(sorted(files), left_out)


def natural(name):
    """A key that sorts names as people count: 'a2' before 'a10'."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def summary(folder, images, left_out, classes=None):
    """One line on what was taken, or None where there is nothing to say.

    Args:
      folder: as the person named it.
      images: how many.
      left_out: as Walk's.
      classes: {name: how many images}, or None.
    """
    if not left_out and not classes:
        return None
    line = f"{folder}: {images} image{'s' * (images != 1)}"
    if classes and len(classes) < _MANY_CLASSES:
        line += f" ({', '.join(f'{name} {count}' for name, count in classes.items())})"
    elif classes:
        least, most = min(classes.values()), max(classes.values())
        line += f" of {len(classes)} classes, {least if least == most else f'{least} to {most}'} of each"
    if left_out:
        line += f"; left out: {', '.join(f'{count} {kind}' for kind, count in sorted(left_out.items()))}"
    return line
