"""Recipes that the PyTorch reference implementations know, small."""

import pytest

from configs import cyclegan
from configs import gan
from imagegen_jax import config as config_lib
from imagegen_jax import images
from imagegen_jax.training import run


@pytest.fixture
def cyclegan_config():
    """A CycleGAN that compiles in seconds, on random crops of 24 pixels."""
    config = cyclegan.get_config("smoke")
    config.data.load_size = 28
    config.data.image_size = 24
    config.network.channels = 4
    config.discriminator.channels = 4
    config.sample.batch_size = 8
    return config


@pytest.fixture
def gan_config():
    """A DCGAN that compiles in seconds, with a penalty at every other update."""
    config = gan.get_config("smoke")
    config.batch_size = 8
    config.sample.batch_size = 8
    config.gan.penalty_every = 2
    return config


@pytest.fixture
def vae_config():
    """pythae's VAE."""
    config = config_lib.vae()
    config.batch_size = 8
    config.network.name = "pythae"
    config.network.latent = 16
    config.likelihood.name = "bernoulli"
    config.optimizer.lr = 1e-4
    config.sample.batch_size = 8
    return config


@pytest.fixture
def build():
    """config -> its algorithm, for grey images."""

    def built(config):
        side = config.data.image_size or 28
        spec = images.Spec((side, side, 1), images.unnamed(10))
        domains = ("a", "b") if config.algorithm == "cyclegan" else ("",)
        return run.build_algorithm(config, dict.fromkeys(domains, spec))

    return built
