"""Image files and their translations: what is to be read, where it goes, and the page that shows both."""

import contextlib
import os
import pathlib
from typing import NamedTuple
import urllib.parse
import warnings

from PIL import Image

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import templates
from imagegen_jax.data import pictures
from imagegen_jax.generation import inputs as input_files

MOST_PIXELS = 2 * Image.MAX_IMAGE_PIXELS  # of a file, unless it is said otherwise: Pillow's own limit


def set_most_pixels(pixels):
    """A file with more pixels than this will be unreadable: few bytes can become many."""
    Image.MAX_IMAGE_PIXELS = pixels / 2
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of half as many


class File(NamedTuple):
    """An image and where its translation goes."""

    source: pathlib.Path
    target: pathlib.Path


def plan(inputs: str, out: str) -> list[File]:
    """What is to be read, and where the results go: under the same names, with the ending .png.

    Args:
      inputs: a file, a folder that is searched with its sub-folders, or several of them separated by commas.
      out: a folder. It keeps the sub-folders.

    Returns:
      The files, those of a folder sorted.

    Raises:
      errors.UserError: there are no such inputs, two would get one name, one is in `out`, or that is a file's name.
    """
    file_name = not out.endswith("/") and pathlib.PurePath(out).suffix.lower() in (*pictures.SUFFIXES, ".npz")
    if file_name and not os.path.isdir(out):
        raise errors.UserError(f"--out={out}: give a folder, which gets an image for each input")
    if os.path.isdir(inputs) and pathlib.Path(out).resolve() == pathlib.Path(inputs).resolve():
        raise errors.UserError(f"--out={out}: that is the input folder, and would be overwritten; give another folder")
    files = [File(source, pathlib.Path(out) / name.with_suffix(".png")) for source, name in input_files.find(inputs, out)]
    taken = {}
    for file in files:
        other = taken.setdefault(file.target, file.source)
        if other is not file.source:
            raise errors.UserError(f"{other} and {file.source} would both become {file.target}: rename one, or leave it out")
        if file.source.resolve().is_relative_to(pathlib.Path(out).resolve()):
            raise errors.UserError(f"--out={out}: {file.source} is there and would be overwritten; give another folder")
    return files


class Reader:
    """Reads images, converted to the channels that a network takes, as those of its training were.

    Attributes:
      skipped: the pictures.BadImageErrors of the files that could not be read (on_bad_image 'skip').
    """

    def __init__(self, channels, on_bad_image):
        """`on_bad_image` is 'error', to stop at the first unreadable file, or 'skip'."""
        self._channels = channels
        self._on_bad_image = on_bad_image
        self.skipped = []

    def check(self, files):
        """The files whose headers can be read; a printed line says how many will be converted.

        Raises:
          pictures.BadImageError: a header that cannot be read, or there is no other.
        """
        readable, converted = [], []
        for file in files:
            with self._bad_images(file.source), pictures.opened(file.source) as image:
                if pictures.channels_of(image) != self._channels:
                    converted.append(file.source)
                readable.append(file)
        if not readable:
            raise errors.UserError(f"none of the {len(files)} images can be read, such as: {self.skipped[0]}")
        input_files.tell_converted(converted, len(readable), input_files.KINDS[self._channels])
        return readable

    def read(self, path):
        """(h, w, channels) uint8, upright by its EXIF tag; None where it is skipped. Raises pictures.BadImageError."""
        with self._bad_images(path), pictures.opened(path) as image:
            return pictures.convert(image, self._channels)

    @contextlib.contextmanager
    def _bad_images(self, path):
        try:
            yield
        except pictures.BadImageError as error:
            if self._on_bad_image == "error":
                larger = ", raise --most_pixels" if isinstance(error.__cause__, Image.DecompressionBombError) else ""
                raise pictures.BadImageError(f"{error}; remove it{larger}, or set --on_bad_image=skip") from error
            self.skipped.append(error)


def save(path, image):
    """Writes an (h, w, c) uint8 image as a PNG. Raises errors.UserError; the path is never half a picture."""
    with files.atomic_write(path) as temporary:
        pictures.of_array(image).save(temporary, "png")


def save_index(out, translated, title):
    """Writes `out`/index.html: each input beside its translation, by relative links. Raises errors.UserError.

    Args:
      out: the folder.
      translated: the Files.
      title: plain text.
    """
    rows = [(os.path.relpath(file.target, out), {"input": file.source, "output": file.target}) for file in translated]
    with files.atomic_write(pathlib.Path(out) / "index.html") as temporary:
        write_page(temporary, out, rows, title)


def write_page(path, folder, rows, title):
    """Writes a page that shows images beside each other.

    Args:
      path: of the page.
      folder: that it will lie in, from where its links go.
      rows: [(name, {what it is: path of an image})].
      title: plain text.
    """
    linked = [(name, {kind: _link(file, folder) for kind, file in shown.items()}) for name, shown in rows]
    text = templates.render(__package__, "images.html.jinja", title=title, rows=linked)
    path.write_text(text, "utf-8", errors="replace")  # names of files need not be text


def _link(path, folder):
    """A relative URL."""
    return urllib.parse.quote(os.fsencode(os.path.relpath(path, folder)))
