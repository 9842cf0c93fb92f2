"""SNGAN (Miyato et al. 2018): a residual discriminator whose layers are normalised by their largest singular values.

''       the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
fashion  all of Fashion-MNIST
cifar10  the published setting at 32 pixels, through TFDS
"""

from imagegen_jax import config as defaults


def get_config(variant=""):
    """The config of a variant."""
    return defaults.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "fashion": _fashion, "cifar10": _cifar10})


def _spectral():
    c = defaults.gan()
    c.network.name = "resnet"
    c.network.latent = 128
    c.discriminator.norm = "spectral"
    c.gan.loss = "hinge"
    c.optimizer.b1 = 0.0
    c.optimizer.b2 = 0.9
    c.optimizer.schedule = "linear"
    return c


def _bundled():
    c = _spectral()
    c.batch_size = 64
    c.duration = "2000 steps"
    c.optimizer.lr = 5e-4
    c.network.widths = (64, 64)
    c.discriminator.widths = (32, 64)
    c.discriminator.plain = 0
    c.augment.policy = ("translation",)
    c.sample.batch_size = 64
    c.eval.batch_size = 100
    c.eval.samples = 1000
    return c


def _smoke():
    c = _bundled()
    defaults.for_seconds(c)
    c.network.latent = 8
    c.network.widths = (8, 8)
    c.discriminator.widths = (8, 8)
    c.gan.d_steps = 2
    c.eval.samples = 0
    return c


def _fashion():
    c = _bundled()
    defaults.for_all_of_fashion(c, epochs=50)
    c.network.widths = (128, 128)
    c.discriminator.widths = (128, 128)
    return c


def _cifar10():
    c = _spectral()  # at its defaults of 64 images an update, Adam at 2e-4
    c.data.source = "cifar10"
    c.batch_size = 5 * 64
    c.gan.d_steps = 5
    c.duration = "100000 steps"
    c.network.widths = (256, 256, 256)
    c.discriminator.widths = (128, 128)
    c.discriminator.plain = 2
    c.log.every = "100 steps"
    c.checkpoint.every = "2500 steps"
    c.sample.every = "2500 steps"
    c.eval.every = "2500 steps"
    return c
