"""Captions of images: those that a source has, or sentences of a grammar about what is known of each.

A source may have `captions`: for each record a tuple of texts that say the same, such as synonyms and other orders of words, or
parts of it, of which training takes a random one each time. The first says it all, and held-out images are told that.
"""

import functools
import itertools
import json
import zlib

import numpy as np

from imagegen_jax import errors
from imagegen_jax.data import fingerprints

FILE = "captions.jsonl"  # beside the images of a folder
_SYNONYMS = {
    "t-shirt/top": ("t-shirt", "top", "tee"),
    "trouser": ("trousers", "pants"),
    "pullover": ("pullover", "sweater", "jumper"),
    "sneaker": ("sneaker", "trainer"),
    "bag": ("bag", "handbag"),
    "ankle boot": ("ankle boot", "boot"),
    "red": ("red", "scarlet"),
    "turquoise": ("turquoise", "teal"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
}
_PLURAL = ("trousers", "pants")
_VARIANTS = 24  # of what a person's caption, split at its commas, is said in


@functools.cache
def alternatives(thing, colour=""):
    """What a grammar says of a thing in a colour, either of which may be '': `whole`, and in part."""
    return (*whole(thing, colour), *_words(thing), *_words(colour)) or ("",)


@functools.cache
def whole(thing, colour):
    """What says all of a thing in a colour, in all words and orders."""
    both = list(itertools.product(_words(colour), _words(thing)))
    said = [f"{c} {t}" for c, t in both]
    said += [_article(f"{c} {t}") for c, t in both if t not in _PLURAL]
    return said + [f"{t}, {c}" for c, t in both] + [f"{t}, in {c}" for c, t in both]


def _words(word):
    """A word and its synonyms; () of ''."""
    return _SYNONYMS.get(word.lower(), (word.lower(),)) if word else ()


def _article(words):
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def reordered(caption):
    """A caption whose parts stand between commas, in all their orders, but in no more than a few of many."""
    orders = itertools.islice(itertools.permutations(caption.split(", ")), _VARIANTS)
    return tuple(", ".join(parts) for parts in orders)


class Captions:
    """The captions of a source's records as tokens.

    Attributes:
      kind: the conditions.Text.
    """

    def __init__(self, texts, kind):
        """`texts` are the tuple of each record, of which tokens are made when they are asked for."""
        self._texts = texts
        self.kind = kind
        self._tokens = functools.lru_cache(maxsize=None)(self.kind.tokens)

    @functools.cached_property
    def digest(self):
        """Short text that changes with them, and with what tokens are."""
        return fingerprints.digest(*self._texts, *filter(None, [self.kind.digest]))

    def __call__(self, indices, positions=None):
        """(n, length) int32 of the records `indices`, one of the captions of each by its position in the endless stream.

        Without positions it is the first one.
        """
        positions = positions or [None] * len(indices)
        return np.concatenate([self._tokens((self._one(*both),)) for both in zip(indices, positions)])

    def _one(self, index, position):
        texts = self._texts[index]
        return texts[0 if position is None else zlib.crc32(f"{position} {index}".encode()) % len(texts)]


def of_source(source, spec):
    """The texts of a source's records: its captions, or what the grammar says of their classes.

    Args:
      source: a sources.Source.
      spec: how a config names it, for the error.

    Raises:
      errors.UserError: it has neither.
    """
    if (found := getattr(source, "captions", None)) is not None:
        return found
    if not source.class_names:
        raise errors.UserError(
            f"the images of {spec} have no captions: in a folder put {FILE} beside them, with a line "
            '{"file_name": "a.png", "text": "a red boot"} for each, or a.txt beside a.png'
        )
    return [alternatives(source.class_names[label]) for label in source.labels]


def of_files(folder, files):
    """The captions of image files: those of FILE, or those of the .txt beside each, one a line.

    A line of FILE is {"file_name": path in the folder, "text": a caption or a list of them}, as in Hugging Face's ImageFolder.

    Args:
      folder: pathlib.Path.
      files: paths in it.

    Returns:
      A list of tuples of texts; None where there is neither.

    Raises:
      errors.UserError: FILE cannot be read, or some files have no caption.
    """
    listed = folder / FILE
    if listed.is_file():
        known = _read(listed)
        found = [known.get(file.relative_to(folder).as_posix(), ()) for file in files]
    elif any(file.with_suffix(".txt").is_file() for file in files):
        found = [_lines(file.with_suffix(".txt")) for file in files]
    else:
        return None
    if without := [file.relative_to(folder).as_posix() for file, texts in zip(files, found) if not texts]:
        more = f" and {len(without) - 3} more" if len(without) > 3 else ""
        raise errors.UserError(
            f"captions are missing in {folder} for {', '.join(without[:3])}{more}: add them, or remove these images"
        )
    return found


def _lines(path):
    """The texts of a file, one a line; () where there is no such file."""
    try:
        return tuple(filter(None, map(str.strip, path.read_text("utf-8").splitlines())))
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UserError(f"cannot read the captions {path}: {error}") from error


def _read(path):
    """{name of a file: tuple of texts} of FILE."""
    known = {}
    for number, line in enumerate(_lines(path), 1):
        try:
            entry = json.loads(line)
            texts = entry["text"]
            known[str(entry["file_name"])] = (texts,) if isinstance(texts, str) else tuple(map(str, texts))
        except (ValueError, TypeError, KeyError) as error:
            raise errors.UserError(f'{path}, line {number}: write {{"file_name": "a.png", "text": "a red boot"}}') from error
    return known
