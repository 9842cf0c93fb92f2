"""MeanFlow: images in one evaluation (Geng et al. 2025, in the form of their "Improved Mean Flows").

''        the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke     the same in seconds, to see that everything works
fashion   all of Fashion-MNIST, for one GPU, told the labels: experiments.sample --label=3 --guidance_scale=2
cifar10   the authors' setting of times and optimiser, 53.7 M parameters
"""

from configs import ddpm
from configs import variants
from imagegen_jax import config


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "fashion": _fashion, "cifar10": _cifar10})


def like_ddpm(variant, algorithm="meanflow"):
    """What configs/ddpm.py has in common with these methods: all but the objective and the sampler."""
    c, theirs = config.default(algorithm), ddpm.base(variant)
    c.update({name: theirs[name] for name in theirs if name in c and name not in ("algorithm", "sampler")})
    return c


def _bundled():
    c = like_ddpm("")
    c.duration = "4800 steps"  # each takes one and a half times as long as there
    return c


def _smoke():
    return like_ddpm("smoke")


def _fashion():
    c = like_ddpm("fashion")
    c.meanflow.conditional = True
    c.meanflow.guidance = (1.0, 8.0)
    c.sampler.guidance_scale = 1.5
    c.sample.num = 80
    return c


def _cifar10():
    c = like_ddpm("cifar10")
    c.batch_size = 1024
    c.network.multipliers = (2, 2, 2)
    c.network.blocks = 4
    c.network.dropout = 0.2
    c.meanflow.t_mean = -0.6
    c.meanflow.t_std = 1.6
    c.meanflow.r_mean = -4.0
    c.meanflow.r_std = 1.6
    c.meanflow.instantaneous = 0.25
    c.meanflow.weight_power = 0.75
    c.meanflow.weight_eps = 1e-3
    c.optimizer.lr = 6e-4
    c.optimizer.warmup = "10000 steps"
    c.ema.decay = 0.99995
    return c
