"""Recipes that the PyTorch reference implementations know, small."""

import pytest

from configs import cyclegan
from configs import gan
from configs import vae
from imagegen_jax import algorithms
from imagegen_jax import images
from imagegen_jax.training import run


@pytest.fixture
def cyclegan_config():
    """A CycleGAN that compiles in seconds, on random crops of 24 pixels."""
    config = cyclegan.get_config("smoke")
    config.data.load_size = 28
    config.data.image_size = 24
    config.network.channels = config.discriminator.channels = 4
    config.sample.batch_size = 8
    return config


@pytest.fixture
def gan_config():
    """A DCGAN that compiles in seconds, with a penalty at every other update."""
    config = gan.get_config("smoke")
    config.batch_size = config.sample.batch_size = 8
    config.gan.penalty_every = 2
    return config


@pytest.fixture
def vae_config():
    """pythae's VAE."""
    config = vae.get_config("mnist")
    config.batch_size = config.sample.batch_size = 8
    config.optimizer.lr = 1e-4
    return config


@pytest.fixture
def build():
    """config -> its algorithm, for grey images."""

    def built(config, *sides):
        spec = images.Spec((*(sides or (config.data.image_size or 28,) * 2), 1), images.unnamed(10))
        return run.build_algorithm(config, dict.fromkeys(algorithms.find(config.algorithm).domains, spec) or spec)

    return built
