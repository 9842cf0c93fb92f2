"""A MeanFlow of the latents of a trained autoencoder: images in one evaluation of it, and decoded (Geng et al. 2025).

python -m experiments.main --config=configs/kl_autoencoder.py --workdir=runs/first
python -m experiments.main --config=configs/latent_meanflow.py --config.first_stage.workdir=runs/first --workdir=runs/latent

''      for a run of configs/kl_autoencoder.py, in minutes, with the U-Net of configs/ddpm.py
smoke   for a run of configs/kl_autoencoder.py:smoke, in seconds
"""

from configs import meanflow
from configs import variants

FIRST_STAGE = "kl_autoencoder"  # the recipe of the run that it stands on


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {name: lambda name=name: _of_latents(name) for name in ("", "smoke")})


def _of_latents(variant):
    c = meanflow.like_ddpm(variant, "latent_meanflow")
    c.network.patch_size = 1  # of 7x7 latents
    return c
