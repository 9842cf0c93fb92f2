"""The autoencoder with spatial latents: its terms by their definitions, its warm-up, and the classifier that it stands on."""

import dataclasses
import functools
import types

import chex
import jax
from jax import numpy as jnp
from ml_collections import config_dict
import numpy as np
import optax
import pytest
from safetensors import numpy as safetensors

from configs import classifier as classifier_recipe
from configs import kl_autoencoder as recipe
from imagegen_jax import config as config_lib
from imagegen_jax import distributions
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import rng as rng_lib
from imagegen_jax import similarity
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import capabilities
from imagegen_jax.algorithms import kl_autoencoder
from imagegen_jax.networks import autoencoder_kl
from imagegen_jax.networks import vgg
from imagegen_jax.training import first_stage
from imagegen_jax.training import run

SHAPE = (16, 18, 1)
START = 2


def config_of(**changes):
    config = recipe.get_config("smoke")
    changes = {"network.channels": 4, "network.groups": 2, "discriminator.channels": 4, "discriminator.layers": 1} | changes
    config.update_from_flattened_dict({"autoencoder.adversarial_start": f"{START} steps"} | changes)
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
    begun = jax.jit(algorithm.init)(jax.random.key(0))
    drawn = np.random.default_rng(0)
    moved = jax.tree.map(lambda x: np.float32(x + 0.1 * drawn.standard_normal(x.shape)), begun.params)
    return begun.replace(params=moved)


@pytest.fixture(scope="module")
def step(algorithm):
    return jax.jit(algorithm.train_step)


def some_batch(n=4):
    drawn = np.random.default_rng(1)
    label = {"label": drawn.integers(0, 3, n, np.int32)}
    return {"image": drawn.integers(0, 256, (n, *SHAPE), np.uint8), "condition": label, "index": np.arange(n, dtype=np.int32)}


def terms(algorithm, state, batch, rng):
    """(L_rec, L_GAN, KL), as functions of the autoencoder's parameters, by their definitions."""
    x = images.to_float(batch["image"])
    noise = jax.random.normal(rng, (len(x), *algorithm.latent_shape))

    def made(params):
        return algorithm.network.apply({"params": params}, x, noise)

    def rec(params):
        seen = [algorithm.first_stage.maps(state.extra["first_stage"], image) for image in (x, made(params)[1])]
        return jnp.abs(x - made(params)[1]).mean() + similarity.perceptual(*seen).mean()

    def gan(params):
        return -algorithm.discriminator.apply({"params": state.params["discriminator"]}, made(params)[1]).mean()

    def kl(params):
        mean, log_std = made(params)[0]
        each = 0.5 * (jnp.square(mean) + jnp.exp(2 * log_std) - 1 - 2 * log_std)
        return each.sum() / x.size

    return rec, gan, kl


@pytest.mark.recipes
def test_a_step_is_the_gradient_of_the_loss_with_the_weight_of_its_definition(algorithm, state, step):
    """Equation 7 of Esser et al.: by the gradients with respect to the last layer, from that step on at which D begins."""
    batch, rng, params = some_batch(), jax.random.key(2), state.params["autoencoder"]
    rec, gan, kl = terms(algorithm, state, batch, rng)

    def last(loss):
        kernel = params["decoder"]["conv_out"]["kernel"]

        def of_kernel(kernel):
            out = params["decoder"]["conv_out"] | {"kernel": kernel}
            return loss(params | {"decoder": params["decoder"] | {"conv_out": out}})

        return np.linalg.norm(jax.jit(jax.grad(of_kernel))(kernel))

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient_and_terms(params, factor):
        terms = rec(params), kl(params)
        return terms[0] + 1e-6 * terms[1] + factor * gan(params), terms

    weight = 0.5 * last(rec) / (last(gan) + 1e-6)
    assert weight > 0
    for at, factor in ((START - 1, 0.0), (START, weight)):
        after, metrics = step(state.replace(step=jnp.int32(at)), batch, rng)
        np.testing.assert_allclose(metrics["adversarial_weight"], factor, rtol=1e-4)
        gradient, (of_rec, of_kl) = gradient_and_terms(params, factor)
        moved = optax.tree.sub(params, after.params["autoencoder"])
        chex.assert_trees_all_close(moved, gradient, rtol=1e-3, atol=1e-5 * optax.tree.norm(gradient))
        np.testing.assert_allclose(metrics["loss"], of_rec + 1e-6 * of_kl, rtol=1e-5)
        np.testing.assert_allclose(metrics["kl"], of_kl, rtol=1e-5)
        chex.assert_trees_all_equal(after.extra, state.extra)


@pytest.mark.recipes
def test_the_discriminator_is_off_until_the_warm_up_ends(algorithm, state, step):
    batch, before = some_batch(), state.params["discriminator"]
    after, metrics = step(state.replace(step=jnp.int32(START - 1)), batch, jax.random.key(2))
    chex.assert_trees_all_equal(after.params["discriminator"], before)
    after, metrics = step(state.replace(step=jnp.int32(START)), batch, jax.random.key(2))
    x = images.to_float(batch["image"])
    noise = jax.random.normal(jax.random.key(2), (len(x), *algorithm.latent_shape))
    made = algorithm.network.apply({"params": state.params["autoencoder"]}, x, noise)[1]

    def hinge(params):
        real, fake = (algorithm.discriminator.apply({"params": params}, shown) for shown in (x, made))
        return 0.5 * (jnp.maximum(0, 1 - real).mean() + jnp.maximum(0, 1 + fake).mean())

    loss, gradient = jax.jit(jax.value_and_grad(hinge))(before)
    np.testing.assert_allclose(metrics["discriminator"], loss, rtol=1e-5)
    moved = optax.tree.sub(before, after.params["discriminator"])
    chex.assert_trees_all_close(moved, gradient, rtol=1e-3, atol=1e-4 * optax.tree.norm(gradient))


def test_the_divergence_is_its_closed_form():
    mean, log_std = np.random.default_rng(0).normal(size=(2, 3, 2, 4, 5)).astype(np.float32)
    found = kl_autoencoder._kl(distributions.Gaussian(mean, log_std), np.zeros((3, 4, 8, 1)))
    expected = 0.5 * (mean**2 + np.exp(2 * log_std) - 1 - 2 * log_std).sum((1, 2, 3)) / 32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.recipes
def test_held_out_metrics_latents_and_panels(algorithm, state):
    batch = some_batch()
    measured = jax.jit(algorithm.eval_step)(state, batch, jax.random.key(0))
    assert measured.keys() == {"loss", "absolute_error", "perceptual", "kl", "l1", "psnr", "ssim"}
    assert all(value.shape == (4,) for value in measured.values())
    assert isinstance(algorithm, capabilities.AutoencodesSpatially) and isinstance(algorithm, capabilities.ShowsPanels)
    assert not isinstance(algorithm, capabilities.Draws)

    encode, decode = jax.jit(algorithm.encode), jax.jit(algorithm.decode)
    z = encode(state, batch)
    assert z.shape == (4, *algorithm.latent_shape) == (4, 8, 9, 4)
    made, x = decode(state, z, {}), images.to_float(batch["image"])
    np.testing.assert_allclose(measured["l1"], 0.5 * np.abs(made - x).mean((1, 2, 3)), rtol=1e-4)
    panel = jax.jit(algorithm.panel)(state, batch, jax.random.key(0))
    np.testing.assert_allclose(panel, np.stack([x, made], 1), atol=1e-5)
    # A draw of the posterior depends on the key and the image's number, and not on the others.
    drawn = encode(state, batch, jax.random.key(1))
    assert np.abs(drawn - z).max() > 0.1
    other = jax.tree.map(lambda x: x[2:], batch)
    np.testing.assert_allclose(encode(state, other, jax.random.key(1)), drawn[2:], atol=1e-5)
    noise = jax.vmap(lambda key: jax.random.normal(key, algorithm.latent_shape))(
        rng_lib.per_index(jax.random.key(1), batch["index"])
    )
    np.testing.assert_allclose(drawn, algorithm._posterior(state, x).at(noise), atol=1e-5)


@pytest.mark.parametrize(
    ("multipliers", "shape", "latents"),
    [
        ((1,), (12, 8, 3), (12, 8, 2)),
        ((1, 2), (28, 28, 1), (14, 14, 2)),
        ((1, 1, 2), (28, 30, 1), (7, 8, 2)),
        ((1, 1, 1, 1), (64, 30, 3), (8, 4, 2)),
    ],
)
def test_each_further_multiplier_halves_the_sides(multipliers, shape, latents):
    """Odd ones are rounded up, and what is decoded has the shape of the image again."""
    network = autoencoder_kl.AutoencoderKL(shape, 2, 4, multipliers, 1, 2, dtype=jnp.bfloat16)
    assert network.latent_shape == latents
    blank, noise = jnp.zeros((2, *shape)), jnp.zeros((2, *latents))
    made, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), blank, noise)
    assert made[0].mean.shape == (2, *latents) and made[1].shape == (2, *shape)
    assert {leaf.dtype for leaf in jax.tree.leaves((made, variables))} == {jnp.dtype("float32")}


# What it stands on.


def test_it_begins_with_the_bundled_classifier():
    config = config_lib.typed(recipe.get_config("smoke"))
    spec = images.Spec((28, 28, 1))  # of images without labels, too
    filled = first_stage.filled_in("nowhere", config, spec)
    built = run.build_algorithm(filled, spec)
    state = jax.eval_shape(built.init, jax.random.key(0))
    trained = first_stage.trained(filled)
    adopted = jax.eval_shape(built.with_first_stage, state, trained)
    chex.assert_trees_all_equal_shapes_and_dtypes(adopted.extra["first_stage"].params, state.extra["first_stage"].params)
    assert jax.tree.structure(adopted) == jax.tree.structure(state)

    x = np.random.default_rng(0).uniform(-1, 1, (2, 28, 28, 1)).astype(np.float32)
    maps = jax.jit(built.first_stage.maps)(trained.frozen(), x)
    assert [m.shape for m in maps] == [(2, 14, 14, 32), (2, 7, 7, 64), (2, 4, 4, 96)]
    assert (
        float(similarity.perceptual(maps, maps).max()) == 0 < float(similarity.perceptual(maps, [m[::-1] for m in maps]).min())
    )


@pytest.mark.recipes
def test_it_begins_with_published_weights_of_vgg16(tmp_path):
    """Which see one channel as three alike; what they make of an image is compared with PyTorch's in test_inception.py."""
    shapes = jax.eval_shape(vgg.VGG16(head=False).init, jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))["params"]
    drawn = np.random.default_rng(0)
    kernels = {name: 0.05 * drawn.standard_normal(layer["kernel"].shape, np.float32) for name, layer in shapes.items()}
    weights = {f"{name}.weight": np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)) for name, kernel in kernels.items()}
    weights |= {f"{name}.bias": np.full(layer["bias"].shape, 0.1, np.float32) for name, layer in shapes.items()}
    safetensors.save_file(weights, tmp_path / "vgg.safetensors")
    config = config_lib.typed(config_of(**{"first_stage.workdir": f"vgg:{tmp_path / 'vgg.safetensors'}"}))
    spec = images.Spec((16, 18, 1))
    filled = first_stage.filled_in(None, config, spec)
    assert filled.first_stage.run["algorithm"] == "vgg16"
    built = run.build_algorithm(filled, spec)
    state = jax.eval_shape(built.init, jax.random.key(0))
    trained = first_stage.trained(filled)
    assert jax.tree.structure(jax.eval_shape(built.with_first_stage, state, trained)) == jax.tree.structure(state)
    x = drawn.uniform(-1, 1, (2, 16, 18, 1)).astype(np.float32)
    maps = jax.jit(built.first_stage.maps)(trained, x)
    sizes = [(16, 18, 64), (8, 9, 128), (4, 4, 256), (2, 2, 512), (1, 1, 512)]
    assert [m.shape for m in maps] == [(2, *size) for size in sizes]
    in_colour = jax.jit(built.first_stage.maps)(trained, x.repeat(3, -1))
    chex.assert_trees_all_close(maps, in_colour, rtol=1e-5)
    assert built.first_stage.map_weights(trained) is None
    _check_lpips(tmp_path, spec, maps, x)
    with pytest.raises(errors.UserError, match="VGG16 sees no images of 8x8 pixels"):
        run.build_algorithm(filled, images.Spec((8, 8, 1)))
    with pytest.raises(errors.UserError, match=r"cannot read weights from 'none\.pth'.*: give vgg16-397923af\.pth"):
        first_stage.trained(config_lib.typed(config_of(**{"first_stage.workdir": "vgg:none.pth"})))


def _check_lpips(folder, spec, maps, x):
    """With weights of channels: the distance that the loss has of images x, whose maps are these, by hand."""
    drawn, channels = np.random.default_rng(1), [m.shape[-1] for m in maps]
    weights = {f"lin{i}.model.1.weight": drawn.uniform(size=(1, c, 1, 1)).astype(np.float32) for i, c in enumerate(channels)}
    safetensors.save_file(weights, folder / "lpips.safetensors")
    workdir = f"vgg:{folder / 'vgg.safetensors'},{folder / 'lpips.safetensors'}"
    config = config_lib.typed(config_of(**{"first_stage.workdir": workdir}))
    filled = first_stage.filled_in(None, config, spec)
    built, trained = run.build_algorithm(filled, spec), first_stage.trained(filled)
    state = jax.eval_shape(built.init, jax.random.key(0))
    assert jax.tree.structure(jax.eval_shape(built.with_first_stage, state, trained)) == jax.tree.structure(state)
    held = types.SimpleNamespace(extra={"first_stage": trained})
    _, found = built._rec(held, x[:1], x[1:], [m[1:] for m in maps])
    expected = 0.0
    for levels, weight in zip(maps, weights.values()):
        one, other = (level / np.linalg.norm(level, axis=-1, keepdims=True) for level in np.asarray(levels))
        expected += (np.square(one - other) * weight.reshape(-1)).sum(-1).mean()
    np.testing.assert_allclose(found["perceptual"], [expected], rtol=1e-4)
    safetensors.save_file({"lin0.model.1.weight": np.ones((1, 3, 1, 1), np.float32)}, folder / "lpips.safetensors")
    with pytest.raises(errors.UserError, match=r"its tensor 'lin0\.model\.1\.weight' is \(1, 3, 1, 1\) where \(1, 64, 1, 1\)"):
        first_stage.trained(filled)


def test_without_a_perceptual_distance_it_stands_on_nothing():
    config = config_of(**{"autoencoder.perceptual": 0.0, "first_stage.workdir": ""})
    config.first_stage.run = config_dict.ConfigDict()
    typed = config_lib.check(config)
    assert first_stage.filled_in("nowhere", typed, images.Spec(SHAPE)) is typed
    built = run.build_algorithm(config, images.Spec(SHAPE))
    state = jax.eval_shape(built.init, jax.random.key(0))
    assert built.first_stage is None and state.extra == {}
    measured = jax.eval_shape(built.eval_step, state, some_batch(), jax.random.key(0))
    assert "perceptual" not in measured


def test_as_a_first_stage_it_has_what_encodes_and_decodes_alone(algorithm):
    config = config_lib.typed(config_of())
    serving = kl_autoencoder.KlAutoencoder.from_config(config.method, images.Spec(SHAPE), base.Training())
    state = jax.eval_shape(serving.init, jax.random.key(0))
    assert state.params.keys() == {"autoencoder"} and state.extra == {}
    kept = jax.eval_shape(lambda key: algorithm.init(key).frozen(like=state), jax.random.key(0))
    assert jax.tree.structure(kept) == jax.tree.structure(state.frozen())


@pytest.mark.parametrize(
    ("changes", "shape", "words"),
    [
        ({"first_stage.workdir": ""}, SHAPE, "config.first_stage.workdir is missing"),
        ({"first_stage.workdir": "nowhere"}, SHAPE, "nowhere, which is not the folder of a run"),
        ({}, (32, 32, 3), "fashion is a run of 28x28x1 images, and those of config.data are 32x32x3"),
    ],
)
def test_first_stages_that_cannot_be(changes, shape, words):
    config = config_lib.typed(config_of(**changes))
    with pytest.raises(errors.UserError, match=words) as caught:
        first_stage.filled_in("new", config, images.Spec(shape))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network.multipliers": ()}, "config.network.multipliers"),
        ({"network.latent_channels": 17}, "config.network.latent_channels is 17: it can be at most 16"),
        ({"discriminator.layers": 3}, "the discriminator takes no images of 16x18 pixels"),
    ],
)
def test_networks_that_cannot_be(changes, words):
    with pytest.raises(errors.UserError, match=words) as caught:
        run.build_algorithm(config_lib.check(config_of(**changes)), images.Spec(SHAPE, images.unnamed(3)))
    assert "\n" not in str(caught.value)
