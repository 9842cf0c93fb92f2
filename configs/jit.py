"""JiT, a transformer on large patches of pixels that predicts the image (Li & He 2025, "Back to Basics").

''        the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke     the same in seconds, to see that everything works
fashion   all of Fashion-MNIST, for one GPU
imagenet  the paper's JiT-B/16 of 256x256 pixels, 131 M parameters (TFDS has imagenet2012 prepared by hand)

A flow, told the labels, whose network predicts x0 with the weight of an error of the velocity. Of 28x28 pixels there are 16
patches of 7x7. Where the paper's network is told 1 - t, this one is told 1000 t, as those of all diffusions here. Draw with
experiments.sample --label=3 --guidance_scale=3 --guidance_high=9: guidance where alpha is .1 or more.
"""

from configs import ddpm_conditional
from configs import dit
from configs import flow
from configs import variants
from imagegen_jax.networks import dit as dit_nets


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "fashion": _fashion, "imagenet": _imagenet})


def _jit(theirs, **network):
    c = ddpm_conditional.told(dit.modern(dit.with_transformer(theirs, **network)))
    c.diffusion.prediction_type = "x0"
    c.diffusion.weighting = "velocity"
    return c


_SMALL = dict(patch_size=7, bottleneck=16, class_tokens=4, class_tokens_from=2)  # of 49 pixels and 16 patches


def _bundled():
    c = _jit(flow.get_config(""), width=192, layers=6, heads=3, **_SMALL)
    c.batch_size = 32
    c.optimizer.lr = 1e-3
    return c


def _smoke():
    return _jit(flow.get_config("smoke"), width=32, layers=3, heads=2, **_SMALL)


def _fashion():
    c = _jit(flow.get_config("fashion"), **dit_nets.SIZES["S"] | _SMALL | {"class_tokens_from": 4}, dtype="bfloat16")
    c.optimizer.lr = 3e-4
    c.optimizer.b2 = 0.95
    return c


def _imagenet():
    tokens = dict(class_tokens=32, class_tokens_from=4)
    c = _jit(flow.get_config("cifar10"), **dit_nets.SIZES["B"], patch_size=16, bottleneck=128, **tokens, dtype="bfloat16")
    c.diffusion.time_mean = 0.8  # small images have more to learn from little noise
    c.diffusion.time_std = 0.8
    c.data.source = "imagenet2012"
    c.data.test_split = "validation"
    c.data.image_size = 256
    c.batch_size = 1024
    c.duration = "600 epochs"
    c.optimizer.lr = 2e-4
    c.optimizer.warmup = "5 epochs"
    c.optimizer.clip_norm = 0.0
    c.ema.decay = 0.9999
    c.sampler.grid = "trailing"
    c.sampler.steps = 50
    c.guidance.scale = 3.0
    c.guidance.high = 9.0
    return c
