"""Flow matching along straight lines (Lipman et al. 2023; Liu et al. 2023).

''        the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke     the same in seconds, to see that everything works
fashion   all of Fashion-MNIST, for one GPU
cifar10   the setting of facebookresearch/flow_matching, examples/image: DDPM++, noise levels and time grid of EDM
"""

from configs import ddpm
from configs import variants


def get_config(variant=""):
    """The config of a variant."""
    small = {name: lambda name=name: _flow(ddpm.base(name)) for name in ("", "smoke", "fashion")}
    return variants.choose(__file__, variant, small | {"cifar10": _cifar10})


def _flow(c):
    c.diffusion.process = "flow"
    c.diffusion.prediction_type = "velocity"
    c.diffusion.weighting = "simple"
    c.diffusion.times = "log_normal"
    c.diffusion.time_mean = -0.8
    variants.edm_solver(c)
    return c


def _cifar10():
    c = _flow(ddpm.get_config("cifar10"))
    variants.ddpm_plus_plus(c, dropout=0.3)
    c.diffusion.time_mean = -1.2
    c.batch_size = 512
    c.duration = "1800 epochs"
    c.optimizer.lr = 1e-4
    c.optimizer.b2 = 0.95
    c.ema.decay = 0.999
    c.sampler.steps = 25
    return c
