"""DCGAN (Radford et al. 2016) with what keeps it from collapsing.

''       the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
fashion  all of Fashion-MNIST
emoji    3,539 colour pictures of a font (docs/data.md), in an hour on a laptop's CPU
rgb64    your colour images at 64 pixels: --config.data.source=folder:PATH
"""

from configs import variants
from imagegen_jax import config


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(
        __file__, variant, {"": _bundled, "smoke": _smoke, "fashion": _fashion, "emoji": _emoji, "rgb64": _rgb64}
    )


def _bundled():
    c = config.default("gan")
    c.batch_size = 32
    c.duration = "8000 steps"
    c.optimizer.lr = 2e-3
    c.optimizer.schedule = "linear"
    c.network.latent = 64
    c.network.widths = (192, 96, 48)
    c.discriminator.widths = (48, 96, 192)
    c.gan.penalty = "r1"
    c.gan.penalty_weight = 0.1
    c.gan.penalty_every = 8
    c.augment.policy = ("translation",)
    c.checkpoint.every = "1000 steps"
    c.sample.every = "1000 steps"
    c.sample.batch_size = 64
    c.eval.every = "1000 steps"
    c.eval.batch_size = 100
    c.eval.samples = 1000
    return c


def _smoke():
    c = _bundled()
    variants.for_seconds(c)
    c.network.latent = 8
    c.network.widths = (16, 8)
    c.discriminator.widths = (8, 16)
    c.eval.samples = 0
    return c


def _fashion():
    c = _bundled()
    variants.for_all_of_fashion(c, epochs=50)
    c.optimizer.lr = 1e-3
    c.network.widths = (512, 256, 128)
    c.discriminator.widths = (128, 256, 512)
    return c


def _emoji():
    c = _bundled()
    c.data.source = "emoji"
    c.data.image_size = 32
    c.duration = "40000 steps"
    c.augment.policy = ("brightness", "saturation", "contrast", "translation", "cutout")
    c.log.every = "200 steps"
    c.checkpoint.every = "4000 steps"
    c.sample.every = "4000 steps"
    c.eval.every = "4000 steps"
    c.eval.samples = 0
    return c


def _rgb64():
    c = _bundled()
    c.data.image_size = 64
    c.data.channels = 3
    c.data.flip = True
    c.batch_size = 128
    c.duration = "50000 steps"
    c.optimizer.lr = 2e-4
    c.network.latent = 100
    c.network.widths = (512, 256, 128, 64)
    c.discriminator.widths = (64, 128, 256, 512)
    c.log.every = "100 steps"
    c.checkpoint.every = "2000 steps"
    c.sample.every = "2000 steps"
    c.eval.every = "2000 steps"
    c.eval.samples = 0  # unless a classifier of these images says what to compare: --config.eval.features=run:WORKDIR
    return c
