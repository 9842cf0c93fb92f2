"""Images to files. The ending of the path says the format."""

import pathlib

import numpy as np
from PIL import Image

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import images

FORMATS = "a path ending in .png (a grid), .npz (uint8 NHWC under 'images') or / (a folder of PNGs)"


def check(out, animated=False):
    """Raises errors.UserError where nothing can be written to `out` (a GIF too if `animated`), before anything is drawn."""
    path = pathlib.Path(out)
    endings = (".png", ".npz", ".gif") if animated else (".png", ".npz")
    if not str(out).endswith("/") and path.suffix not in endings:
        raise errors.UserError(f"--out={out}: give {FORMATS}{', or in .gif (an animation)' if animated else ''}")
    if path.is_dir() != str(out).endswith("/") and path.exists():
        raise errors.UserError(f"--out={out}: it exists and is {'a folder' if path.is_dir() else 'a file'}")
    folder = path if str(out).endswith("/") else path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UserError(f"--out={out}: cannot make {folder}: {error.strerror}") from error


def picture(image):
    """An (h, w, c) uint8 array as a PIL image."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def save_grid(path, batch, columns=None):
    """(n, h, w, c) uint8 as one PNG (images.grid), as a whole or not at all; returns the sheet. Raises errors.UserError."""
    sheet = images.grid(batch, columns)
    with files.draft(path) as draft:
        picture(sheet).save(draft, "png", optimize=True)
    return sheet


def save(out, batches, labels=None):
    """Writes batches of (n, h, w, c) uint8 to `out`, in the format that its ending names.

    A folder gets 00000.png, 00001.png, ... as they come; the other two formats are written when all are there. The images'
    labels, (n,) int32, stand in an .npz under 'labels'; a grid of several has one row for each.
    """
    if str(out).endswith("/"):
        i = 0
        for batch in batches:
            for image in batch:
                picture(image).save(pathlib.Path(out) / f"{i:05d}.png")
                i += 1
        return
    drawn = np.concatenate(list(batches))
    if pathlib.Path(out).suffix == ".npz":
        known = {} if labels is None else {"labels": labels}
        np.savez_compressed(out, images=drawn, **known)
    elif labels is not None and len(set(labels.tolist())) > 1:
        save_grid(out, *images.rows_by_label(drawn, labels))
    else:
        save_grid(out, drawn)


def save_animation(path, frames):
    """(n, h, w, c) uint8 as a GIF that runs for ever, ten frames a second, as a whole or not at all."""
    first, *others = map(picture, frames)
    with files.draft(path) as draft:
        first.save(draft, "gif", save_all=True, append_images=others, duration=100, loop=0)
