"""A vector-quantised autoencoder (van den Oord et al. 2017). configs/vqvae_prior.py draws images with it.

''       the bundled Fashion-MNIST images on a laptop's CPU, in minutes: 7x7 codes of 128
smoke    the same in seconds, to see that everything works
fashion  all of Fashion-MNIST
tinted   the bundled images in ten colours, for priors that are told captions
emoji    3,539 colour pictures of a font at 32x32, likewise: 8x8 codes of 2048
"""

from configs import variants
from imagegen_jax import config


def get_config(variant=""):
    """The config of a variant."""
    known = {"": _bundled, "smoke": _smoke, "fashion": _fashion, "tinted": _tinted, "emoji": _emoji}
    return variants.choose(__file__, variant, known)


def _bundled():
    c = config.default("vqvae")
    variants.for_minutes(c, num=32)
    c.duration = "14 epochs"
    c.optimizer.lr = 1e-3
    return c


def _smoke():
    c = _bundled()
    variants.for_seconds(c)
    c.network.widths = (8, 16)
    c.network.blocks = 1
    c.vqvae.codes = 32
    c.vqvae.dimensions = 8
    return c


def _fashion():
    c = _bundled()
    variants.for_all_of_fashion(c, epochs=30)
    c.network.widths = (64, 128)
    c.vqvae.codes = 256
    return c


def _tinted():
    """Without the combinations of a colour and a garment that the priors are not to know."""
    c = _bundled()
    c.data.source = "tinted:fashion_mnist_10k"
    c.data.hold_out = 0.15
    c.vqvae.codes = 256
    return c


def _emoji():
    """Without the combinations of a figure and a skin tone that the priors are not to know."""
    c = _bundled()
    c.data.source = "emoji"
    c.data.image_size = 32
    c.data.hold_out = 0.15
    c.vqvae.codes = 2048
    c.duration = "30 epochs"
    c.optimizer.name = "muon"
    c.optimizer.lr = 1e-2
    return c
