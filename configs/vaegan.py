"""VAE-GAN (Larsen et al. 2016): a GAN that can also reconstruct, by the discriminator's idea of likeness.

''       the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
fashion  all of Fashion-MNIST

Each has the networks and the discriminator's game of the variant of configs/gan.py with that name.
"""

from configs import gan
from configs import variants
from imagegen_jax import config


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "fashion": _fashion})


def _encoding(game):
    c = config.default("vaegan")
    c.update(game)
    c.algorithm = "vaegan"
    c.encoder.widths = c.discriminator.widths
    c.augment.policy = ()
    c.vaegan.gamma = 0.1
    return c


def _bundled():
    c = _encoding(gan.get_config())
    c.duration = "3000 steps"
    return c


def _smoke():
    return _encoding(gan.get_config("smoke"))


def _fashion():
    return _encoding(gan.get_config("fashion"))
