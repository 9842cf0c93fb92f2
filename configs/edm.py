"""Diffusion with the preconditioning, noise levels and solver of Karras et al. 2022 (EDM).

''        the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke     the same in seconds, to see that everything works
fashion   all of Fashion-MNIST, for one GPU
emoji     3,539 colour pictures of a font (docs/data.md), in an hour on a laptop's CPU; of 64 pixels with
          --config.data.image_size=64 --config.network.patch_size=4
cifar10   the paper's DDPM++, 56 M parameters (tables 1 and 7), without its augmentation of geometry
"""

from configs import ddpm
from configs import variants


def get_config(variant=""):
    """The config of a variant."""
    small = {name: lambda name=name: _edm(ddpm.base(name)) for name in ("", "smoke", "fashion")}
    return variants.choose(__file__, variant, small | {"emoji": _emoji, "cifar10": _cifar10})


def _edm(c):
    c.diffusion.process = "ve"
    c.diffusion.prediction_type = "edm"
    c.diffusion.weighting = "edm"
    c.diffusion.times = "log_normal"
    variants.edm_solver(c)
    return c


def _emoji():
    c = _edm(ddpm.base(""))
    c.data.source = "emoji"
    c.data.image_size = 32
    c.batch_size = 32
    c.duration = "12000 steps"
    c.network.dropout = 0.1
    c.eval.num = 0
    return c


def _cifar10():
    c = _edm(ddpm.get_config("cifar10"))
    variants.ddpm_plus_plus(c, dropout=0.13)
    c.batch_size = 512
    c.duration = "390625 steps"  # 200 million images
    c.optimizer.lr = 1e-3
    c.optimizer.warmup = "19531 steps"  # 10 million images
    c.ema.decay = 0.99929  # a half-life of half a million images
    return c
