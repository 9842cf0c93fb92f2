"""Networks that compute in bfloat16 make outputs finer than it, whose rounding near 1 is up to a quarter of an 8-bit value."""

import jax
from jax import numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from imagegen_jax.networks import cyclegan_nets
from imagegen_jax.networks import dcgan
from imagegen_jax.networks import dit
from imagegen_jax.networks import ladder
from imagegen_jax.networks import resnet_gan
from imagegen_jax.networks import unet
from imagegen_jax.networks import vae_nets
from imagegen_jax.networks import vqvae_nets

HALF = jnp.bfloat16

_drawn = np.random.default_rng(0)
IMAGE, SQUARE, CODE = (_drawn.normal(size=shape).astype(np.float32) for shape in ((2, 8, 8, 1), (2, 16, 16, 1), (2, 3)))
TOLD = {"label": np.zeros(2, np.int32)}
CODER = dict(widths=(4,), blocks=1, groups=2, dimensions=3, image_shape=(8, 8, 1))
LADDER = dict(widths=(4, 4), latents=(1, 1, 2), blocks=1, groups=2, image_shape=(8, 8, 1), outputs=1)
NOISE = [np.ones((2, *shape), np.float32) for shape in ladder.Ladder(**LADDER).latent_shapes]
NETWORKS = {  # (module, arguments): its output in float32 is not rounded to HALF
    "unet": (unet.UNet(4, (1, 2), 1, (), groups=2, out_channels=1, dtype=HALF), (IMAGE, np.ones(2, np.float32))),
    "dit": (dit.DiT(8, 1, 1, out_channels=1, classes=3, dtype=HALF), (IMAGE, np.ones(2, np.float32), TOLD)),
    "dense decoder": (vae_nets.DenseDecoder((4,), (8, 8, 1), HALF), (CODE, False)),
    "conv decoder": (vae_nets.ConvDecoder((4,), 1, 2, (8, 8, 1), HALF), (CODE, False)),
    "pythae decoder": (vae_nets.PythaeDecoder(1, HALF), (CODE, False)),
    "ladder": (ladder.Ladder(**LADDER, dtype=HALF), (IMAGE, TOLD, 2, lambda level, _, posterior: posterior.at(NOISE[level]))),
    "vqvae": (vqvae_nets.Coder(**CODER, dtype=HALF), (IMAGE,)),
    "vqvae encoder": (vqvae_nets.Encoder((4,), 1, 2, 3, HALF), (IMAGE,)),
    "patches": (cyclegan_nets.PatchDiscriminator(4, 1, HALF), (SQUARE,)),
    "pixels": (cyclegan_nets.PixelDiscriminator(4, HALF), (SQUARE,)),
}
BOUNDED = {  # the same behind a tanh
    "dcgan": (dcgan.Generator((8, 8, 1), (4, 4), dtype=HALF), (CODE, TOLD)),
    "dcgan, resized": (dcgan.Generator((8, 8, 1), (4, 4), "resize", dtype=HALF), (CODE, TOLD)),
    "resnet gan": (resnet_gan.Generator((8, 8, 1), (4,), dtype=HALF), (CODE, TOLD)),
    "cyclegan resnet": (cyclegan_nets.ResNetGenerator(1, 4, 1, dtype=HALF), (SQUARE,)),
    "cyclegan unet": (cyclegan_nets.UNetGenerator(1, 4, 2, dtype=HALF), (SQUARE,)),
}


def share_finer_than_bfloat16(values):
    values = np.asarray(values)
    assert values.dtype == np.float32
    rounded = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    return np.mean(np.abs(values - rounded) > 2e-4 * np.abs(values))  # of 2^-9 at most where nothing was rounded


@pytest.mark.parametrize("name", NETWORKS | BOUNDED)
def test_outputs_are_finer_than_bfloat16(name):
    network, given = (NETWORKS | BOUNDED)[name]
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), *given))
    drawn = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: drawn.uniform(0.01, 0.2, x.shape).astype(np.float32), shapes)
    variables["params"] = jax.tree.map(lambda x: 2 * x - 0.2, variables["params"])
    made = jax.jit(lambda variables: network.apply(variables, *given))(variables)
    if name == "ladder":
        levels, made = made
        assert share_finer_than_bfloat16(np.concatenate([level.posterior.mean.reshape(-1) for level in levels])) > 0.7
    assert share_finer_than_bfloat16(np.arctanh(made) if name in BOUNDED else made) > 0.7
