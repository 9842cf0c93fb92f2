"""Which pixels of images are hidden: masks, by a word, a file or the image's own transparency."""

import os
import re

import numpy as np
from PIL import Image
from PIL import ImageDraw

from imagegen_jax import errors
from imagegen_jax.data import pictures

WORDS = "a file (white is filled), alpha, box:x,y,w,h, half:left (right, top, bottom), random:0.5 or scratches:SEED"
_HALVES = ("left", "right", "top", "bottom")
_STROKES = 5


def hidden(mask, num, size, alpha=None, first=0):
    """The pixels that are hidden, those of a random mask other ones in each image.

    Args:
      mask: as WORDS say; or an array that broadcasts against (num, height, width), of which true or above 0 is hidden.
      num: of the images.
      size: (height, width) of the images.
      alpha: (num, height, width) uint8, the opacity of images that have one; what is less than opaque is hidden by 'alpha'.
      first: number of the first image, of which the others follow: a random mask depends on the image's.

    Returns:
      (num, height, width) bool.

    Raises:
      errors.UserError: there is no such mask, it has another size, or it hides nothing of an image.
    """
    found = _of_word(mask, num, size, alpha, first) if isinstance(mask, str | os.PathLike) else np.asarray(mask) > 0
    said = f"--mask={mask}" if isinstance(mask, str | os.PathLike) else "the mask"
    if found.shape[-2:] != tuple(size):
        raise errors.UserError(f"{said} has {_by(found.shape[-2:])} pixels and the images {_by(size)}: give one of their size")
    found = np.broadcast_to(found, (num, *size))
    if not found.any((1, 2)).all():
        raise errors.UserError(f"{said} is all black, and hides nothing: make white what is to be filled")
    return found


def box(word, size, flag="mask"):
    """(rows, columns), slices, of 'box:x,y,w,h'. Raises errors.UserError where it is not inside of (height, width)."""
    match = re.fullmatch(r"box:(\d+),(\d+),(\d+),(\d+)", word)
    if not match:
        raise errors.UserError(f"--{flag}={word}: write box:x,y,w,h in pixels, such as box:7,7,14,14")
    x, y, width, height = map(int, match.groups())
    if not (width and height and x + width <= size[1] and y + height <= size[0]):
        raise errors.UserError(f"--{flag}={word}: the box must lie inside of {_by(size)} pixels (height x width)")
    return slice(y, y + height), slice(x, x + width)


def _of_word(mask, num, size, alpha, first):
    kind, _, value = str(mask).partition(":")
    if os.path.isfile(mask):
        with pictures.opened(mask) as image:
            return pictures.convert(image, 1)[..., 0] >= 128
    if kind == "alpha":
        if alpha is None:
            raise errors.UserError("--mask is missing: the images have no transparency that could be one; give " + WORDS)
        return alpha < 255
    found = np.zeros((num, *size), bool)
    if kind == "box":
        found[:, *box(mask, size)] = True
    elif kind == "half" and value in _HALVES:
        axis = 1 if value in ("top", "bottom") else 2
        halves = np.split(found, [size[axis - 1] // 2], axis)
        halves[value in ("right", "bottom")][:] = True
    elif kind == "random" and re.fullmatch(r"0?\.\d*[1-9]\d*", value):
        for i, one in enumerate(found, first):
            one[:] = np.random.default_rng(i).random(size) < float(value)
    elif kind == "scratches" and value.isdecimal():
        for i, one in enumerate(found, first):
            one[:] = _scratches(np.random.default_rng([int(value), i]), size)
    else:
        raise errors.UserError(f"--mask={mask}: there is no such file or word; give {WORDS}")
    return found


def _scratches(random, size):
    """(height, width) bool: strokes of random places, a fourteenth of the shorter side wide."""
    sheet = Image.new("1", size[::-1])
    for _ in range(_STROKES):
        ends = random.random((2, 2)) * size[::-1]
        ImageDraw.Draw(sheet).line([tuple(end) for end in ends], fill=1, width=max(1, min(size) // 14))
    return np.asarray(sheet)


def _by(size):
    return "x".join(map(str, size))
