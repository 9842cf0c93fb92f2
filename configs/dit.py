"""The diffusion transformer (DiT: Peebles & Xie 2023), told the labels, of which a tenth is left out in training.

''       the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
fashion  all of Fashion-MNIST, for one GPU: the size S on patches of 2x2
cifar10  the paper's setting with the size B, 130 M parameters, on pixels in place of latents

But for cifar10 with RMSNorm, SwiGLU, rotary positions, and normalised queries and keys. Draw with
experiments.sample --label=3 --guidance_scale=2.
"""

from configs import ddpm
from configs import ddpm_conditional
from configs import variants
from imagegen_jax import config
from imagegen_jax.networks import dit


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "fashion": _fashion, "cifar10": _cifar10})


def with_transformer(theirs, **network):
    """The config of a diffusion with a DiT of these fields in place of its network."""
    c = config.default("diffusion", network=dit.Config(**network))
    c.update({name: theirs[name] for name in theirs if name != "network"})
    return c


def modern(c):
    """The details that transformers have today."""
    c.network.norm = "rms"
    c.network.mlp = "swiglu"
    c.network.rotary = True
    c.network.qk_norm = True
    return c


def _bundled():
    c = modern(with_transformer(ddpm_conditional.get_config(""), width=192, layers=6, heads=3, patch_size=4))
    c.duration = "6000 steps"
    c.optimizer.lr = 1e-3
    return c


def _smoke():
    return modern(with_transformer(ddpm_conditional.get_config("smoke"), width=32, layers=2, heads=2, patch_size=4))


def _fashion():
    c = modern(with_transformer(ddpm_conditional.get_config("fashion"), **dit.SIZES["S"], patch_size=2, dtype="bfloat16"))
    c.optimizer.lr = 3e-4
    c.optimizer.b2 = 0.95
    return c


def _cifar10():
    c = with_transformer(ddpm.get_config("cifar10"), **dit.SIZES["B"], patch_size=2, dtype="bfloat16")
    c.diffusion.conditional = True
    c.diffusion.learn_variance = True
    c.batch_size = 256
    c.duration = "400000 steps"
    c.optimizer.lr = 1e-4
    c.optimizer.warmup = "0 steps"
    c.optimizer.clip_norm = 0.0
    c.sampler.variance = "learned"
    c.sampler.steps = 250
    c.guidance.scale = 1.5
    return c
