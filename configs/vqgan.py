"""A VQ-VAE with a perceptual and an adversarial term (VQGAN: Esser et al. 2021), for configs/vqvae_prior.py or maskgit.py.

''      the bundled Fashion-MNIST images on a laptop's CPU, in minutes: 7x7 codes of 128
smoke   the same in seconds, to see that everything works
folder  the published setting f16 of 256x256 pixels, 16x16 codes of 1024, on --config.data.source=folder:PATH

The other published f16 has --config.vqvae.codes=16384. The perceptual distance is that of a classifier, as in
configs/kl_autoencoder.py. --config.autoencoder.perceptual=0 does without. The paper's: VGG16.
"""

from configs import variants
from imagegen_jax import config

FIRST_STAGE = "classifier"  # the recipe of the run that it stands on


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "folder": _folder})


def _bundled():
    c = config.default("vqgan")
    variants.for_minutes(c, num=32)
    c.duration = "14 epochs"
    c.optimizer.lr = 1e-3
    c.first_stage.workdir = "fashion"
    c.network.latent_channels = 32
    c.network.channels = 32
    c.network.multipliers = (1, 2, 2)
    c.network.blocks = 1
    c.network.groups = 8
    c.discriminator.channels = 32
    c.discriminator.layers = 2
    c.autoencoder.adversarial_start = "7 epochs"
    return c


def _smoke():
    c = _bundled()
    variants.for_seconds(c)
    c.network.latent_channels = 8
    c.network.channels = 8
    c.network.multipliers = (1, 2)
    c.vqvae.codes = 32
    c.vqvae.dimensions = 8
    c.discriminator.channels = 8
    c.autoencoder.adversarial_start = "10 steps"
    return c


def _folder():
    """CompVis/taming-transformers, configs/imagenet_vqgan.yaml, but for the codebook's moving averages and the duration.

    Its VectorQuantizer2 weighs the encoder's distance by 1 and the codebook's by beta = 0.25, not the other way round.
    """
    c = config.default("vqgan")  # whose network is the paper's
    c.data.image_size = 256
    c.batch_size = 24
    c.duration = "500000 steps"
    c.optimizer.lr = 4.5e-6 * c.batch_size
    c.vqvae.codes = 1024
    c.vqvae.dimensions = 256
    c.vqvae.commitment = 1.0
    c.vqvae.decay = 0.99
    c.autoencoder.adversarial = 0.8
    c.autoencoder.adversarial_start = "250001 steps"
    c.log.every = "100 steps"
    c.checkpoint.every = "5000 steps"
    c.sample.every = "5000 steps"
    c.sample.num = 16
    c.eval.every = "5000 steps"
    c.eval.batch_size = 16
    return c
