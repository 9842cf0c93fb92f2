"""A conditional variational autoencoder (Sohn et al. 2015): experiments.sample --label=3.

''       the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
fashion  all of Fashion-MNIST
"""

from imagegen_jax import config as defaults


def get_config(variant=""):
    """The config of a variant."""
    return defaults.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "fashion": _fashion})


def _bundled():
    c = defaults.vae()
    c.batch_size = 64
    c.duration = "25 epochs"
    c.network.latent = 32
    c.vae.conditional = True
    c.vae.conditional_prior = True
    c.optimizer.lr = 2e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = "100 steps"
    c.ema.decay = 0.999
    c.checkpoint.every = "5 epochs"
    c.sample.every = "5 epochs"
    c.sample.num = 80
    c.sample.batch_size = 80
    c.eval.every = "5 epochs"
    c.eval.num = 0
    c.eval.batch_size = 100
    return c


def _smoke():
    c = _bundled()
    c.batch_size = 8
    c.duration = "20 steps"
    c.network.widths = (8, 16)
    c.network.latent = 8
    c.sample.num = 20
    c.sample.batch_size = 10
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
    c.duration = "50 epochs"
    c.log.every = "100 steps"
    return c
