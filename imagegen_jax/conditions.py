"""What images are to show: their class, the words of a text, or what is left of them, such as a smaller image.

A batch and a request carry `condition`, {name: array with a row for each image}. images.Spec.conditions describes each by its
name, so that leaving conditions out in training (Ho & Salimans 2022, algorithm 1) and guidance need not know what they are.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Protocol

import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax import tokenization

NO_TEXTS = "this run is told no texts; leave it out, or train one as configs/text_to_image.py does"


class Condition(Protocol):
    """A kind of condition."""

    def null(self, n: int) -> jax.Array:
        """The value of n images that shows nothing in particular, as the arrays of this condition have it."""


@dataclasses.dataclass(frozen=True)
class Label:
    """A class, (n,) int32 in [0, classes). The null condition is the number behind the last, of which a one-hot code is 0."""

    classes: int

    def null(self, n):
        """See Condition."""
        return jnp.full(n, self.classes, jnp.int32)


@dataclasses.dataclass(frozen=True)
class Text:
    """Words, (n, length) int32: numbers of tokens, and behind the last of a text that behind the last token, `vocabulary`.

    The null condition is the empty text.

    Attributes:
      length: of a row.
      tokenizer: what tokens are: the path of a tokenizer.json, or of a folder with one; '' for the bytes of UTF-8.
    """

    length: int
    tokenizer: str = ""

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self._reader.vocabulary

    @property
    def digest(self) -> str:
        """Short text that changes with what tokens are."""
        return self._reader.digest

    def null(self, n):
        """See Condition."""
        return jnp.broadcast_to(self.tokens([""]), (n, self.length))

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """(n, length) int32. What is too long is cut; see `cut`."""
        found = np.full((len(texts), self.length), self.vocabulary, np.int32)
        for row, text in zip(found, texts):
            numbers, _ = self._reader.encode(text, self.length)
            row[: len(numbers)] = numbers
        return found

    def rows(self, text: str, n: int) -> np.ndarray:
        """(n, length) int32 of one text."""
        return np.repeat(self.tokens([text]), n, 0)

    def cut(self, text: str) -> str:
        """What of a text does not fit; '' of most."""
        return self._reader.encode(text, self.length)[1]

    @property
    def _reader(self):
        return tokenization.load(self.tokenizer)


@dataclasses.dataclass(frozen=True)
class Image:
    """Maps that a network sees beside x_t, (n, *shape) float32, such as a degraded image. The null ones are 0.

    Attributes:
      shape: (height, width, channels), of which height and width are those of the image.
    """

    shape: tuple[int, int, int]

    def null(self, n):
        """See Condition."""
        return jnp.zeros((n, *self.shape))


@dataclasses.dataclass(frozen=True)
class Noise:
    """Standard deviation of the noise in such an image, (n,) float32 from 0 to about 1. The null one is 0."""

    def null(self, n):
        """See Condition."""
        return jnp.zeros(n)


def classes(kinds: Mapping[str, Condition]) -> int:
    """How many labels are told; 0 where none are."""
    return kinds["label"].classes if "label" in kinds else 0


def null(kinds: Mapping[str, Condition], n: int) -> dict[str, jax.Array]:
    """The null condition of n images."""
    return {name: kind.null(n) for name, kind in kinds.items()}


def told(condition: Mapping[str, jax.Array], kinds: Mapping[str, Condition], n: int) -> dict[str, jax.Array]:
    """What n images are to show, of these kinds; the null condition where nothing is said."""
    return null(kinds, n) | {name: condition[name] for name in kinds if name in condition}


def dropped(condition: Mapping[str, jax.Array], kinds: Mapping[str, Condition], chosen: jax.Array) -> dict[str, jax.Array]:
    """The condition with the null one in the rows that are `chosen`, (n,) bool."""
    n = len(chosen)
    return {
        name: jnp.where(chosen.reshape(n, *[1] * (value.ndim - 1)), kinds[name].null(n), value)
        for name, value in condition.items()
    }


def labels(batch) -> np.ndarray:
    """(n,) int32, the classes of a batch's images on the host; -1 where they have none."""
    return batch["condition"].get("label", np.full(len(batch["index"]), -1, np.int32))
