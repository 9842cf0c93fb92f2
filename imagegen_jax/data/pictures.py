"""Image files: which are taken, opened so that none starts another program, and their pixels as arrays."""

from concurrent import futures
import contextlib
import io
import struct

import numpy as np
from PIL import Image
from PIL import ImageOps

from imagegen_jax import errors
from imagegen_jax import progress
from imagegen_jax.data import fingerprints

_EXTENSIONS = Image.registered_extensions()  # which also makes Image.OPEN complete
# Pillow's formats that hold a picture and nothing else. Others start programs (EPS), read on from elsewhere (FITS, HDF5), or
# are recognised by their name alone (TGA).
FORMATS = tuple(
    name
    for name in ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "QOI", "JPEG2000", "AVIF")
    if name in Image.OPEN  # an older Pillow has fewer
)
SUFFIXES = tuple(sorted(suffix for suffix, name in _EXTENSIONS.items() if name in FORMATS))
COMMON_SUFFIXES = ".png, .jpg, .webp, .tif or .bmp"  # for messages
_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # 16 bits a pixel
_GREY_MODES = ("1", "L", *_DEEP_MODES)
_ALPHA_MODES = ("LA", "PA", "RGBA", "La", "RGBa")
# What Pillow raises for a file that it cannot read; struct.error comes of damaged EXIF, RuntimeError of AVIF, TypeError and
# ArithmeticError of TIFF whose fields have other types.
_UNREADABLE = (OSError, EOFError, ValueError, SyntaxError, RuntimeError, TypeError, ArithmeticError, struct.error)
_UNREADABLE += (Image.DecompressionBombError,)


class BadImageError(errors.UserError):
    """An image that cannot be read; its message names it."""


@contextlib.contextmanager
def opened(file, name=None):
    """The PIL image in a file, whose pixels are read when they are asked for; of an animated one the first frame.

    Args:
      file: path, or an open binary file.
      name: what the error calls it; None for its path.

    Raises:
      BadImageError: the file is not an image in one of FORMATS, is damaged, or has more pixels than Pillow's limit
        (Image.MAX_IMAGE_PIXELS), which is there because few bytes can become many. Also for errors in the block.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            yield image
    except _UNREADABLE as error:
        raise BadImageError(f"cannot read the image {name or file}: {reason(error)}") from error


def of_array(image):
    """An (h, w, c) uint8 array as a PIL image."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def png(image):
    """The same as a file of a PNG, at its beginning: TFDS takes encoded bytes, since it encodes arrays with TensorFlow."""
    file = io.BytesIO()
    of_array(image).save(file, "png")
    file.seek(0)
    return file


def reason(error):
    """Why a file cannot be read, in few words."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is empty or not an image"
    return str(error).split("\n")[0] or type(error).__name__


def header(image):
    """(height, width, channels) of an open PIL image, upright by its EXIF tag. Reads no pixels."""
    # Pillow decodes a whole PNG to look for EXIF where the header has none.
    exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
    turned = exif.get(0x0112, 1) >= 5  # the orientation tag: 5 to 8 lie on their side
    return (image.size if turned else image.size[::-1]) + (channels_of(image),)


def read_headers(files, on_bad_image, opened=opened):
    """The headers of images.

    Args:
      files: what `opened` takes, of each image.
      on_bad_image: of a config's `data` section.
      opened: a context manager as `opened` is.

    Returns:
      ((height, width, channels) or None for each image, how many are None).

    Raises:
      BadImageError: one cannot be read, and on_bad_image is 'error'.
    """

    def read(file):
        try:
            with opened(file) as image:
                return header(image)
        except BadImageError as error:
            return error

    with futures.ThreadPoolExecutor() as pool:
        found = pool.map(read, files)
        many = len(files) >= fingerprints.MANY_FILES
        headers = list(progress.each(found, len(files), "image", "looking at images", many))
    bad = [found for found in headers if isinstance(found, BadImageError)]
    if bad and on_bad_image == "error":
        raise BadImageError(str(bad[0]), "data.on_bad_image=skip", "remove it")
    for error in bad[:5]:
        progress.tell(f"skipped: {error}")
    return [None if isinstance(found, BadImageError) else found for found in headers], len(bad)


def channels_of(image):
    """How many channels a PIL image has to a model: 1, 3 or 4. Reads its header alone; raises as `convert` does."""
    _check_range(image)
    if image.mode in _GREY_MODES:
        return 1
    return 4 if image.mode in _ALPHA_MODES or "transparency" in image.info else 3


def convert(image, channels):
    """A PIL image as (h, w, channels) uint8: upright by its EXIF tag, alpha laid on white where it is dropped.

    Raises:
      ValueError: its pixels are floating-point numbers, whose black and white nobody knows.
    """
    _check_range(image)
    image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP_MODES:  # Pillow's own conversion would clip them
        image = Image.fromarray(np.clip(np.asarray(image, np.float64) / 257 + 0.5, 0, 255).astype(np.uint8))
    if channels != 4 and (image.mode in _ALPHA_MODES or "transparency" in image.info):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert(_CHANNELS[channels])).reshape(image.height, image.width, channels)


def opacity(image):
    """(h, w, 1) uint8, how opaque each pixel of a PIL image is, upright; None where it has no transparency."""
    if image.mode not in _ALPHA_MODES and "transparency" not in image.info:
        return None
    return np.asarray(ImageOps.exif_transpose(image).convert("RGBA").getchannel("A"))[..., None]


def _check_range(image):
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range: save it with 8 or 16 bits")
