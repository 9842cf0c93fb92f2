"""A diffusion of the latents of a trained autoencoder (Rombach et al. 2022).

python -m experiments.main --config=configs/kl_autoencoder.py --workdir=runs/first
python -m experiments.main --config=configs/latent_diffusion.py --config.first_stage.workdir=runs/first --workdir=runs/latent

''      for a run of configs/kl_autoencoder.py, in minutes, with the U-Net of configs/ddpm.py
smoke   for a run of configs/kl_autoencoder.py:smoke, in seconds
dit     as '', with the transformer of configs/dit.py, told the labels: experiments.sample --label=3 --guidance_scale=2
folder  for one of configs/kl_autoencoder.py:folder with labels: DiT-XL/2 with its published constants, 675 M parameters

The first stage may be a run of any recipe whose latents have places, such as configs/vqvae.py.
"""

from configs import ddpm
from configs import dit
from configs import variants
from imagegen_jax import config
from imagegen_jax.networks import dit as dit_nets

FIRST_STAGE = "kl_autoencoder"  # the recipe of the run that it stands on


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "dit": _dit, "folder": _folder})


def of_latents(theirs):
    """The config of a diffusion, of latents instead of pixels."""
    c = config.default("latent_diffusion", network=config.typed(theirs).method.network)
    c.update({name: theirs[name] for name in theirs if name not in ("algorithm", "network")})
    c.diffusion.data_std = 1.0
    c.sampler.clip = False
    return c


def _bundled():
    c = of_latents(ddpm.base(""))
    c.network.patch_size = 1  # of 7x7 latents
    return c


def _smoke():
    c = of_latents(ddpm.get_config("smoke"))
    c.network.patch_size = 1
    return c


def _dit():
    c = of_latents(dit.get_config(""))
    c.network.patch_size = 1
    return c


def _folder():
    c = of_latents(dit.get_config("cifar10"))
    c.update_from_flattened_dict({f"network.{name}": value for name, value in dit_nets.SIZES["XL"].items()})
    c.data.source = "folder:"
    c.data.image_size = 256
    c.data.flip = True
    c.sampler.steps = 250
    c.ema.decay = 0.9999
    return c
