"""Colouring grey images by a diffusion that is told the grey (Palette: Saharia et al. 2022).

''       tinted Fashion-MNIST images on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
folder   Palette's setting on --config.data.source=folder:PATH, 557 M parameters

Colour with experiments.edit colorize.
"""

from configs import inpaint
from configs import superres
from configs import variants
from imagegen_jax.diffusion import degradations


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "folder": _folder})


def _bundled():
    return _tinted(superres.bundled(degradations.Colorize()))


def _smoke():
    return _tinted(superres.smoke(degradations.Colorize()))


def _tinted(c):
    c.data.source = "tinted:fashion_mnist_10k"
    return c


def _folder():
    return inpaint.palette(degradations.Colorize())
