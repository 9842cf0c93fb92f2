"""Baselines: generators that know little about images, so that the scores of the others have a scale.

''         per-pixel histogram, on the bundled images, in seconds
smoke      the same on a few images, to see that everything works
histogram  the same as ''
random     uniform pixels
templates  I = C T, combinations of learned templates

Each is another value of --config.baseline.name; --config.data.source names the images of the runs to compare with.
"""

from configs import variants
from imagegen_jax import config


def get_config(variant=""):
    """The config of a variant."""
    known = {"": _histogram, "smoke": _smoke, "histogram": _histogram, "random": _random, "templates": _templates}
    return variants.choose(__file__, variant, known)


def _histogram():
    c = config.default("baseline")
    c.batch_size = 160
    c.duration = "1 epochs"
    c.log.every = "10 steps"
    c.sample.batch_size = 64
    c.eval.num = 0
    c.eval.batch_size = 160
    return c


def _smoke():
    c = _histogram()
    c.batch_size = 16
    c.duration = "8 steps"
    c.baseline.templates = 4
    c.log.every = "2 steps"
    c.checkpoint.every = "4 steps"
    c.sample.every = "4 steps"
    c.sample.num = 16
    c.sample.batch_size = 16
    c.eval.every = "4 steps"
    c.eval.num = 16
    c.eval.batch_size = 16
    return c


def _random():
    c = _histogram()
    c.baseline.name = "random"
    return c


def _templates():
    c = _histogram()
    c.baseline.name = "templates"
    return c
