"""Enlarging by a diffusion that is told the small image (SR3: Saharia et al. 2021).

''       the bundled Fashion-MNIST images, from 7x7 to 28x28, on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
folder   SR3's setting for 64x64 to 256x256 on --config.data.source=folder:PATH, 621 M parameters

Enlarge with experiments.edit superres; or what another run draws: experiments.sample --workdir=SMALL --upsample=RUN.
"""

from configs import ddpm
from configs import variants
from imagegen_jax import config
from imagegen_jax.diffusion import degradations


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "folder": _folder})


def restoring(theirs, degradation):
    """The config of a diffusion that undoes a degradations.Degradation."""
    c = config.default("restoration", network=config.typed(theirs).method.network, restoration=degradation)
    c.update({name: theirs[name] for name in theirs if name != "algorithm"})
    c.diffusion.condition_dropout = 0.0
    return c


def bundled(degradation):
    """The recipe of minutes for any degradation."""
    c = restoring(ddpm.base(""), degradation)
    c.duration = "4000 steps"
    c.sample.num = 16
    return c


def smoke(degradation):
    """That of seconds."""
    c = restoring(ddpm.get_config("smoke"), degradation)
    c.sample.num = 8
    return c


def published(degradation):
    """What SR3 and Palette have in common, on a folder of your own."""
    c = restoring(ddpm.get_config("cifar10"), degradation)  # whose loss and schedule of noise are theirs, but for its length
    c.data.source = "folder:"
    c.data.image_size = 256
    c.data.channels = 3
    c.diffusion.length = 2000
    c.network.resample_filter = (1, 1)
    c.network.dtype = "bfloat16"
    c.network.remat = True
    c.optimizer.lr = 1e-4
    c.optimizer.warmup = "10000 steps"
    c.optimizer.clip_norm = 0.0
    c.duration = "1000000 steps"
    c.ema.decay = 0.9999
    c.sample.num = 8
    c.sample.batch_size = 8
    return c


def _superres(**changes):
    return degradations.Superres(factor=4, noise=0.3, **changes)


def _bundled():
    return bundled(_superres())


def _smoke():
    return smoke(_superres())


def _folder():
    c = published(_superres(downscaling="bicubic"))
    c.batch_size = 256
    c.network.multipliers = (1, 2, 4, 4, 8, 8)
    c.network.blocks = 3
    c.network.attention_levels = (4,)
    c.network.skip_scale = 0.5**0.5
    c.network.dropout = 0.0
    return c
