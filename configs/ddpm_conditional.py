"""Denoising diffusion told the labels, with classifier-free guidance (Ho & Salimans 2022).

''       the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
fashion  all of Fashion-MNIST, for one GPU

Each is the variant of configs/ddpm.py with that name, told the labels, of which a tenth is left out in training. Draw with
experiments.sample --label=3 --guidance_scale=2.
"""

from configs import ddpm
from configs import variants


def get_config(variant=""):
    """The config of a variant."""
    known = {name: lambda name=name: told(ddpm.base(name)) for name in ("", "smoke", "fashion")}
    return variants.choose(__file__, variant, known)


def told(c):
    """The config of a diffusion that is told the labels."""
    c.diffusion.conditional = True
    c.sample.num = 10 * (c.sample.num // 8)  # a row of the grid for each class
    return c
