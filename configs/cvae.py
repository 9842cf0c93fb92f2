"""A conditional variational autoencoder (Sohn et al. 2015): experiments.sample --label=3 draws of one class.

''       the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
fashion  all of Fashion-MNIST

Each is the variant of configs/vae.py with that name, told the labels: encoder, decoder and prior.
"""

from configs import vae
from configs import variants


def get_config(variant=""):
    """The config of a variant."""
    told = {name: lambda name=name: _told(vae.get_config(name)) for name in ("", "smoke", "fashion")}
    return variants.choose(__file__, variant, told)


def _told(c):
    c.vae.conditional = True
    c.vae.conditional_prior = True
    c.sample.num = c.sample.batch_size = 10 * (c.sample.num // 8)  # a row of the grid for each class
    return c
