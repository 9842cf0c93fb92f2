"""Whether images of emoji show the figure and the skin tone that they were asked for, of pairs that training showed and others.

A font draws each such figure without a skin tone and in five. What is asked is judged by these true glyphs.
"""

from typing import NamedTuple

import numpy as np

from imagegen_jax.evaluation import compositions

_LEAST = 16  # of 255: what differs by less between the glyphs of a figure is no skin


class Asked(NamedTuple):
    """What an image is asked for.

    Attributes:
      figure: number of the figure.
      tone: number of its skin tone, 0 for none.
      seen: whether training showed the pair.
    """

    figure: int
    tone: int
    seen: bool


def judged(asked, glyphs, images, extractor, seed=0):
    """The shares of images that show what was asked for.

    The tone is right where the colours of skin are nearest to those of the glyph in this tone (tones_of). The figure is right
    where the image is nearer to its glyph than to that of another figure in this tone, drawn at random, and it is the nearest
    where no other figure's glyph in this tone is as near.

    Args:
      asked: the Asked of each image.
      glyphs: (figures, tones, h, w, 3) uint8, the true ones.
      images: (n, h, w, 3) uint8.
      extractor: features.Extractor in whose features distances between images are Euclidean.
      seed: of the other figures.

    Returns:
      {'seen' and 'unseen': {'images': how many, 'tone', 'figure', 'both' and 'nearest': (share, its 95 % interval by
      Wilson)}}, as JSON.
    """
    figure, tone, seen = (np.array(values) for values in zip(*asked))
    of_images, _ = extractor(images)
    of_glyphs, _ = extractor(glyphs.reshape(-1, *glyphs.shape[2:]))
    of_glyphs = of_glyphs.reshape(*glyphs.shape[:2], -1)
    distances = np.stack([np.linalg.norm(of_glyphs[:, t] - x, axis=-1) for x, t in zip(of_images, tone)])  # (n, figures)
    own = distances[np.arange(len(figure)), figure]
    shift = np.random.default_rng(seed).integers(1, len(glyphs), len(figure))
    other = distances[np.arange(len(figure)), (figure + shift) % len(glyphs)]
    right = {"tone": tones_of(images, glyphs[figure]) == tone, "figure": own < other}
    right["both"] = right["tone"] & right["figure"]
    right["nearest"] = (distances < own[:, None]).sum(1) == 0
    return compositions.shares(right, seen)


def tones_of(images, glyphs):
    """Which skin tones images have.

    Of the pixels in which the glyphs differ, those count whose colour some glyph has there, or nearly, rather than elsewhere. A
    tone is as near as its nearest colours are to them on average: where in these pixels they are is left to the figure's score,
    as a glyph that is moved by a pixel or two would otherwise seem lighter or darker.

    Args:
      images: (n, h, w, 3) uint8.
      glyphs: (n, tones, h, w, 3) uint8, those of the figure that each was asked for.

    Returns:
      (n,) integers, -1 for an image that shows no skin there.
    """
    return np.array([_tone_of(*one) for one in zip(images, glyphs)])


def _tone_of(image, glyphs):
    skin = np.ptp(glyphs.astype(np.int16), axis=0).max(-1) >= _LEAST  # (h, w)
    shown = image[skin]
    to_tones = np.stack([_distance(shown, glyph[skin]) for glyph in glyphs])  # (tones, pixels)
    is_skin = to_tones.min(0) <= _distance(shown, glyphs[0][~skin])
    return to_tones[:, is_skin].mean(1).argmin() if is_skin.any() else -1


def _distance(colours, known):
    """From each of (n, 3) colours to the nearest of (m, 3) known ones; infinite where there are none."""
    from scipy import spatial  # imported here: it takes its time, and the other scores do not need it

    if not len(known):
        return np.full(len(colours), np.inf)
    return spatial.cKDTree(known).query(colours)[0]
