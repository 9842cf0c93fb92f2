"""A classifier of noisy images, which guides a diffusion (Dhariwal & Nichol 2021): experiments.sample --classifier=WORKDIR.

''       the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
fashion  all of Fashion-MNIST
"""

from configs import variants
from imagegen_jax import config


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "fashion": _fashion})


def _bundled():
    c = config.default("noisy_classifier")
    c.network.dropout = 0.1
    c.data.flip = True
    c.batch_size = 64
    c.duration = "24 epochs"
    c.optimizer.name = "adamw"
    c.optimizer.lr = 2e-3
    c.optimizer.weight_decay = 0.05
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = "1 epochs"
    c.ema.decay = 0.99
    c.log.every = "25 steps"
    c.checkpoint.every = "4 epochs"
    c.eval.every = "4 epochs"
    c.eval.num = 0
    return c


def _smoke():
    c = _bundled()
    c.batch_size = 8
    c.duration = "8 steps"
    c.optimizer.warmup = "2 steps"
    c.network.widths = (8, 16)
    c.log.every = "2 steps"
    c.checkpoint.every = "4 steps"
    c.eval.every = "4 steps"
    c.eval.num = 16
    return c


def _fashion():
    c = _bundled()
    c.data.source = "idx:/usr/share/datasets/fashion-mnist"
    c.batch_size = 128
    c.log.every = "100 steps"
    return c
