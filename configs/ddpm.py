"""Denoising diffusion (Ho et al. 2020).

''        the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke     the same in seconds, to see that everything works
fashion   all of Fashion-MNIST, for one GPU
cifar10   the paper's setting, 35.7 M parameters
"""

from configs import variants
from imagegen_jax import config


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "fashion": _fashion, "cifar10": _cifar10})


def base(variant):
    """What recipes that stand on this one begin with: a variant's config, that of minutes by Adam. Muon was not tried there."""
    return get_config(variant) if variant else _by_adam()


def _bundled():
    c = _by_adam()
    c.duration = "3600 steps"
    c.optimizer.name = "muon"
    c.optimizer.adam_regex = "/time"  # layers of one vector an image: as much work as all others
    c.optimizer.lr = 3e-3
    c.ema.decay = 0.999
    return c


def _by_adam():
    c = config.default("diffusion")
    c.batch_size = 16
    c.duration = "7000 steps"
    c.network.channels = 64
    c.network.multipliers = (1, 2)
    c.network.blocks = 1
    c.network.attention_levels = ()
    c.network.dropout = 0.0
    c.network.groups = 8
    c.network.patch_size = 2
    c.network.scale_shift = True
    _modern(c)
    c.optimizer.lr = 2e-3
    c.optimizer.b2 = 0.99
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = "100 steps"
    c.ema.decay = 0.9995
    c.log.every = "100 steps"
    c.checkpoint.every = "1000 steps"
    c.sample.every = "1000 steps"
    c.eval.every = "1000 steps"
    return c


def _modern(c):
    """What is known today of the steps of Ho et al. 2020: which noise to train on most, and a solver that needs few of them."""
    c.diffusion.schedule = "cosine"
    c.diffusion.prediction_type = "v"
    c.diffusion.weighting = "edm"
    c.diffusion.times = "log_normal"
    c.diffusion.data_std = 0.7
    c.diffusion.stratified = True
    c.sampler.name = "dpmpp_2m_sde"
    c.sampler.grid = "log_snr"
    c.sampler.steps = 20


def _smoke():
    c = _by_adam()
    c.batch_size = 8
    c.duration = "20 steps"
    c.network.channels = 16
    c.sampler.steps = 5
    c.sample.num = 16
    c.log.every = "5 steps"
    c.checkpoint.every = "10 steps"
    c.sample.every = "10 steps"
    c.eval.every = "10 steps"
    c.eval.num = 64
    return c


def _fashion():
    c = config.default("diffusion")
    c.data.source = "idx:/usr/share/datasets/fashion-mnist"
    c.batch_size = 256
    c.duration = "100 epochs"
    c.network.channels = 64
    c.network.multipliers = (1, 2, 4)
    c.network.attention_levels = (1, 2)
    c.network.heads = 4
    c.network.scale_shift = True
    c.network.dtype = "bfloat16"
    _modern(c)
    c.optimizer.lr = 5e-4
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = "1000 steps"
    c.log.every = "100 steps"
    c.checkpoint.every = "10 epochs"
    c.sample.every = "5 epochs"
    c.sample.batch_size = 64
    c.eval.every = "5 epochs"
    c.eval.num = 0
    c.eval.batch_size = 256
    return c


def _cifar10():
    c = config.default("diffusion")  # whose network, loss and optimiser are the paper's
    c.data.source = "cifar10"
    c.data.flip = True
    c.batch_size = 128
    c.duration = "800000 steps"
    c.optimizer.warmup = "5000 steps"
    c.sampler.variance = "fixed_large"
    c.ema.warmup = False
    c.log.every = "100 steps"
    c.checkpoint.every = "5000 steps"
    c.sample.every = "10000 steps"
    c.sample.batch_size = 64
    c.eval.every = "10000 steps"
    c.eval.batch_size = 128
    return c
