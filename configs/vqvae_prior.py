"""A transformer over the codes of a trained VQ-VAE or VQGAN, which draws images (van den Oord et al. 2017, section 3.3).

python -m experiments.main --config=configs/vqvae.py --workdir=runs/vqvae
python -m experiments.main --config=configs/vqvae_prior.py --config.first_stage.workdir=runs/vqvae --workdir=runs/vqvae_prior

''       for a run of configs/vqvae.py, in minutes
smoke    for a run of configs/vqvae.py:smoke, in seconds
fashion  for a run of configs/vqvae.py:fashion, told the labels: experiments.sample --label=3
tinted   for a run of configs/vqvae.py:tinted, told captions: experiments.sample --prompt="a red boot"
emoji    for a run of configs/vqvae.py:emoji, told their names: experiments.sample --prompt="fairy, dark skin tone, woman"
"""

from configs import text_to_image
from configs import variants
from imagegen_jax import config

FIRST_STAGE = "vqvae"  # the recipe of the run that it stands on


def get_config(variant=""):
    """The config of a variant."""
    known = {"": _bundled, "smoke": _smoke, "fashion": _fashion, "tinted": _tinted, "emoji": _emoji}
    return variants.choose(__file__, variant, known)


def _bundled():
    c = config.default("code_prior")
    variants.for_minutes(c, num=64)
    c.duration = "8 epochs"
    c.optimizer.name = "adamw"
    c.optimizer.lr = 1e-3
    c.optimizer.b2 = 0.95
    c.optimizer.weight_decay = 0.1
    return c


def _smoke():
    c = _bundled()
    variants.for_seconds(c)
    c.network.width = 16
    c.network.layers = 1
    c.network.heads = 2
    return c


def _fashion():
    c = _bundled()
    variants.for_all_of_fashion(c, epochs=30)
    c.network.width = 256
    c.network.layers = 6
    c.network.heads = 8
    c.prior.conditional = True
    c.sample.num = 80
    c.sample.batch_size = 80
    return c


def _tinted():
    return _told_captions(text_to_image.get_config(), "18 epochs")


def _emoji():
    c = _told_captions(text_to_image.get_config("emoji"), "34 epochs")
    c.first_stage.precompute = True
    c.batch_size = 32
    c.optimizer.name = "muon"
    c.optimizer.lr = 8e-3
    c.optimizer.weight_decay = 0.02
    return c


def _told_captions(told, duration):
    """On the captions of such a diffusion's config."""
    c = _bundled()
    c.data = told.data
    c.text_encoder = told.text_encoder
    c.prior.text = True
    c.prior.condition_dropout = 0.1
    c.sampler.guidance_scale = 2.5
    c.duration = duration
    c.sample.num = told.sample.num
    c.sample.prompts = told.sample.prompts
    return c
