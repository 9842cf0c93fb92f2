"""A hierarchical variational autoencoder: a ladder of latent variables at several resolutions (networks/ladder.py).

''       five levels, the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
single   the same ladder with its top level alone and at least as many parameters, to compare with
fashion  all of Fashion-MNIST
"""

from configs import variants
from imagegen_jax import config
from imagegen_jax.networks import ladder


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "single": _single, "fashion": _fashion})


def _bundled():
    c = config.default("vae", network=ladder.Config())
    variants.for_minutes(c, num=64)
    c.duration = "10 epochs"
    c.network.patch_size = 2
    c.network.widths = (32, 64)
    c.network.blocks = 2
    c.network.latents = (4, 8, 32)
    c.vae.warmup = "2 epochs"
    return c


def _single():
    c = _bundled()
    c.network.latents = (0, 0, 32)
    c.network.widths = (32, 68)
    return c


def _smoke():
    c = _bundled()
    variants.for_seconds(c)
    c.network.widths = (4, 8)
    c.network.blocks = 1
    c.network.latents = (1, 2, 4)
    c.network.groups = 4
    return c


def _fashion():
    c = _bundled()
    variants.for_all_of_fashion(c, epochs=50)
    return c
