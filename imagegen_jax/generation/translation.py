"""Translating image files of any size with a trained CycleGAN.

A large image is translated in overlapping tiles that are blended on the host, so that the device never holds more than one
tile. Instance normalisation takes its statistics over what the network sees, which then is a tile and not the image: the same
place comes out a little different in two tiles, and the blending hides the seam. Whoever wants one set of statistics for the
whole image raises --tile as far as the device's memory goes.
"""

from collections.abc import Callable
import contextlib
import functools
import html
import os
import pathlib
from typing import NamedTuple
import urllib.parse
import warnings

import chex
import jax
import numpy as np
from PIL import Image

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax.data import pictures
from imagegen_jax.generation import inputs as input_files
from imagegen_jax.generation import output
from imagegen_jax.generation import sampling

MOST_PIXELS = 2 * Image.MAX_IMAGE_PIXELS  # of a file, unless it is said otherwise: Pillow's own limit


def set_most_pixels(pixels):
    """A file with more pixels than this will be unreadable: few bytes can become many."""
    Image.MAX_IMAGE_PIXELS = pixels / 2
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of half as many


# ------------------------------------------------------------------------------------------------------------------ tiles


def tiled(fn: Callable, image: np.ndarray, tile: int, overlap: int) -> np.ndarray:
    """Applies a function to an image tile by tile and blends the results by linear ramps.

    All tiles have one shape, so a compiled `fn` is compiled once, and results are added up on the host. If `fn` is local, a
    pixel of its result depending on those within r around it, this is fn(image) except within r of a tile's border inside the
    image; with r below `overlap` the ramps give the tile that misses something there less weight than its neighbour.

    Args:
      fn: (1, th, tw, c) -> (1, th, tw, c').
      image: (h, w, c) of any dtype.
      tile: side of a tile in pixels; where the image is smaller, so is the tile.
      overlap: pixels that neighbours share, in [0, tile); the last tile of a row or column may share more.

    Returns:
      (h, w, c') float32.
    """
    chex.assert_rank(image, 3)
    rows, columns = (windows(side, tile, overlap) for side in image.shape[:2])
    blended = None
    for top, down in rows:
        for left, across in columns:
            place = np.s_[top : top + len(down), left : left + len(across)]
            made = np.asarray(fn(image[place][None]))[0]
            if blended is None:
                blended = np.zeros((*image.shape[:2], made.shape[-1]), np.float32)
            blended[place] += (down[:, None] * across)[..., None] * made
    return blended


def windows(side: int, tile: int, overlap: int) -> list[tuple[int, np.ndarray]]:
    """The tiles along one side of an image: where each starts, and the weights of its pixels.

    Returns:
      [(start, (min(side, tile),) float32)]. The weights are in (0, 1], rise and fall linearly over `overlap` pixels, and those
      of one pixel add up to 1.
    """
    length = min(side, tile)
    starts = [*range(0, side - length, tile - overlap), side - length]
    i = np.arange(length)
    ramp = np.minimum(1, np.minimum(i + 1, length - i) / (overlap + 1))
    total = np.zeros(side)
    for start in starts:
        total[start : start + length] += ramp
    return [(start, (ramp / total[start : start + length]).astype(np.float32)) for start in starts]


def padded(image: np.ndarray, multiple: int) -> np.ndarray:
    """Mirrors an image on at its bottom and right, until its sides are multiples and at least 16.

    Args:
      image: (h, w, c); with a side of one pixel, which has nothing to mirror, its edge is repeated.
      multiple: of the result's sides.

    Returns:
      (h', w', c) of the same dtype, whose first h rows and w columns are the image.
    """
    height, width = (-(-max(side, 16) // multiple) * multiple - side for side in image.shape[:2])
    return np.pad(image, ((0, height), (0, width), (0, 0)), "reflect" if min(image.shape[:2]) > 1 else "edge")


class Translator:
    """Translates images one after the other on one device; compiled once for each padded shape up to a tile's.

    Attributes:
      channels: of the images that it takes.
    """

    def __init__(self, algorithm, state, direction, tile, overlap):
        """Prepares the translation with state.params.

        Args:
          algorithm: cyclegan.CycleGan.
          state: its TrainState.
          direction: 'ab' or 'ba'.
          tile: see `tiled`.
          overlap: see `tiled`.

        Raises:
          errors.UserError: the networks take no tiles of this size, or too much of a tile is overlap.
        """
        self.channels = algorithm.shapes[direction[0]][-1]
        self._multiple = algorithm.generators[direction].multiple
        self._tile, self._overlap = tile, overlap
        if tile < 16 or tile % self._multiple:
            raise errors.UserError(f"--tile is {tile}: it must be a multiple of {self._multiple} and at least 16")
        if not 0 <= overlap <= tile // 2:
            raise errors.UserError(f"--overlap is {overlap}: it must be between 0 and {tile // 2}, half of --tile")
        # There is one image at a time, which devices would only repeat.
        state = jax.tree.map(lambda x: x.addressable_data(0), state.replace(opt_state={}, ema_params={}, extra={}))
        self._fn = functools.partial(sampling.compiled_translation(algorithm, direction), state)

    def __call__(self, image):
        """(h, w, channels) uint8 to (h, w, c') uint8."""
        blended = tiled(self._fn, padded(image, self._multiple), self._tile, self._overlap)
        return np.rint(blended[: image.shape[0], : image.shape[1]]).astype(np.uint8)


# ------------------------------------------------------------------------------------------------------------------ files


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
            with self._judged(file.source), pictures.opened(file.source) as image:
                if pictures.channels_of(image) != self._channels:
                    converted.append(file.source)
                readable.append(file)
        if not readable:
            raise errors.UserError(f"none of the {len(files)} images can be read, such as: {self.skipped[0]}")
        input_files.tell_converted(converted, len(readable), input_files.KINDS[self._channels])
        return readable

    def read(self, path):
        """(h, w, channels) uint8, upright by its EXIF tag; None where it is skipped. Raises pictures.BadImageError."""
        with self._judged(path), pictures.opened(path) as image:
            return pictures.convert(image, self._channels)

    @contextlib.contextmanager
    def _judged(self, path):
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
        output.picture(image).save(temporary, "png")


# ------------------------------------------------------------------------------------------------------------------- page

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em }}
h1 {{ font-size: 1.2em; overflow-wrap: anywhere }}
figure {{ display: grid; grid-template-columns: 1fr 1fr; gap: .5em; margin: 0 0 2em }}
figcaption {{ grid-column: 1 / 3; overflow-wrap: anywhere }}
img {{ width: 100% }}
</style>
<h1>{title}</h1>
{figures}
</html>
"""
_FIGURE = """<figure>
<figcaption>{name}</figcaption>
{pair}
</figure>"""
_IMAGE = '<a href="{link}"><img src="{link}" alt="{kind}" loading="lazy"></a>'


def save_index(out, translated, title):
    """Writes `out`/index.html: each input beside its translation, by relative links. Raises errors.UserError.

    Args:
      out: the folder.
      translated: the Files.
      title: plain text.
    """

    def figure(file):
        link = {kind: _link(path, out) for kind, path in (("input", file.source), ("output", file.target))}
        pair = "\n".join(_IMAGE.format(kind=kind, link=link[kind]) for kind in link)
        return _FIGURE.format(name=html.escape(os.path.relpath(file.target, out)), pair=pair)

    text = _PAGE.format(title=html.escape(title), figures="\n".join(map(figure, translated)))
    with files.atomic_write(pathlib.Path(out) / "index.html") as temporary:
        temporary.write_text(text, "utf-8", errors="replace")  # names of files need not be text


def _link(path, folder):
    """A relative URL, without a character that means something in HTML."""
    return urllib.parse.quote(os.fsencode(os.path.relpath(path, folder)))
