"""VQGAN: a step by its definition, its codebook as the VQ-VAE's, and a prior on top."""

import dataclasses

import chex
import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

from configs import classifier as classifier_recipe
from configs import maskgit
from configs import vqgan as recipe
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import similarity
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import capabilities
from imagegen_jax.algorithms import vqgan
from imagegen_jax.algorithms import vqvae
from imagegen_jax.networks import autoencoder_kl
from imagegen_jax.training import run

SHAPE = (16, 18, 1)
START = 2
CODES = 6


def config_of(**changes):
    config = recipe.get_config("smoke")
    own = {
        "network.channels": 4, "network.groups": 2, "network.latent_channels": 4, "vqvae.codes": CODES, "vqvae.dimensions": 3,
        "discriminator.channels": 4, "discriminator.layers": 1, "autoencoder.adversarial_start": f"{START} steps",
    }  # fmt: skip
    config.update_from_flattened_dict(own | changes)
    with config.unlocked():
        config.first_stage.run = classifier_recipe.get_config("smoke")
    return config


@pytest.fixture(scope="module")
def algorithm():
    built = run.build_algorithm(config_of(), images.Spec(SHAPE, images.unnamed(3)))
    sgd = dataclasses.replace(built.training, optimizer=optax.sgd(1.0))  # of which a step is the gradient
    return dataclasses.replace(built, training=sgd)


@pytest.fixture(scope="module")
def state(algorithm):
    """One in which all that the networks make differs from 0."""
    begun = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(algorithm.init, jax.random.key(0)))
    drawn = np.random.default_rng(0)
    moved = jax.tree.map(lambda x: np.float32(0.3 * drawn.standard_normal(x.shape) + (x.ndim == 1)), begun.params)
    moved["autoencoder"]["quant_conv"]["bias"] = np.zeros(3, np.float32)
    moved["autoencoder"]["encoder"]["norm_out"]["bias"] -= 1
    codebook = vqvae.Codebook(np.float32(drawn.standard_normal((CODES, 3))), np.full(CODES, 50, np.float32))
    seen = jax.tree.map(lambda x: np.float32(0.2 * drawn.standard_normal(x.shape)), begun.extra["first_stage"].params)
    extra = {
        "first_stage": begun.extra["first_stage"].replace(params=seen),
        "codebook": codebook,
        "ema": {"codebook": codebook},
    }
    return begun.replace(params=moved, extra=extra, step=jnp.int32(START))


def some_batch(n=4):
    drawn = np.random.default_rng(1)
    label = {"label": drawn.integers(0, 3, n, np.int32)}
    return {"image": drawn.integers(0, 256, (n, *SHAPE), np.uint8), "condition": label, "index": np.arange(n, dtype=np.int32)}


@pytest.mark.recipes
def test_a_step_is_the_gradient_of_the_loss_and_the_codebooks_moving_average(algorithm, state):
    batch, params, codebook = some_batch(), state.params["autoencoder"], state.extra["codebook"]
    after, metrics = jax.jit(algorithm.train_step)(state, batch, jax.random.key(2))
    x = images.to_float(batch["image"])
    z = np.asarray(algorithm.network.apply({"params": params}, x, method="encode"))
    distances = np.square(z[..., None, :] - codebook.vectors).sum(-1)
    indices = distances.argmin(-1)
    nearest = codebook.vectors[indices]
    assert metrics["codes_restarted"] == 0 and len(np.unique(indices)) > 1

    def made(params):
        z = algorithm.network.apply({"params": params}, x, method="encode")
        return z, algorithm.network.apply({"params": params}, z + jax.lax.stop_gradient(nearest - z), method="decode")

    def rec(params):
        seen = [algorithm.first_stage.maps(state.extra["first_stage"], image) for image in (x, made(params)[1])]
        return jnp.abs(x - made(params)[1]).mean() + similarity.perceptual(*seen).mean()

    def loss(params):
        gan = -algorithm.discriminator.apply({"params": state.params["discriminator"]}, made(params)[1]).mean()
        distance = jnp.square(made(params)[0] - nearest).mean()
        return rec(params) + 0.25 * distance + metrics["adversarial_weight"] * gan, (distance, gan)

    (_, (distance, _)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert metrics["adversarial_weight"] > 0
    np.testing.assert_allclose(metrics["code_distance"], distance, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], jax.jit(rec)(params) + 0.25 * distance, rtol=1e-4)
    moved = optax.tree.sub(params, after.params["autoencoder"])
    chex.assert_trees_all_close(moved, gradient, rtol=1e-3, atol=1e-4 * optax.tree.norm(gradient))

    expected = codebook.updated(z.reshape(-1, 3), np.eye(CODES, dtype=np.float32)[indices.ravel()], algorithm.quantiser.decay)
    chex.assert_trees_all_close(after.extra["codebook"], expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(after.extra["first_stage"], state.extra["first_stage"])
    assert jax.tree.structure(after) == jax.tree.structure(state)


@pytest.mark.recipes
def test_held_out_metrics_codes_and_panels_agree(algorithm, state):
    @jax.jit
    def made_of(state, batch):
        z, indices = algorithm.encode(state, batch), algorithm.indices(state, batch["image"])
        made = algorithm.decode(state, z, {}), algorithm.decode_indices(state, indices)
        return z, indices, made, algorithm.panel(state, batch, None), algorithm.eval_step(state, batch, None)

    batch = some_batch()
    z, indices, (of_codes, of_indices), panel, measured = made_of(state, batch)
    for capability in (capabilities.Tokenizes, capabilities.AutoencodesSpatially, capabilities.ShowsPanels):
        assert isinstance(algorithm, capability)
    assert not isinstance(algorithm, capabilities.Draws)
    assert z.shape == (4, *algorithm.latent_shape) == (4, 8, 9, 3)
    assert indices.shape == (4, *algorithm.code_shape) and indices.dtype == jnp.int32 and len(np.unique(indices)) > 1
    np.testing.assert_allclose(of_codes, of_indices, atol=1e-6)
    np.testing.assert_allclose(panel, np.stack([images.to_float(batch["image"]), of_indices], 1), atol=1e-6)
    assert measured.keys() == {"loss", "absolute_error", "perceptual", "code_distance", "l1", "psnr", "ssim"}
    assert all(value.shape == (4,) for value in measured.values())
    np.testing.assert_allclose(
        measured["loss"], measured["absolute_error"] + measured["perceptual"] + 0.25 * measured["code_distance"], rtol=1e-5
    )


def test_a_prior_stands_on_what_encodes_and_decodes_alone(algorithm, state):
    config = maskgit.get_config("smoke")
    with config.unlocked():
        config.first_stage.run = config_of()
    prior = run.build_algorithm(config_lib.check(config), images.Spec(SHAPE, images.unnamed(3)))
    assert isinstance(prior.first_stage, vqgan.VqGan) and prior.network.codes == CODES and prior.network.length == 8 * 9
    first = jax.eval_shape(prior.init, jax.random.key(0))
    adopted = jax.eval_shape(lambda first: prior.with_first_stage(first, state), first)
    assert jax.tree.structure(adopted) == jax.tree.structure(first)
    kept = adopted.extra["first_stage"]
    assert kept.params.keys() == {"autoencoder"} and kept.extra.keys() == {"codebook"}
    drawn = jax.eval_shape(
        lambda state, keys: prior.sample(state, keys, {"label": jnp.zeros(2, jnp.int32)}, prior.Request()),
        adopted,
        jax.random.split(jax.random.key(0)),
    )
    assert drawn.shape == (2, *SHAPE)


def test_the_published_size():
    """f16 with attention at 16x16 in each half; parameters counted of CompVis/taming-transformers' Encoder and Decoder."""
    config = config_lib.check(recipe.get_config("folder")).method
    network = autoencoder_kl.AutoencoderVQ(
        (256, 256, 3), **{name: value for name, value in vars(config.network).items() if name != "dtype"}
    )
    assert network.code_shape == (16, 16, 256)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 256, 256, 3)))["params"]
    conv = lambda a, b, k: k * k * a * b + b  # noqa: E731
    residual = lambda a, b: 2 * a + conv(a, b, 3) + 2 * b + conv(b, b, 3) + (conv(a, b, 1) if a != b else 0)  # noqa: E731
    attention = 2 * 512 + 4 * conv(512, 512, 1)
    middle = 2 * residual(512, 512) + attention
    down = [(128, 128), (128, 128), (128, 256), (256, 256), (256, 512)]
    up = [(512, 512), (512, 256), (256, 256), (256, 128), (128, 128)]
    encoder = conv(3, 128, 3) + sum(residual(a, b) + residual(b, b) for a, b in down) + 2 * attention
    encoder += sum(conv(b, b, 3) for _, b in down[:-1]) + middle + 2 * 512 + conv(512, 256, 3)
    decoder = conv(256, 512, 3) + middle + sum(residual(a, b) + 2 * residual(b, b) for a, b in up) + 3 * attention
    decoder += sum(conv(b, b, 3) for _, b in up[:-1]) + 2 * 128 + conv(128, 3, 3)
    for half, expected in (("encoder", encoder), ("decoder", decoder)):
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes[half])) == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network.multipliers": ()}, "config.network.multipliers"),
        ({"vqvae.codes": 1}, "config.vqvae.codes is 1: it must be at least 2"),
        ({"discriminator.layers": 3}, "the discriminator takes no images of 16x18 pixels"),
    ],
)
def test_networks_that_cannot_be(changes, words):
    with pytest.raises(errors.UserError, match=words) as caught:
        run.build_algorithm(config_lib.check(config_of(**changes)), images.Spec(SHAPE, images.unnamed(3)))
    assert "\n" not in str(caught.value)


def test_without_a_perceptual_distance_it_stands_on_nothing():
    config = config_lib.typed(config_of(**{"autoencoder.perceptual": 0.0}))
    assert not config.needs_first_stage
    built = vqgan.VqGan.from_config(config.method, images.Spec(SHAPE), base.Training())
    assert built.first_stage is None and jax.eval_shape(built.init, jax.random.key(0)).extra.keys() == {"codebook", "ema"}
