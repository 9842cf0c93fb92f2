"""The networks that denoise, in the families and recipes that have them: what goes together, what is refused."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from configs import dit as recipe
from configs import jit
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.diffusion import prediction_types
from imagegen_jax.diffusion import processes
from imagegen_jax.networks import dit
from imagegen_jax.networks import unet
from imagegen_jax.training import run
from imagegen_jax.training import sharding

LABEL = {"label": np.array([1, 4], np.int32)}


def built(config, shape=(8, 8, 1)):
    return run.build_algorithm(config, images.Spec(shape, images.unnamed(10)))


def tiny(config):
    """A recipe's config with a network that compiles in seconds."""
    config.network.update(width=8, layers=1, heads=1, patch_size=4, class_tokens_from=0)
    return config


def batch_of(n, shape=(8, 8, 1)):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 10, n, np.int32)
    image = rng.integers(0, 256, (n, *shape), np.uint8)
    return {"image": image, "condition": {"label": label}, "index": np.arange(n, dtype=np.int32)}


@pytest.mark.parametrize("process", processes.PROCESSES)
@pytest.mark.parametrize("prediction_type", prediction_types.NAMES)
def test_it_goes_with_every_process_and_prediction(process, prediction_type):
    config = tiny(recipe.get_config("smoke"))
    config.diffusion.update(process=process, prediction_type=prediction_type)
    algorithm = built(config)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    assert list(state.params) == ["dit"]
    after, metrics = jax.eval_shape(algorithm.train_step, state, batch_of(4), jax.random.key(0))
    chex.assert_trees_all_equal_shapes(state, after)
    assert metrics["loss"].shape == ()


def test_it_learns_variances_and_draws_guided():
    config = tiny(recipe.get_config("smoke"))
    config.diffusion.update(learn_variance=True, times="uniform", length=10)
    config.sampler.update(name="ddpm", variance="learned", steps=4, grid="trailing")
    algorithm = built(config)
    state, metrics = jax.jit(lambda key: algorithm.train_step(algorithm.init(key), batch_of(4), key))(jax.random.key(0))
    assert np.isfinite(metrics["vlb"])
    drawn = np.random.default_rng(0)
    state = state.replace(params=jax.tree.map(lambda x: np.float32(0.3 * drawn.standard_normal(x.shape)), state.params))
    keys = jax.random.split(jax.random.key(0), 2)
    draw = jax.jit(algorithm.sample, static_argnums=3)
    plain, guided = (draw(state, keys, LABEL, algorithm.Request(guidance_scale=scale)) for scale in (1.0, 3.0))
    assert plain.shape == (2, 8, 8, 1) and np.abs(plain - guided).max() > 1e-3


def test_it_draws_images_of_another_size():
    algorithm = built(tiny(recipe.get_config("smoke")))
    larger = dataclasses.replace(algorithm, image_shape=(12, 16, 1))
    drawn = jax.eval_shape(
        lambda state, keys: larger.sample(state, keys, LABEL, larger.Request()),
        jax.eval_shape(algorithm.init, jax.random.key(0)),
        jax.random.split(jax.random.key(0), 2),
    )
    assert drawn.shape == (2, 12, 16, 1)


@pytest.mark.parametrize("head", [False, True])
def test_a_mean_flow_takes_it(head):
    config = config_lib.default("meanflow", network=dit.Config(width=8, layers=1, heads=1, patch_size=4))
    config.meanflow.update(conditional=True, guidance=(1.0, 8.0), velocity_head=head)
    algorithm = built(config)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    after, _ = jax.eval_shape(algorithm.train_step, state, batch_of(4), jax.random.key(0))
    chex.assert_trees_all_equal_shapes(state, after)
    assert {"time_in", "time_in1", "time_in2"} <= set(after.params["dit"])


def test_a_run_counts_positions_in_its_own_images_or_in_those_of_an_earlier_one():
    config = recipe.get_config("smoke")

    def network(side):
        return built(config, (side, side, 1)).network

    assert network(28).trained_size == (28, 28)
    config.network.trained_size = (28, 28)
    assert network(56).trained_size == (28, 28)


def test_each_of_eight_devices_holds_an_eighth_of_the_largest():
    """Of the parameters, moments and averages of DiT-XL/2 under FSDP; what is too small to be split is within a percent."""
    config = recipe.with_transformer(recipe.get_config("cifar10"), **dit.SIZES["XL"], patch_size=2)
    state = jax.eval_shape(built(config, (32, 32, 4)).init, jax.random.key(0))
    mesh = jax.sharding.AbstractMesh((1, 8), sharding.AXES)
    shardings = sharding.state_shardings(mesh, state, ((".*", "fsdp"),), config.sharding.min_size)
    for part in ("params", "opt_state", "ema_params"):
        leaves, places = (jax.tree.leaves(getattr(tree, part)) for tree in (state, shardings))
        held = sum(np.prod(place.shard_shape(leaf.shape)) for leaf, place in zip(leaves, places, strict=True))
        assert held == pytest.approx(sum(leaf.size for leaf in leaves) / 8, rel=0.01)


def test_the_recipe_of_jit_has_the_published_size():
    """JiT-B/16 of 256x256 pixels."""
    algorithm = run.build_algorithm(jit.get_config("imagenet"), images.Spec((256, 256, 3), images.unnamed(1000)))
    params = jax.eval_shape(algorithm.init, jax.random.key(0)).params
    assert round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6) == 131


# -------------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"heads": 3}, r"config.network.heads is 3: it must divide config.network.width \(32\)"),
        ({"width": 36, "heads": 6}, "config.network.heads is 6: rotary positions turn a multiple of 4 channels, and .* 6 in a"),
        ({"width": 6, "heads": 1, "rotary": False}, "config.network.width is 6: it must be a multiple of 4"),
        ({"class_tokens_from": 2}, "config.network.class_tokens_from is 2: choose of 0 to 1, since config.network.layers is 2"),
        ({"trained_size": (8,)}, r"config.network.trained_size is \(8,\): give a height and a width"),
        ({"mlp": "relu"}, "config.network.mlp is 'relu': choose one of gelu, swiglu"),
        ({"patch_size": 0}, "config.network.patch_size is 0: it must be at least 1"),
        ({"name": "vit"}, "config.network.name is 'vit': choose one of unet, dit"),
        ({"name": "unet"}, "config.network.name=unet has other keys: .* start from a recipe that has it"),
    ],
)
def test_configs_that_cannot_be(keys, words):
    config = recipe.get_config("smoke")
    config.network.update(keys)
    with pytest.raises(errors.UserError, match=words) as caught:
        config_lib.check(config)
    assert "\n" not in str(caught.value)


def test_a_patch_that_does_not_divide_the_image_is_named():
    config = recipe.get_config("smoke")
    config.network.patch_size = 5
    algorithm = built(config, (28, 28, 1))
    with pytest.raises(
        errors.UserError, match="config.network.patch_size is 5: it must divide the image size, 28x28"
    ) as caught:
        jax.eval_shape(algorithm.init, jax.random.key(0))
    assert "\n" not in str(caught.value)


def test_a_run_from_before_there_was_a_name_has_a_u_net():
    saved = config_lib.to_dict(config_lib.default("diffusion"))
    del saved["network"]["name"]
    assert config_lib.completed(saved).method.network == unet.Config()
    assert isinstance(config_lib.completed(config_lib.to_dict(recipe.get_config("smoke"))).method.network, dit.Config)
