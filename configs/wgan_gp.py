"""WGAN-GP (Gulrajani et al. 2017): the Wasserstein loss, whose critic is kept 1-Lipschitz by a penalty.

''       the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
fashion  all of Fashion-MNIST
"""

from configs import gan
from configs import variants


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "fashion": _fashion})


def _wasserstein(c, d_steps):
    """The paper's objective and optimiser (algorithm 1) on the networks of configs/gan.py."""
    c.gan.loss = "wasserstein"
    c.gan.penalty = "wgan_gp"
    c.gan.penalty_weight = 10.0
    c.gan.penalty_every = 1
    c.gan.d_steps = d_steps
    c.batch_size *= d_steps
    c.optimizer.b1 = 0.0
    c.optimizer.b2 = 0.9
    c.optimizer.lr = 1e-3
    return c


def _bundled():
    c = _wasserstein(gan.get_config(), d_steps=2)
    c.duration = "3000 steps"
    return c


def _smoke():
    return _wasserstein(gan.get_config("smoke"), d_steps=2)


def _fashion():
    return _wasserstein(gan.get_config("fashion"), d_steps=5)
