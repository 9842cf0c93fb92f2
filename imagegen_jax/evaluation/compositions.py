"""Whether images show the colour and the class that they were asked for, of combinations that training showed and others.

The images are of a run on 'tinted:SPEC', whose prompts name a colour of tinted.PALETTE and a class.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from imagegen_jax.data import tinted


class Combination(NamedTuple):
    """What images are asked for.

    Attributes:
      colour: number in tinted.PALETTE.
      label: number of the class.
      seen: whether training showed it.
    """

    colour: int
    label: int
    seen: bool


def judged(asked: Iterable[Combination], images, extractor):
    """The shares of images that show what was asked for.

    Args:
      asked: of each image.
      images: (n, h, w, 3) uint8.
      extractor: features.Extractor of a classifier of the grey images. The colour is that of tinted.colours_of, and the grey
        image that of it.

    Returns:
      {'seen' and 'unseen': {'images': how many, 'colour', 'class' and 'both': (share, its 95 % interval by Wilson)}}, as JSON.
    """
    colour, label, seen = (np.array(values) for values in zip(*asked))
    found = tinted.colours_of(images)
    _, logits = extractor(tinted.grey_of(images, found))
    right = {"colour": found == colour, "class": logits.argmax(1) == label}
    right["both"] = right["colour"] & right["class"]
    return shares(right, seen)


def shares(right, seen):
    """{'seen' and 'unseen': {'images': how many, and by the names of `right` (share, its 95 % interval)}}, as JSON.

    Args:
      right: {name: (n,) bool} of images.
      seen: (n,) bool, whether training showed what each was asked for.
    """
    return {
        name: {"images": int(chosen.sum())} | {what: _share(hits[chosen]) for what, hits in right.items()}
        for name, chosen in (("seen", seen), ("unseen", ~seen))
        if chosen.any()
    }


def _share(hits):
    from scipy import stats  # imported here: it takes a third of a second, and the other scores do not need it

    low, high = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return {"value": float(hits.mean()), "interval": [float(low), float(high)]}
