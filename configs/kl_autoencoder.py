"""An autoencoder with spatial latents, for configs/latent_diffusion.py (AutoencoderKL: Rombach et al. 2022).

''      the bundled Fashion-MNIST images on a laptop's CPU, in minutes: 7x7 latents of 4 channels
smoke   the same in seconds, to see that everything works
folder  the published setting f8 of 256x256 pixels, 84 M parameters, on --config.data.source=folder:PATH

The perceptual distance is that of a classifier of images of the same shape: of the bundled one, or of a run of
configs/classifier.py, --config.first_stage.workdir=RUN; or of VGG16, whose weights are in a file, as vgg:FILE, or as in the
paper with those of LPIPS, vgg:FILE,LPIPS_FILE.
--config.autoencoder.perceptual=0 does without.
"""

from configs import variants
from imagegen_jax import config

FIRST_STAGE = "classifier"  # the recipe of the run that it stands on


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "folder": _folder})


def _bundled():
    return for_minutes("kl_autoencoder", epochs=12)


def for_minutes(name, epochs):
    """The config of an autoencoder with a perceptual and an adversarial term, the latter for the second half of the epochs."""
    c = config.default(name)
    variants.for_minutes(c, num=32)
    c.duration = f"{epochs} epochs"
    c.optimizer.lr = 1e-3
    c.first_stage.workdir = "fashion"
    c.network.channels = 32
    c.network.multipliers = (1, 2, 2)
    c.network.blocks = 1
    c.network.groups = 8
    c.discriminator.channels = 32
    c.discriminator.layers = 2
    c.autoencoder.adversarial_start = f"{epochs // 2} epochs"
    return c


def _smoke():
    return for_seconds(_bundled())


def for_seconds(c):
    """What makes such a recipe a matter of seconds."""
    variants.for_seconds(c)
    c.network.channels = 8
    c.network.multipliers = (1, 2)
    c.discriminator.channels = 8
    c.autoencoder.adversarial_start = "10 steps"
    return c


def _folder():
    return published("kl_autoencoder", "250000 steps")


def published(name, duration):
    """The config of such an autoencoder for 256x256 pixels; networks and weights of that default are its paper's."""
    c = config.default(name)
    c.data.image_size = 256
    c.batch_size = 24
    c.duration = duration
    c.optimizer.lr = 4.5e-6 * c.batch_size
    c.log.every = "100 steps"
    c.checkpoint.every = "5000 steps"
    c.sample.every = "5000 steps"
    c.sample.num = 16
    c.eval.every = "5000 steps"
    c.eval.batch_size = 16
    return c
