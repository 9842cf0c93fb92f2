"""A variational autoencoder (Kingma & Welling 2014).

''       convolutional, the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
dense    784-128-32 and back, likewise in a minute
fashion  all of Fashion-MNIST
mnist    pythae's network and loss on binarised images: --config.data.source=mnist, or idx:PATH
"""

from configs import variants
from imagegen_jax import config


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(
        __file__, variant, {"": _bundled, "smoke": _smoke, "dense": _dense, "fashion": _fashion, "mnist": _mnist}
    )


def _bundled():
    c = config.default("vae")
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


def _dense():
    c = _bundled()
    c.network.name = "dense"
    c.network.widths = (128,)
    return c


def _fashion():
    c = _bundled()
    variants.for_all_of_fashion(c, epochs=50)
    return c


def _mnist():
    c = _bundled()
    c.data.source = "mnist"
    c.batch_size = 100
    c.duration = "100 epochs"
    c.network.name = "pythae"
    c.network.latent = 16
    c.likelihood.name = "bernoulli"
    c.optimizer.lr = 1e-3
    c.optimizer.schedule = "constant"
    c.optimizer.warmup = "0 steps"
    c.optimizer.clip_norm = 0.0
    return c
