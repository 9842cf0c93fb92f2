"""A masked transformer over the codes of a trained VQ-VAE or VQGAN, which draws many at once (MaskGIT: Chang et al. 2022).

python -m experiments.main --config=configs/vqvae.py --workdir=runs/vqvae
python -m experiments.main --config=configs/maskgit.py --config.first_stage.workdir=runs/vqvae --workdir=runs/maskgit
python -m experiments.sample --workdir=runs/maskgit --steps=8 --choice_temperature=4.5 --guidance_scale=1.5 --label=3

''      for a run of configs/vqvae.py, in minutes, told the labels
smoke   for a run of configs/vqvae.py:smoke, in seconds
tinted  for a run of configs/vqvae.py:tinted, told captions
folder  for one of configs/vqgan.py:folder with labels: the published constants
"""

from configs import variants
from configs import vqvae_prior

FIRST_STAGE = "vqvae"  # the recipe of the run that it stands on


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "tinted": _tinted, "folder": _folder})


def _masked(c):
    c.prior.order = "masked"
    c.prior.label_smoothing = 0.1
    c.prior.conditional = not c.prior.text
    c.prior.condition_dropout = 0.1  # the paper has no guidance; Chang et al. 2023 (Muse), section 2.7
    return c


def _bundled():
    return _masked(vqvae_prior.get_config())


def _smoke():
    return _masked(vqvae_prior.get_config("smoke"))


def _tinted():
    return _masked(vqvae_prior.get_config("tinted"))


def _folder():
    """Section 4.1, and google-research/maskgit (configs/maskgit_class_cond_config.py), which has 16 heads instead of 8."""
    c = _bundled()
    c.data.source = "folder:"
    c.data.image_size = 256
    c.data.flip = True
    c.network.width = 768
    c.network.layers = 24
    c.network.heads = 16
    c.network.dtype = "bfloat16"
    c.batch_size = 256
    c.duration = "300 epochs"
    c.optimizer.lr = 1e-4
    c.optimizer.b2 = 0.96
    c.optimizer.weight_decay = 0.045
    c.optimizer.schedule = "constant"
    c.optimizer.warmup = "5000 steps"
    c.log.every = "100 steps"
    c.checkpoint.every = "5000 steps"
    c.sample.every = "5000 steps"
    c.sample.num = 16
    c.sample.batch_size = 16
    c.eval.every = "5000 steps"
    c.eval.num = 1024
    c.eval.batch_size = 64
    return c
