"""Images to files. The ending of the path says the format."""

import csv
import io
import itertools
import math
import pathlib
import re
import shutil

import jax
import numpy as np

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import images
from imagegen_jax.data import pictures
from imagegen_jax.data import tfds_writing

# What commands leave in a folder beside PNGs, and what a data set of TFDS has beside its records.
_RESULTS = ("errors.json", "scores.json", "index.html", "labels.csv", "dataset_info.json", "features.json", "label.labels.txt")
_DEBRIS = (".DS_Store", "Thumbs.db")  # what a look at a folder leaves behind
FORMATS = "a path ending in .png (a grid), .npz (uint8 NHWC under 'images') or / (a folder of PNGs)"


def check(out, animated=False, overwrite=False):
    """Checks, before anything is drawn, that `out` can be written.

    Args:
      out: path, whose ending is one of FORMATS.
      animated: whether it may also end in .gif.
      overwrite: whether a folder may hold earlier results, all of which will be replaced.

    Raises:
      errors.UserError: it cannot.
    """
    path = files.to_path(out)
    endings = (".png", ".npz", ".gif") if animated else (".png", ".npz")
    if str(out).endswith("/"):
        check_folder(out, overwrite)
        if path.is_mount():
            raise errors.UserError(f"--out={out}: a disk is mounted there; give a folder in it, such as {path / 'images'}/")
    elif path.suffix not in endings:
        raise errors.UserError(f"--out={out}: give {FORMATS}{', or in .gif (an animation)' if animated else ''}")
    elif path.is_dir():
        raise errors.UserError(f"--out={out}: it exists and is a folder")
    files.check_writable(path)


def check_folder(out, overwrite):
    """Raises errors.UserError where `out` is a file, or a folder that is not empty and may not be overwritten.

    What is overwritten is deleted, so that two sets of images never become one. Only results of commands are.
    """
    path = files.to_path(out)
    if files.is_remote(path):
        raise errors.UserError(f"--out={out}: a folder of images can only be on this machine; in a bucket, give a single file")
    if path.exists() and not path.is_dir():
        raise errors.UserError(f"--out={out}: it exists and is a file")
    for entry in path.rglob("*") if path.exists() else ():
        if entry.name in _DEBRIS:
            continue
        if not overwrite:
            raise errors.UserError(
                f"--out={out}: the folder is not empty, {entry.name} is in it: give another one, or --overwrite to replace it"
            )
        if entry.is_symlink() or not (entry.is_dir() or entry.suffix == ".png" or _is_result(entry.name)):
            raise errors.UserError(
                f"--out={out}: --overwrite would delete {entry}, which is no result of such a command: give another folder"
            )


def _is_result(name):
    return name in _RESULTS or name.startswith(f"{tfds_writing.NAME}-train.array_record-")


def clear(out):
    """Makes the folder `out`, or deletes what is in it. Raises errors.UserError."""
    try:
        pathlib.Path(out).mkdir(parents=True, exist_ok=True)
        for entry in pathlib.Path(out).iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    except OSError as error:
        raise errors.UserError(f"cannot write {out}: {error.strerror}") from error
    files.check_writable(pathlib.Path(out) / "index.html")


def save_grid(path, batch, columns=None):
    """(n, h, w, c) uint8 as one PNG (images.grid), as a whole or not at all; returns the sheet. Raises errors.UserError."""
    sheet = images.grid(batch, columns)
    if jax.process_index() == 0:
        with files.atomic_write(path) as temporary:
            pictures.of_array(sheet).save(temporary, "png", optimize=True)
    return sheet


def labelled(layout, labels, name_of):
    """What a folder of labelled images is made of, for `save`.

    Args:
      layout: 'csv', a table with the columns file, label and class; or 'folders', a sub-folder for each class, in the order of
        the labels, as torchvision's ImageFolder and this project's folder:PATH read them.
      labels: (n,) int32.
      name_of: label -> name of the class.

    Returns:
      (paths of the images in the folder, {name: text} of files beside them).
    """
    if layout == "folders":
        digits = len(str(max(labels)))
        folders = {
            label: f"{label:0{digits}d}_{re.sub('[^-a-zA-Z0-9]+', '_', name_of(label))}" for label in set(labels.tolist())
        }
        return [f"{folders[label]}/{_name(i)}" for i, label in enumerate(labels.tolist())], {}
    paths, table = list(map(_name, range(len(labels)))), io.StringIO()
    rows = ((path, label, name_of(label)) for path, label in zip(paths, labels.tolist()))
    csv.writer(table, lineterminator="\n").writerows([("file", "label", "class"), *rows])
    return paths, {"labels.csv": table.getvalue()}


def _name(i):
    """Of image i in a folder."""
    return f"{i:05d}.png"


def save(out, batches, labels=None, texts=None, rows=None, paths=None, class_names=None):
    """Writes batches of (n, h, w, c) uint8 to `out`, in the format that its ending names, as a whole or not at all.

    Of several processes, all of which draw, the first writes.

    Args:
      out: path. A folder gets 00000.png, 00001.png, ... and takes the place of what was there.
      batches: iterable of the arrays.
      labels: (n,) int32 of the images, or None. They stand in an .npz under 'labels'.
      rows: (n,) int32, which row of a grid each image belongs to; by default one for each label.
      texts: {name: text} of files that a folder gets beside the images.
      paths: of the images in a folder; by default their numbers.
      class_names: of the labels, where a folder gets a data set that TFDS reads (tfds_writing.write) in place of PNGs.

    Raises:
      errors.UserError: it cannot be written.
    """
    if jax.process_index():
        for _ in batches:
            pass
    elif str(out).endswith("/"):
        drawn = itertools.chain.from_iterable(batches)
        with files.atomic_folder(out) as folder:
            if class_names:
                tfds_writing.write(folder, drawn, labels, class_names)
            else:
                for path, image in zip(paths or map(_name, itertools.count()), drawn):
                    (folder / path).parent.mkdir(exist_ok=True)
                    pictures.of_array(image).save(folder / path)
            for name, text in (texts or {}).items():
                (folder / name).write_text(text)
    else:
        _save_file(files.to_path(out), np.concatenate(list(batches)), labels, labels if rows is None else rows)


def _save_file(path, drawn, labels, rows):
    if path.suffix == ".npz":
        known = {} if labels is None else {"labels": labels}
        with files.atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, images=drawn, **known)
    elif rows is not None and len(set(rows.tolist())) > 1:
        save_grid(path, *images.rows_by_label(drawn, rows))
    else:
        save_grid(path, drawn)


def save_pairs(out, originals, made, texts):
    """Writes (n, h, w, c) uint8 originals beside what became of them as a grid; otherwise the latter alone, as `save` does."""
    if str(out).endswith(".png"):
        save_grid(out, np.stack([originals, made], 1).reshape(-1, *made.shape[1:]), 2 * math.ceil(math.sqrt(len(made) / 2)))
    else:
        save(out, [made], texts=texts)


def save_cells(out, cells):
    """Writes (rows, columns, h, w, c) uint8: a grid as it is, a GIF `there_and_back`, the others row by row."""
    flat = cells.reshape(-1, *cells.shape[2:])
    if str(out).endswith(".png"):
        save_grid(out, flat, cells.shape[1])
    elif str(out).endswith(".gif"):
        save_animation(out, there_and_back(cells))
    else:
        save(out, [flat])


def there_and_back(cells):
    """(rows, columns, ...) whose rows begin where the last one ended, as one loop: (2 rows (columns - 1), ...)."""
    path = np.concatenate([cells[0, :1], *(row[1:] for row in cells)])
    return np.concatenate([path, path[-2:0:-1]])


def save_animation(path, frames):
    """(n, h, w, c) uint8 as a GIF that runs for ever, ten frames a second, as a whole or not at all."""
    first, *others = map(pictures.of_array, frames)
    if jax.process_index() == 0:
        with files.atomic_write(path) as temporary:
            first.save(temporary, "gif", save_all=True, append_images=others, duration=100, loop=0)
