"""Images as arrays: uint8 in [0, 255] on disk and on the way to the device, float in [-1, 1] inside the models."""

import dataclasses
from typing import Annotated

from jax import numpy as jnp
import numpy as np

from imagegen_jax import conditions
from imagegen_jax import errors
from imagegen_jax import keys


@dataclasses.dataclass(frozen=True)
class Spec:
    """What the images that a model sees have in common.

    Attributes:
      shape: (height, width, channels).
      class_names: of the labels, that of label 0 first; () where there are no labels. A name is '' where it is not known, as
        in runs from before names were kept.
      caption_length: tokens of the captions that come with the images; 0 where none do.
      tokenizer: what these are, as conditions.Text has it.
    """

    shape: Annotated[tuple[int, ...], keys.Each(keys.AtLeast(1))]
    class_names: tuple[str, ...] = ()
    caption_length: Annotated[int, keys.AtLeast(0)] = 0
    tokenizer: str = ""

    def objections(self):
        """See keys.objections."""
        if len(self.shape) != 3:
            yield "shape", "it is height, width and channels"

    @property
    def classes(self):
        """Number of labels; 0 where there are none."""
        return len(self.class_names)

    @property
    def conditions(self):
        """{name: conditions.Condition} of what is known of each image."""
        label = {"label": conditions.Label(self.classes)} if self.classes else {}
        return label | ({"text": conditions.Text(self.caption_length, self.tokenizer)} if self.caption_length else {})

    @property
    def known_names(self):
        """The class names; None where they are not known."""
        return self.class_names if all(self.class_names) else None

    def name_of(self, label):
        """The name of a class; its number where the name is not known."""
        return self.class_names[label] or str(label)

    def label_of(self, word, flag="label"):
        """The label that a person means by a class's name, or by its number.

        Args:
          word: text, or a number. A name goes before a number: where classes are called 1 to 3, '1' is the first.
          flag: that it was given as, for the error.

        Raises:
          errors.UserError: there is no such class.
        """
        if word in self.class_names:
            return self.class_names.index(word)
        if str(word).isdecimal() and int(word) < self.classes:
            return int(word)
        if not self.classes:
            raise errors.UserError(f"--{flag}={word}: the images of this run have no labels; leave it out")
        names = f"one of {', '.join(self.known_names)}, or " if self.known_names else ""
        raise errors.UserError(f"--{flag}={word}: there is no such class; choose {names}0 to {self.classes - 1}")

    def agrees(self, other):
        """Whether images of the one are images of the other, as far as names are known."""
        named = self.known_names is None or other.known_names is None or self.class_names == other.class_names
        return self.shape == other.shape and self.classes == other.classes and named


def unnamed(classes):
    """The class names of so many labels whose names are not known."""
    return ("",) * classes


def to_float(image):
    """uint8 of any shape to float32 in [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(image):
    """float in [-1, 1] of any shape to the nearest uint8; values outside are clipped. The inverse of to_float."""
    return jnp.round((jnp.clip(image, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)


def rows_by_label(images, labels):
    """Orders images for a grid of one row a label.

    Args:
      images: (n, h, w, c) uint8.
      labels: (n,) integers.

    Returns:
      (images, columns) for `grid`: each label's images in their order, rows filled up with white.
    """
    rows = [images[labels == label] for label in np.unique(labels)]
    columns = max(map(len, rows))
    filled = [np.concatenate([row, np.full((columns - len(row), *row.shape[1:]), 255, np.uint8)]) for row in rows]
    return np.concatenate(filled), columns


def grid(images, columns=None, gap=1):
    """Lays images out in rows, left to right and top to bottom, as square a sheet as possible.

    Args:
      images: (n, h, w, c) uint8, n >= 1.
      columns: images a row; by default the least with columns^2 >= n.
      gap: white pixels between images.

    Returns:
      (rows * (h + gap) - gap, columns * (w + gap) - gap, c) uint8; places left over are white.
    """
    n, h, w, c = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    sheet = np.full((rows, h + gap, columns, w + gap, c), 255, np.uint8)
    for i, image in enumerate(images):
        sheet[i // columns, :h, i % columns, :w] = image
    return sheet.reshape(rows * (h + gap), columns * (w + gap), c)[: rows * (h + gap) - gap, : columns * (w + gap) - gap]
