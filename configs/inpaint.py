"""Filling holes by a diffusion that is told the rest of the image (Palette: Saharia et al. 2022).

''       the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
folder   Palette's setting on --config.data.source=folder:PATH, 557 M parameters

Fill with experiments.edit inpaint --mask=mask.png, or paint on around images with experiments.edit outpaint.
"""

from configs import superres
from configs import variants
from imagegen_jax.diffusion import degradations


def get_config(variant=""):
    """The config of a variant."""
    made = {"": superres.bundled, "smoke": superres.smoke, "folder": palette}
    known = {name: lambda make=make: make(degradations.Inpaint()) for name, make in made.items()}
    return variants.choose(__file__, variant, known)


def palette(degradation):
    """Palette's setting: the network is ADM's for 256x256 (Dhariwal & Nichol 2021, without classes)."""
    c = superres.published(degradation)
    c.batch_size = 1024
    c.network.channels = 256
    c.network.multipliers = (1, 1, 2, 2, 4, 4)
    c.network.blocks = 2
    c.network.attention_levels = (3, 4, 5)
    c.network.heads = 4
    c.network.scale_shift = True
    c.network.dropout = 0.0
    return c
