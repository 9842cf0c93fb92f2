"""A VQ-VAE with a perceptual and an adversarial term (VQGAN: Esser et al. 2021), for configs/vqvae_prior.py or maskgit.py.

''      the bundled Fashion-MNIST images on a laptop's CPU, in minutes: 7x7 codes of 128
smoke   the same in seconds, to see that everything works
folder  the published setting f16 of 256x256 pixels, 16x16 codes of 1024, on --config.data.source=folder:PATH

The other published f16 has --config.vqvae.codes=16384. The perceptual distance is that of a classifier, as in
configs/kl_autoencoder.py. --config.autoencoder.perceptual=0 does without. The paper's: VGG16.
"""

from configs import kl_autoencoder
from configs import variants

FIRST_STAGE = "classifier"  # the recipe of the run that it stands on


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "folder": _folder})


def _bundled():
    c = kl_autoencoder.for_minutes("vqgan", epochs=14)
    c.network.latent_channels = 32
    return c


def _smoke():
    c = kl_autoencoder.for_seconds(_bundled())
    c.network.latent_channels = 8
    c.vqvae.codes = 32
    c.vqvae.dimensions = 8
    return c


def _folder():
    """CompVis/taming-transformers, configs/imagenet_vqgan.yaml, but for the codebook's moving averages and the duration.

    Its VectorQuantizer2 weighs the encoder's distance by 1 and the codebook's by beta = 0.25, not the other way round.
    """
    c = kl_autoencoder.published("vqgan", "500000 steps")
    c.vqvae.codes = 1024
    c.vqvae.dimensions = 256
    c.vqvae.commitment = 1.0
    c.vqvae.decay = 0.99
    c.autoencoder.adversarial = 0.8
    c.autoencoder.adversarial_start = "250001 steps"
    return c
