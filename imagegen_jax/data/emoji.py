"""The bitmaps of a colour font as images: those of Debian's package fonts-noto-color-emoji, or of another with a table CBDT.

The tables cmap and GSUB say which code points a bitmap stands for; their names in Unicode are its caption.
"""

import collections
import contextlib
import functools
import hashlib
import io
from typing import NamedTuple
import unicodedata

from PIL import Image

from imagegen_jax import errors
from imagegen_jax.data import captions
from imagegen_jax.data import fingerprints
from imagegen_jax.data import pictures

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"  # of the package
CLASSES = ("none", "light", "medium-light", "medium", "medium-dark", "dark", "mixed")  # skin tones
_TONES = range(0x1F3FB, 0x1F400)  # the five modifiers, light to dark
_REGIONAL = range(0x1F1E6, 0x1F200)  # letters, of which two are a flag
_TAGS = range(0xE0020, 0xE007F)  # letters that follow a flag and say of what region of a country
_CANCEL_TAG = 0xE007F  # ends them
_SILENT = (0x200D, 0xFE0E, 0xFE0F, _CANCEL_TAG)  # joiner, variation selectors
_GENDERS = {0x2640: "woman", 0x2642: "man"}
_WORDS = {0x20E3: "keycap"} | _GENDERS | {point: f"{tone} skin tone" for point, tone in zip(_TONES, CLASSES[1:])}


class Glyph(NamedTuple):
    """A bitmap of a font.

    Attributes:
      sequence: the code points that it stands for.
      png: the bytes of the image.
    """

    sequence: tuple[int, ...]
    png: bytes


class EmojiSource:
    """Bitmaps of a font in memory, as PNG until a record is asked for: padded to squares, on white where alpha is dropped.

    The label is the skin tone, of CLASSES; 'mixed' is that of couples of two. What is combined is a figure and its skin tones.
    """

    def __init__(self, path, glyphs, side, channels, skipped):
        self._path = path
        self._glyphs = glyphs
        self._channels = channels
        self.image_shape = (side, side, channels)
        self.class_names = list(CLASSES)
        self.labels = [skin_tone(glyph.sequence) for glyph in glyphs]
        self.captions = [captions.reordered(caption(glyph.sequence)) for glyph in glyphs]
        self.figures = figures([glyph.sequence for glyph in glyphs])
        self.combinations = [figure and caption(glyph.sequence) for figure, glyph in zip(self.figures, glyphs)]
        self.skipped = skipped

    @functools.cached_property
    def fingerprint(self):
        images = [(glyph.sequence, hashlib.sha256(glyph.png).hexdigest()) for glyph in self._glyphs]
        return fingerprints.of(self.class_names, self.image_shape[0], images)

    def __len__(self):
        return len(self._glyphs)

    def __getitems__(self, indices):
        return [self._read(i) for i in indices]

    def _read(self, i):
        side = self.image_shape[0]
        with opened(self._path, self._glyphs[i]) as image:
            square = Image.new("RGBA", (side, side))
            square.paste(image.convert("RGBA"), ((side - image.width) // 2, (side - image.height) // 2))
        return {"image": pictures.convert(square, self._channels), "label": self.labels[i]}


def open_emoji(config, path, split, class_names=None):
    """The EmojiSource of a split: 'test' has a tenth of all first code points, with whatever follows them, 'train' the others.

    Args:
      config: a config's `data` section.
      path: pathlib.Path of the font.
      split: 'train' or 'test'.
      class_names: of the classes, in the order of their numbers; None for CLASSES.

    Returns:
      An EmojiSource, ordered by code points; a bitmap that comes several times is there once. None where no image is for
      tests, or the section calls the test split otherwise than 'train' or 'test'.

    Raises:
      errors.UserError: there is no such font, it has no such bitmaps or they cannot be read; other splits or classes are asked
        for.
    """
    name = config.train_split if split == "train" else config.test_split
    if name not in ("train", "test"):
        if split == "test":
            return None
        raise errors.UserError(f"{config.source} has no split {name!r}: its splits are train and test")
    if class_names and list(class_names) != list(CLASSES):
        raise errors.UserError(
            f"the classes of {config.source} are {', '.join(CLASSES)}, and not {', '.join(class_names[:10])}"
        )
    if not path.is_file():
        raise errors.UserError(
            f"config.data.source is {config.source!r}: there is no font {path}; "
            f"the Debian package fonts-noto-color-emoji puts one at {FONT}"
        )
    glyphs = read_font(path)
    here = [i for i, glyph in enumerate(glyphs) if split_of(glyph.sequence) == name]
    if split == "test" and not here:
        return None
    headers, _ = pictures.read_headers(glyphs, config.on_bad_image, functools.partial(opened, path))
    readable = [glyphs[i] for i in here if headers[i]]
    if not readable:
        raise errors.UserError(f"no image of {path} can be read that is for {name}")
    side = max(max(header[:2]) for header in headers if header)  # of both splits
    return EmojiSource(path, readable, side, config.channels or 3, len(here) - len(readable))


@contextlib.contextmanager
def opened(path, glyph):
    """The PIL image of a Glyph of the font at `path`. Raises pictures.BadImageError, with its caption and code points."""
    points = " ".join(f"U+{point:04X}" for point in glyph.sequence)
    with pictures.opened(io.BytesIO(glyph.png), f"'{caption(glyph.sequence)}' ({points}) in {path}") as image:
        yield image


# --------------------------------------------------------------------------------------------------------------- the font


def read_font(path):
    """The Glyphs of a font's largest bitmaps, each image once, by code points. Raises errors.UserError."""
    from fontTools import ttLib  # imported here: the other sources do not need it

    try:
        with ttLib.TTFont(path) as font:
            images = _images(font)
            drawn = sorted((sequence, images[glyph]) for glyph, sequence in sequences(font).items() if glyph in images)
    except Exception as error:  # damaged fonts make a dozen kinds
        raise errors.UserError(f"cannot read the font {path}: {pictures.reason(error)}") from error
    if not drawn:
        raise errors.UserError(
            f"the font {path} has no bitmaps of emoji (a table CBDT): take that of the Debian package fonts-noto-color-emoji"
        )
    first = {}
    for sequence, png in drawn:
        first.setdefault(png, sequence)
    return [Glyph(sequence, png) for png, sequence in first.items()]


def _images(font):
    """{name of a glyph: PNG} of the largest size that a font has; {} of one without."""
    if not {"CBDT", "CBLC"} <= set(font.keys()):
        return {}
    sizes = zip(font["CBLC"].strikes, font["CBDT"].strikeData)
    _, bitmaps = max(sizes, key=lambda size: size[0].bitmapSizeTable.ppemY)
    return {glyph: bitmap.imageData for glyph, bitmap in bitmaps.items() if hasattr(bitmap, "imageData")}


def sequences(font):
    """The code points that each glyph of a font is drawn for.

    Several ligatures may make one glyph: of text from right to left, or of regions that fly another's flag. The glyphs are
    numbered in the order of the sequences that they are drawn for, which tells those from the others. Private code points are
    left out, and flags whose tags are none.

    Args:
      font: a fontTools.ttLib.TTFont.

    Returns:
      {name of a glyph: tuple of code points}.
    """
    found = collections.defaultdict(set)
    letters = {glyph: point for point, glyph in (font.getBestCmap() or {}).items() if unicodedata.category(chr(point)) != "Co"}
    for glyph, point in letters.items():
        found[glyph].add((point,))
    for glyph, parts in _ligatures(font):
        if all(part in letters for part in parts):
            sequence = tuple(letters[part] for part in parts)
            if _CANCEL_TAG not in sequence[:2]:
                found[glyph].add(sequence)
    chosen, last = {}, ()
    for glyph in sorted(found, key=font.getGlyphID):
        last = chosen[glyph] = min(found[glyph], key=lambda sequence: (sequence < last, sequence))
    return chosen


def _ligatures(font):
    """(name of the glyph, names of what it is made of) of each ligature in a font."""
    for lookup in font["GSUB"].table.LookupList.Lookup if "GSUB" in font else ():
        for table in lookup.SubTable:
            table = getattr(table, "ExtSubTable", table)
            for start, ligatures in getattr(table, "ligatures", {}).items():
                for ligature in ligatures:
                    yield ligature.LigGlyph, [start, *ligature.Component]


# -------------------------------------------------------------------------------------------------- what code points mean


def split_of(sequence):
    """'test' for a tenth of all first code points, so that a figure is in one split in all its skin tones; or 'train'."""
    first = hashlib.sha256(f"U+{sequence[0]:04X}".encode()).hexdigest()
    return "test" if int(first, 16) % 10 == 0 else "train"


def skin_tone(sequence):
    """The number in CLASSES of a sequence of code points."""
    tones = {_TONES.index(point) + 1 for point in sequence if point in _TONES}
    return CLASSES.index("mixed") if len(tones) > 1 else max(tones, default=0)


def figures(sequences):
    """What each of the sequences shows whatever its skin tone, in words; '' of what comes in no tones."""

    def figure(sequence):
        return tuple(point for point in sequence if point not in (*_TONES, *_SILENT))

    toned = {figure(sequence) for sequence in sequences if skin_tone(sequence)}
    return [caption(figure(sequence)) if figure(sequence) in toned else "" for sequence in sequences]


def caption(sequence):
    """A sequence of code points in words, such as 'golfer, medium-light skin tone, woman' or 'flag JP'.

    They are the names of Unicode in lower case. Those that Python's version of Unicode lacks are U+ and their number.
    """
    region = "".join(chr(point - _REGIONAL.start + ord("A")) for point in sequence if point in _REGIONAL)
    region += "".join(chr(point - 0xE0000) for point in sequence if point in _TAGS).upper()
    if len(region) > 1:
        return f"flag {region}"
    return ", ".join(_word(point, i == 0) for i, point in enumerate(sequence) if point not in _SILENT)


def _word(point, first):
    """The words for a code point; a sign of gender is one for itself where it comes first."""
    if point in _WORDS and not (first and point in _GENDERS):
        return _WORDS[point]
    name = unicodedata.name(chr(point), "")
    return name.lower().removeprefix("emoji component ") or f"U+{point:04X}"
