"""Diffusion and MeanFlow of latents: normalised, drawn as of pixels, decoded; what they stand on, and cannot be asked for."""

import dataclasses
import importlib

import chex
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from configs import latent_diffusion as recipe
from configs import latent_meanflow
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import rng
from imagegen_jax.algorithms import capabilities
from imagegen_jax.algorithms import diffusion
from imagegen_jax.algorithms import of_latents
from imagegen_jax.training import first_stage
from imagegen_jax.training import run

pytestmark = pytest.mark.recipes  # each a network to compile, within another
SHAPE = (16, 18, 1)
SPEC = images.Spec(SHAPE, images.unnamed(3))


def first(name="kl_autoencoder"):
    """The config of a run to stand on, which is small."""
    config = importlib.import_module(f"configs.{name}").get_config("smoke")
    if name == "kl_autoencoder":
        config.network.channels, config.network.groups, config.discriminator.layers = 4, 2, 1
        with config.unlocked():
            config.first_stage.run = importlib.import_module("configs.classifier").get_config("smoke")
    elif name == "vqvae":
        config.network.widths, config.network.groups, config.vqvae.dimensions = (4,), 2, 3
    return config


def built(stands_on=None, recipe=recipe, spec=SPEC, **changes):
    config = recipe.get_config("smoke")
    config.update_from_flattened_dict({"network.channels": 8, "network.multipliers": (1,), "sampler.steps": 2} | changes)
    with config.unlocked():
        config.first_stage.run = stands_on or first()
    return run.build_algorithm(config_lib.check(config), spec)


@pytest.fixture(scope="module")
def algorithm():
    return built()


def randomised(params, seed=0):
    drawn = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.float32(x + 0.1 * drawn.standard_normal(x.shape)), params)


@pytest.fixture(scope="module")
def trained_first():
    """The state of a run that it stands on, with all that is only trained with."""
    begun = jax.jit(run.build_algorithm(first(), SPEC).init)(jax.random.key(5))
    return begun.replace(params=randomised(begun.params))


@pytest.fixture(scope="module")
def state(algorithm, trained_first):
    begun = jax.jit(algorithm.init)(jax.random.key(0))
    return algorithm.with_first_stage(begun.replace(params=randomised(begun.params, 1)), trained_first)


def some_batch(n=4, seed=0):
    drawn = np.random.default_rng(seed)
    label = {"label": drawn.integers(0, 3, n, np.int32)}
    return {"image": drawn.integers(0, 256, (n, *SHAPE), np.uint8), "condition": label, "index": np.arange(n, dtype=np.int32)}


def test_latents_have_mean_0_and_deviation_1_in_each_channel_where_they_were_measured(algorithm, state):
    """That is on the first batch, whose latents are drawn by the step's key; later steps leave all of it alone."""
    step, batch, key = jax.jit(algorithm.train_step), some_batch(), jax.random.key(1)
    after, metrics = step(state, batch, key)
    z = algorithm._data(after, batch, key)
    assert z.shape == (4, 8, 9, 4) and metrics["loss"] > 0
    np.testing.assert_allclose(z.mean((0, 1, 2)), np.zeros(4), atol=1e-5)
    np.testing.assert_allclose(z.std((0, 1, 2)), np.ones(4), atol=1e-5)
    raw = algorithm.first_stage.encode(state.extra["first_stage"], batch, jax.random.fold_in(key, 4))
    known = after.extra["normalisation"]
    np.testing.assert_allclose(known.undone(z), raw, atol=1e-4)
    assert known.images == 4 and np.ptp(known.mean) > 0.01 and np.ptp(known.std) > 0.01

    later, _ = step(after, some_batch(seed=1), jax.random.key(2))
    chex.assert_trees_all_equal(later.extra, after.extra)
    chex.assert_trees_all_equal(after.extra["first_stage"], state.extra["first_stage"])
    assert all(not np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (later.params, after.params))))


def test_a_channel_that_does_not_vary_is_only_shifted():
    z = np.random.default_rng(0).normal(size=(2, 3, 3, 2)).astype(np.float32)
    z[..., 1] = 5
    known = of_latents.Normalisation.of(jnp.asarray(z))
    assert np.abs(known.applied(z)[..., 1]).max() == 0 and known.std[1] == 1


class OfLatents(diffusion.Diffusion):
    """What is drawn, as it is."""

    def _images(self, state, x, condition):
        return x


def test_what_is_drawn_is_decoded_and_is_a_diffusions_draw(algorithm, state):
    measured = of_latents.Normalisation(jnp.array([1.0, -2.0, 0.0, 3.0]), jnp.array([1.0, 2.0, 0.5, 4.0]), jnp.int32(9))
    state = state.replace(extra=state.extra | {"normalisation": measured})
    keys, request = rng.per_index(jax.random.key(0), np.arange(3)), algorithm.Request()
    drawn = jax.jit(algorithm.sample, static_argnums=3)(state, keys, {}, request)
    plain = OfLatents(**{field.name: getattr(algorithm, field.name) for field in dataclasses.fields(diffusion.Diffusion)})
    assert plain.image_shape == (8, 9, 4) and not plain.sampler.clip
    z = jax.jit(plain.sample, static_argnums=3)(state, keys, {}, request)
    expected = algorithm.first_stage.decode(state.extra["first_stage"], z * measured.std + measured.mean, {})
    assert drawn.shape == (3, *SHAPE) and np.abs(drawn).max() <= 1
    np.testing.assert_allclose(drawn, expected, atol=1e-4)
    assert expected.std() > 0.01


def test_tiles_are_decoded_by_themselves_and_blended(algorithm, state):
    """Against each tile's own decoding, weighted by hand: sides of 8x9 latents in tiles of 4, of which a quarter is shared."""
    keys = rng.per_index(jax.random.key(0), np.arange(2))
    drawn = jax.jit(algorithm.sample, static_argnums=3)(state, keys, {}, algorithm.Request(decoding_tile=4))
    plain = OfLatents(**{field.name: getattr(algorithm, field.name) for field in dataclasses.fields(diffusion.Diffusion)})
    z = jax.jit(plain.sample, static_argnums=3)(state, keys, {}, algorithm.Request())
    of_tile = algorithm.first_stage.network.clone(image_shape=(8, 8, 1))
    params = {"params": state.extra["first_stage"].params["autoencoder"]}
    ramp = np.array([1 / 3, 2 / 3, 1, 1, 1, 1, 2 / 3, 1 / 3])  # 2 pixels are shared
    total, weight = np.zeros((2, *SHAPE)), np.zeros((*SHAPE[:2], 1))
    for top in (0, 3, 4):
        for left in (0, 3, 5):
            place = np.s_[2 * top : 2 * top + 8, 2 * left : 2 * left + 8]
            made = of_tile.apply(params, z[:, top : top + 4, left : left + 4], method="decode")
            total[:, *place] += np.outer(ramp, ramp)[..., None] * np.clip(made, -1, 1)
            weight[place] += np.outer(ramp, ramp)[..., None]
    np.testing.assert_allclose(drawn, total / weight, atol=1e-4)
    assert algorithm.about_request(algorithm.Request(decoding_tile=4))["decoding_tile"] == 4
    whole = jax.jit(algorithm.sample, static_argnums=3)(state, keys, {}, algorithm.Request(decoding_tile=9))
    np.testing.assert_allclose(whole, algorithm.first_stage.decode(state.extra["first_stage"], z, {}), atol=1e-4)


def test_tiles_need_images_a_whole_number_of_times_as_large_as_latents():
    odd = images.Spec((16, 17, 1), images.unnamed(3))
    algorithm = built(spec=odd)
    with pytest.raises(errors.UserError, match="^--decoding_tile=4: images of 16x17 are no whole number of times") as caught:
        algorithm.check_request(algorithm.Request(decoding_tile=4))
    assert "\n" not in str(caught.value)
    with pytest.raises(errors.UserError, match="^config.decoding.tile is 4: images of 16x17"):
        built(spec=odd, **{"decoding.tile": 4})


def test_a_meanflow_of_latents_is_drawn_in_one_evaluation_and_decoded(trained_first):
    algorithm = built(recipe=latent_meanflow, **{"sampler.steps": 1})
    state = algorithm.with_first_stage(jax.jit(algorithm.init)(jax.random.key(0)), trained_first)
    state = state.replace(params=randomised(state.params, 1))
    batch, key = some_batch(), jax.random.key(1)
    after, _ = jax.jit(algorithm.train_step)(state, batch, key)
    z = algorithm._data(after, batch, key)
    np.testing.assert_allclose([z.mean((0, 1, 2)), z.std((0, 1, 2))], [np.zeros(4), np.ones(4)], atol=1e-5)
    raw = algorithm.precompute(state, batch) | {"condition": {}, "index": batch["index"]}
    again, _ = jax.jit(algorithm.train_step)(state, raw, key)
    chex.assert_trees_all_close(again, after, atol=1e-4)

    keys = rng.per_index(jax.random.key(0), np.arange(3))
    drawn = jax.jit(algorithm.sample, static_argnums=3)(after, keys, {}, algorithm.Request())
    noise = jax.vmap(lambda key: jax.random.normal(key, (8, 9, 4)))(keys)
    told = jnp.broadcast_to(jnp.array([1.0, 1.0]), (3, 2))  # t and t - r
    x = noise - algorithm.network.apply({"params": after.params["unet"]}, noise, told, {})
    known = after.extra["normalisation"]
    expected = algorithm.first_stage.decode(after.extra["first_stage"], x * known.std + known.mean, {})
    np.testing.assert_allclose(drawn, expected, atol=1e-4)
    assert drawn.shape == (3, *SHAPE) and np.asarray(drawn).std() > 0.01


def test_held_out_loss_depends_on_each_image_alone(algorithm, state):
    evaluate, batch, key = jax.jit(algorithm.eval_step), some_batch(), jax.random.key(3)
    whole = evaluate(state, batch, key)["loss"]
    np.testing.assert_allclose(evaluate(state, jax.tree.map(lambda x: x[1:3], batch), key)["loss"], whole[1:3], rtol=1e-4)


def test_it_keeps_what_encodes_and_decodes_alone(algorithm, state, trained_first):
    kept = state.extra["first_stage"]
    assert kept.params.keys() == {"autoencoder"} and kept.extra == kept.opt_state == kept.ema_params == {}
    chex.assert_trees_all_equal(kept.params["autoencoder"], trained_first.params["autoencoder"])
    begun = jax.eval_shape(algorithm.init, jax.random.key(0))
    assert jax.tree.structure(begun) == jax.tree.structure(state)


@pytest.mark.parametrize("changes", [{}, {"diffusion.process": "flow", "diffusion.prediction_type": "velocity"}])
def test_it_stands_on_any_run_whose_latents_have_places(changes):
    algorithm = built(first("vqvae"), **changes, **{"diffusion.conditional": True, "guidance.scale": 2.0})
    assert algorithm.image_shape == (8, 9, 3) and algorithm.classes == 3
    state, batch = jax.eval_shape(algorithm.init, jax.random.key(0)), some_batch()
    after, _ = jax.eval_shape(algorithm.train_step, state, batch, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    keys = rng.per_index(jax.random.key(0), np.arange(4))
    condition, request = batch["condition"], algorithm.Request()
    drawn = jax.eval_shape(lambda state, keys: algorithm.sample(state, keys, condition, request), state, keys)
    assert drawn.shape == (4, *SHAPE)


def test_it_says_nothing_of_images_likelihoods_and_noisy_images(algorithm):
    assert isinstance(algorithm, capabilities.Draws) and isinstance(algorithm, capabilities.HasFirstStage)
    assert not isinstance(algorithm, capabilities.HasLikelihood | capabilities.Denoises | capabilities.DrawsByDenoising)


@pytest.mark.parametrize("asked", [{"clip": True}, {"threshold": 0.9}, {"classifier": "runs/noisy"}])
def test_requests_that_cannot_be(algorithm, asked):
    with pytest.raises(errors.UserError, match="this run diffuses latents") as caught:
        algorithm.check_request(algorithm.Request(**asked))
    assert "\n" not in str(caught.value)


def test_latents_have_no_limits():
    with pytest.raises(errors.UserError, match="config.sampler.clip"):
        built(**{"sampler.clip": True})


def test_first_stages_that_cannot_be(tmp_path):
    run.save_config(tmp_path / "small", first(), images.Spec((32, 32, 3), images.unnamed(3)))
    for name in ("vae", "ddpm"):
        run.save_config(tmp_path / name, first(name), SPEC)
    run.save_config(tmp_path / "good", first(), SPEC)

    def fill(workdir):
        config = recipe.get_config("smoke")
        config.first_stage.workdir = workdir
        return first_stage.filled_in(tmp_path / "run", config_lib.typed(config), SPEC)

    for workdir, words in (
        ("", "config.first_stage.workdir is missing"),
        (str(tmp_path / "vae"), "is a run of vae, and latent_diffusion stands on one that autoencodes spatially"),
        (str(tmp_path / "ddpm"), "is a run of diffusion, and latent_diffusion stands on one that autoencodes spatially"),
        (str(tmp_path / "small"), "of 32x32x3 images, and those of config.data are 16x18x1"),
    ):
        with pytest.raises(errors.UserError, match=words) as caught:
            fill(workdir)
        assert "\n" not in str(caught.value)
    section = fill(str(tmp_path / "good")).first_stage
    assert section.run["algorithm"] == "kl_autoencoder" and section.class_names == images.unnamed(3)
    # Through the file of its own run, which knows its first stage as that knows its own.
    config = recipe.get_config("smoke")
    saved = dataclasses.replace(config_lib.typed(config), first_stage=section)
    run.save_config(tmp_path / "run", saved, SPEC)
    loaded, spec = run.load_config(tmp_path / "run")
    assert config_lib.flatten(loaded) == config_lib.flatten(saved)
    assert run.build_algorithm(loaded, spec).image_shape == (8, 9, 4)


@pytest.mark.parametrize("variant", ["", "dit", "folder"])
def test_recipes_are_of_latents(variant):
    config = config_lib.check(recipe.get_config(variant))
    assert config.method.diffusion.data_std == 1.0 and not config.method.sampler.clip
