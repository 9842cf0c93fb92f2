"""SNGAN (Miyato et al. 2018): a discriminator whose layers are normalised by their largest singular values.

''       the bundled Fashion-MNIST images on a laptop's CPU, in minutes, with the networks of configs/gan.py
smoke    residual networks in seconds, to see that everything works
fashion  residual networks on all of Fashion-MNIST
cifar10  the published setting at 32 pixels, through TFDS
"""

from configs import gan
from configs import variants
from imagegen_jax import config


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "fashion": _fashion, "cifar10": _cifar10})


def _spectral(c):
    """The paper's normalisation, objective and optimiser (section 4)."""
    c.discriminator.norm = "spectral"
    c.gan.loss = "hinge"
    c.gan.penalty = "none"
    c.optimizer.b1 = 0.0
    c.optimizer.b2 = 0.9
    c.optimizer.schedule = "linear"
    return c


def _bundled():
    c = _spectral(gan.get_config())
    c.duration = "6000 steps"
    return c


def _smoke():
    c = _spectral(gan.get_config("smoke"))
    c.network.name = "resnet"
    c.gan.d_steps = 2
    return c


def _fashion():
    c = _residual(_spectral(gan.get_config("fashion")))
    c.network.widths = (128, 128)
    c.discriminator.widths = (128, 128)
    return c


def _residual(c):
    c.network.name = "resnet"
    c.network.latent = 128
    c.discriminator.plain = 2
    return c


def _cifar10():
    c = _residual(_spectral(config.default("gan")))  # with Adam at 2e-4
    c.data.source = "cifar10"
    c.batch_size = 5 * 64
    c.gan.d_steps = 5
    c.duration = "100000 steps"
    c.network.widths = (256, 256, 256)
    c.discriminator.widths = (128, 128)
    c.log.every = "100 steps"
    c.checkpoint.every = "2500 steps"
    c.sample.every = "2500 steps"
    c.eval.every = "2500 steps"
    return c
