"""The images of another source in colours of a palette, so that colour comes without a download and with its truth known."""

import functools

import numpy as np

from imagegen_jax.data import captions
from imagegen_jax.data import derived

# RGB. The largest channel of each is 255, so that white becomes as bright as it was.
PALETTE = {
    "red": (255, 40, 40),
    "orange": (255, 140, 0),
    "yellow": (255, 235, 0),
    "lime": (160, 255, 0),
    "green": (40, 255, 90),
    "turquoise": (0, 255, 230),
    "blue": (40, 90, 255),
    "purple": (150, 40, 255),
    "pink": (255, 120, 200),
    "white": (255, 255, 255),
}


class TintedSource(derived.Derived):
    """The images of another source, grey, times a colour each: black stays black, and white becomes the colour.

    The colour of a record depends on its number alone, and so not on its class.

    Attributes:
      colours: (len,) numbers of PALETTE's colours.
      combinations: the colour and class of each record in words; of a source without classes there are none.
    """

    def __init__(self, source):
        shape = (*source.image_shape[:2], 3)
        super().__init__(source, ("tinted", PALETTE), shape, lambda image, i: tinted(image, self.colours[i]))
        self.colours = np.random.default_rng(0).integers(len(PALETTE), size=len(source))

    @functools.cached_property
    def captions(self):
        return [captions.alternatives(thing, colour) for thing, colour in self._words()]

    @functools.cached_property
    def combinations(self):
        return [thing and f"{colour} {thing}" for thing, colour in self._words()]

    def _words(self):
        """(name of the class or '', name of the colour) of each record."""
        names = list(PALETTE)
        things = [self.class_names[label] for label in self.labels] if self.class_names else [""] * len(self)
        return [(thing, names[colour]) for thing, colour in zip(things, self.colours)]


def tinted(image, colour):
    """(h, w, c) uint8 -> (h, w, 3) uint8: the mean of its channels in the colour of this number."""
    grey = image.mean(-1, keepdims=True, dtype=np.float32)
    return np.rint(grey / 255 * np.asarray(list(PALETTE.values())[colour], np.float32)).astype(np.uint8)


def colours_of(image):
    """Which colours images have: of PALETTE that whose shares of red, green and blue are nearest to the image's.

    Args:
      image: (n, h, w, 3) uint8.

    Returns:
      (n,) integers.
    """
    palette = np.asarray(list(PALETTE.values()), np.float32)
    mean = image.astype(np.float32).mean((1, 2)) + 1e-6
    shares, known = (x / x.sum(-1, keepdims=True) for x in (mean, palette))
    return np.square(shares[:, None] - known).sum(-1).argmin(-1)


def grey_of(image, colours):
    """The grey images of which these are made in these colours, by least squares: the inverse of `tinted`.

    Args:
      image: (n, h, w, 3) uint8.
      colours: (n,) integers.

    Returns:
      (n, h, w, 1) uint8.
    """
    colour = np.asarray(list(PALETTE.values()), np.float32)[np.asarray(colours)]
    share = np.einsum("nhwc,nc->nhw", image.astype(np.float32), colour) / np.square(colour).sum(-1)[:, None, None]
    return np.rint(255 * share.clip(0, 1)).astype(np.uint8)[..., None]
