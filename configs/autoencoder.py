"""An autoencoder (Hinton & Salakhutdinov 2006). Its images are drawn from a distribution fitted to its latents afterwards.

''       the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
fashion  all of Fashion-MNIST
"""

from configs import variants
from imagegen_jax import config


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "fashion": _fashion})


def _bundled():
    c = config.default("autoencoder")
    variants.for_minutes(c, num=64)
    c.duration = "12 epochs"
    c.network.latent = 16
    return c


def _smoke():
    c = _bundled()
    variants.for_seconds(c)
    c.network.widths = (8, 16)
    c.network.latent = 8
    return c


def _fashion():
    c = _bundled()
    variants.for_all_of_fashion(c, epochs=50)
    return c
