"""A vector-quantised autoencoder (van den Oord et al. 2017). configs/vqvae_prior.py draws images with it.

''       the bundled Fashion-MNIST images on a laptop's CPU, in minutes: 7x7 codes of 128
smoke    the same in seconds, to see that everything works
fashion  all of Fashion-MNIST
"""

from imagegen_jax import config as defaults


def get_config(variant=""):
    """The config of a variant."""
    return defaults.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "fashion": _fashion})


def _bundled():
    c = defaults.vqvae()
    c.batch_size = 64
    c.duration = "20 epochs"
    c.optimizer.lr = 1e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = "100 steps"
    c.ema.decay = 0.999
    c.checkpoint.every = "5 epochs"
    c.sample.every = "5 epochs"
    c.sample.num = 32
    c.sample.batch_size = 32
    c.eval.every = "5 epochs"
    c.eval.num = 0
    c.eval.batch_size = 100
    return c


def _smoke():
    c = _bundled()
    c.batch_size = 8
    c.duration = "20 steps"
    c.network.widths = (8, 16)
    c.network.blocks = 1
    c.vqvae.codes = 32
    c.vqvae.dimensions = 8
    c.sample.num = 16
    c.sample.batch_size = 8
    c.log.every = "5 steps"
    c.checkpoint.every = "10 steps"
    c.sample.every = "10 steps"
    c.eval.every = "10 steps"
    c.eval.num = 64
    c.eval.batch_size = 32
    return c


def _fashion():
    c = _bundled()
    c.data.source = "idx:/usr/share/datasets/fashion-mnist"
    c.batch_size = 128
    c.duration = "30 epochs"
    c.network.widths = (64, 128)
    c.vqvae.codes = 256
    c.log.every = "100 steps"
    return c
