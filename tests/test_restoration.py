"""Diffusions that are told what is left of an image: their loss, what reaches the network, what runs of them do and refuse."""

import dataclasses
import json

import jax
from jax import numpy as jnp
import numpy as np
from PIL import Image
import pytest

from configs import colorize
from configs import ddpm
from configs import dit
from configs import inpaint
from configs import superres
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.algorithms import capabilities
from imagegen_jax.api import runs
from imagegen_jax.data import pictures
from imagegen_jax.diffusion import degradations
from imagegen_jax.generation import masks
from imagegen_jax.training import checkpoint
from imagegen_jax.training import run

SHAPE = (8, 8, 3)
PICTURES = np.random.default_rng(0).integers(0, 256, (16, *SHAPE), np.uint8)


def tiny(config, **changes):
    config.network.update(channels=8, multipliers=(1,))
    config.update_from_flattened_dict({"sampler.steps": 2, "sample.batch_size": 8} | changes)
    return config


def build(config, shape=SHAPE, names=()):
    return run.build_algorithm(config_lib.check(config), images.Spec(shape, names))


def batch_of(image, label=None):
    condition = {} if label is None else {"label": label}
    return {"image": image, "condition": condition, "index": np.arange(len(image), dtype=np.int32)}


def randomised(state):
    drawn = np.random.default_rng(1)
    return state.replace(params=jax.tree.map(lambda x: np.float32(0.2 * drawn.standard_normal(x.shape)), state.params))


@pytest.fixture(scope="module")
def enlarges():
    algorithm = build(tiny(superres.get_config("smoke")))
    return algorithm, randomised(jax.jit(algorithm.init)(jax.random.key(0)))


def test_the_loss_is_a_diffusions_of_a_network_that_is_told(enlarges):
    """Ho et al. 2020, algorithm 1, with y beside x_t and the level of its noise beside t."""
    algorithm, state = enlarges
    plain = dataclasses.replace(algorithm.objective, prediction_type="eps", weighting="simple")
    algorithm = dataclasses.replace(algorithm, objective=plain)
    batch, seen = batch_of(PICTURES[:4]), []

    class Spy:
        def apply(self, variables, x_t, t, condition, train=False, rngs=None):
            seen.append((x_t, t, condition, algorithm.network.apply(variables, x_t, t, condition)))
            return seen[-1][-1]

    spied = dataclasses.replace(algorithm, network=Spy())
    loss, (x_t, t, told, prediction) = jax.jit(lambda *given: (spied.eval_step(*given)["loss"], seen[0]))(
        state, batch, jax.random.key(3)
    )
    x0 = PICTURES[:4] / 127.5 - 1.0
    level = algorithm.process.level(t).for_images(4)
    eps = (x_t - level.alpha * x0) / level.sigma
    assert np.abs(eps).max() < 6
    np.testing.assert_allclose(loss, np.square(prediction - eps).mean((1, 2, 3)), rtol=1e-3)
    assert told["image"].shape == (4, *SHAPE) and told["noise"].shape == (4,)
    assert np.abs(np.corrcoef(np.ravel(eps), np.ravel(told["image"]))[0, 1]) < 0.2  # of other keys than its noise
    small = x0.reshape(4, 2, 4, 2, 4, 3).mean((2, 4))
    enlarged = jax.image.resize(small, x0.shape, "cubic")
    np.testing.assert_array_less(np.abs(told["image"] - enlarged).mean((1, 2, 3)), 1.2 * np.asarray(told["noise"]) + 1e-5)


def transformer():
    theirs = dit.with_transformer(ddpm.get_config("smoke"), width=16, layers=2, heads=2, patch_size=4)
    return superres.restoring(theirs, degradations.Superres(factor=2, noise=0.3))


@pytest.mark.parametrize("network", ["unet", pytest.param("dit", marks=pytest.mark.recipes)])
def test_image_and_noise_reach_the_network(network, enlarges):
    algorithm = enlarges[0] if network == "unet" else build(transformer())
    state = enlarges[1] if network == "unet" else randomised(jax.jit(algorithm.init)(jax.random.key(0)))
    told = algorithm.degradation.drawn(jax.random.split(jax.random.key(1), 2), images.to_float(PICTURES[:2]))
    denoise, _ = algorithm.denoising(state, algorithm.Request())

    def made(told):
        level = algorithm.process.level(jnp.float32(0.5 * algorithm.process.most))
        return jnp.square(denoise(jnp.ones((2, *SHAPE)), level, told).x0).sum()

    gradient = jax.jit(jax.grad(made))(told)
    assert set(gradient) == {"image", "noise"}
    assert all((np.abs(value).reshape(2, -1).max(1) > 1e-6).all() for value in gradient.values())


@pytest.mark.recipes
@pytest.mark.parametrize("recipe", [superres, inpaint, colorize])
def test_it_trains_and_shows_what_it_restores(recipe):
    algorithm = build(tiny(recipe.get_config("smoke")))
    state = jax.jit(algorithm.init)(jax.random.key(0))
    batch, key = batch_of(PICTURES[:2]), jax.random.key(1)
    after, metrics = jax.eval_shape(algorithm.train_step, state, batch, key)
    assert jax.tree.structure(after) == jax.tree.structure(state) and metrics["loss"].shape == ()
    panel = jax.jit(algorithm.panel)(state, batch, key)
    assert panel.shape == (2, len(algorithm.columns), *SHAPE)
    np.testing.assert_allclose(panel[:, 0], PICTURES[:2] / 127.5 - 1, atol=1e-6)
    if recipe is inpaint:
        hidden = np.abs(panel[:, 1]).max(-1) == 0
        np.testing.assert_array_equal(panel[:, 2][~hidden], panel[:, 0][~hidden])
    assert isinstance(algorithm, capabilities.Restores) and not isinstance(algorithm, capabilities.Draws)
    assert not isinstance(algorithm, capabilities.Denoises)


def test_it_may_be_told_labels_and_be_guided():
    changes = {"diffusion.conditional": True, "diffusion.condition_dropout": 0.5}
    algorithm = build(tiny(superres.get_config("smoke"), **changes), names=("a", "b"))
    assert algorithm.classes == 2 and set(algorithm.conditions) == {"label", "image", "noise"}
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    batch = batch_of(PICTURES[:2], np.array([0, 1], np.int32))
    jax.eval_shape(algorithm.train_step, state, batch, jax.random.key(0))
    algorithm.check_request(algorithm.Request(guidance_scale=2.0))
    with pytest.raises(errors.UserError, match="no images without a condition"):
        build(tiny(superres.get_config("smoke"))).check_request(algorithm.Request(guidance_scale=2.0))


def test_a_saved_config_says_what_it_undoes():
    config = inpaint.get_config("smoke")
    assert config_lib.completed(config_lib.to_dict(config)) == config_lib.typed(config)
    config.restoration.name = "superres"
    with pytest.raises(errors.UserError, match="config.restoration.name=superres has other keys"):
        config_lib.check(config)


# ------------------------------------------------------------------------------------------------------------------- as runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_untrained):
    """Data, and a run of each kind that was never trained."""
    root = tmp_path_factory.mktemp("restoration")
    for i, image in enumerate(PICTURES):
        path = root / "data" / ("test" if i % 2 else "train") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures.of_array(image).save(path)
    configs = {"inpaint": inpaint.get_config("smoke"), "superres": superres.get_config("smoke")}
    configs["superres"].restoration.factor = 2
    for name, config in configs.items():
        config.data.source = f"folder:{root / 'data'}"
        save_untrained(root / name, tiny(config), images.Spec(SHAPE))
    return root


@pytest.mark.recipes
def test_runs_repair_what_they_were_trained_for(folder):
    fills, enlarges = (runs.load(folder / name) for name in ("inpaint", "superres"))
    image = PICTURES[:3]
    filled = fills.inpaint(image, "half:left", samples=2)
    hidden = masks.hidden("half:left", 3, SHAPE[:2])
    assert filled.samples.shape == (3, 2, *SHAPE) and filled.images.dtype == np.uint8
    np.testing.assert_array_equal(filled.samples[:, 1][~hidden], image[~hidden])
    assert (filled.samples[:, 0] != filled.samples[:, 1]).any()
    np.testing.assert_array_equal(fills.outpaint(image[:, 2:6, 2:6]).images[:, 2:6, 2:6], image[:, 2:6, 2:6])
    large = enlarges.superres(image[:, :4, :4], noise=0.1, steps=3)
    assert large.images.shape == image.shape
    few = enlarges.superres(image[:2, :4, :4], 2, noise=0.1, steps=3).images
    assert np.abs(large.images[:2].astype(int) - few).max() <= 1  # an image depends on its number alone
    assert enlarges.enlarge_drawn(image[:, :4, :4], noise=0.2).images.shape == image.shape
    with pytest.raises(errors.UserError, match="it enlarges images of 4x4x3, and these are 8x8x3"):
        enlarges.enlarge_drawn(image)


def test_what_they_cannot_is_said_in_one_line(folder, tmp_path, command):
    edit = command("edit")
    for words, said in [
        (["superres", f"--workdir={folder}/inpaint"], "inpaint was trained for inpaint or outpaint alone"),
        (["vary", f"--workdir={folder}/inpaint", "--strength=.5"], "inpaint was trained for inpaint or outpaint alone"),
        (["superres", f"--workdir={folder}/superres", "--factor=4"], "--factor=4: .*superres was trained for 2; leave it out"),
        (["superres", f"--workdir={folder}/superres", "--downscaling=bicubic"], "was trained for box; leave it out"),
        (["superres", f"--workdir={folder}/superres", "--noise=.5"], "--noise=0.5: .* noise of at most 0.3; give less"),
        (["inpaint", f"--workdir={folder}/inpaint", "--mask=half:left", "--noise=.1"], "noise of at most 0.0; give less"),
        (["superres", f"--workdir={folder}/superres", "--method=ddnm"], "--method=ddnm is of runs that were not trained"),
    ]:
        with pytest.raises(errors.UserError, match=said) as caught:
            edit(words[0], "--input=test:0,1", f"--out={tmp_path}/no", *words[1:])
        assert "\n" not in str(caught.value)
    with pytest.raises(errors.UserError, match="restores images and draws none of its own: .* inpaint"):
        runs.load(folder / "inpaint").sample(2)
    assert not list(tmp_path.iterdir())


@pytest.mark.recipes
def test_the_commands_score_and_enlarge(folder, tmp_path, command, capsys):
    edit = command("edit")
    edit("inpaint", f"--workdir={folder}/inpaint", "--input=test:0,1", "--mask=half:top", f"--out={tmp_path}/filled")
    scores = json.loads((tmp_path / "filled" / "scores.json").read_text())["scores"]
    assert set(scores) == {"restoration", "mean fill", "nearest training image"}
    before, after = (np.asarray(Image.open(tmp_path / "filled" / name / "test_1.png")) for name in ("before", "."))
    np.testing.assert_array_equal(after[4:], before[4:])
    report = runs.load(folder / "inpaint").evaluate(
        num=4, features="pixels", metrics=["fid", "heldout"], reference_scores=False
    )
    assert report["scores"]["fid"]["value"] > 0 and report["protocol"]["images"]["of"]["half"] == "even numbers"

    small = tmp_path / "small"
    config = tiny(ddpm.get_config("smoke"), **{"data.image_size": 4})
    config.data.source = f"folder:{folder}/data"
    spec = images.Spec((4, 4, 3))
    run.save_config(small, config, spec)
    with checkpoint.Checkpointer(small / run.CHECKPOINTS) as checkpointer:
        state = jax.jit(run.build_algorithm(config, spec).init)(jax.random.key(0))
        checkpointer.save(state, checkpoint.Position(3, 0.0, 8, ""))
    sample = command("sample")
    given = [f"--workdir={small}", "--num=3", f"--out={tmp_path}/large.npz"]
    sample(*given, f"--upsample={folder}/superres", "--upsample_noise=.1")
    assert np.load(tmp_path / "large.npz")["images"].shape == (3, *SHAPE)
    for words, said in [
        ([f"--upsample={folder}/inpaint"], "was trained for inpaint or outpaint alone"),
        (["--upsample_noise=.1"], "--upsample_noise=0.1 is of --upsample: name a run, or leave it out"),
        ([f"--upsample={folder}/superres", "--upsample_noise=-1"], "upsample_noise"),
    ]:
        with pytest.raises(errors.UserError, match=said):
            sample(*given, *words)
