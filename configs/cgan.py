"""A conditional GAN (Miyato & Koyama 2018): experiments.sample --label=3 draws of one class.

''       the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
fashion  all of Fashion-MNIST

Each is the variant of configs/gan.py with that name, told the labels: the generator by its normalisation, the discriminator
by a projection. The discriminator also classifies images by them (Odena et al. 2017), which keeps the classes apart.
"""

from configs import gan
from configs import variants


def get_config(variant=""):
    """The config of a variant."""
    told = {name: lambda name=name: _told(gan.get_config(name)) for name in ("", "smoke", "fashion")}
    return variants.choose(__file__, variant, told)


def _told(c):
    c.gan.conditional = True
    c.gan.auxiliary = 1.0
    c.sample.num = c.sample.batch_size = 10 * (c.sample.num // 8)  # a row of the grid for each class
    return c
