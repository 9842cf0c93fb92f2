"""Power-function averages in a run: kept beside each step, resumed, made into others, used by the commands."""

import dataclasses
import json
import shutil
import types

import chex
import jax
from jax import numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors

from configs import gan
import imagegen_jax
from imagegen_jax import averages
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.training import checkpoint
from imagegen_jax.training import loop
from imagegen_jax.training import power_ema
from imagegen_jax.training import preservation
from imagegen_jax.training import run
from imagegen_jax.training import sharding
from imagegen_jax.training import start

SPECS = images.Spec((28, 28, 1))
STEPS, KEPT = 60, (20, 30, 40, 50, 60)
TINY = {
    "network.widths": (8, 4), "discriminator.widths": (4, 8), "network.latent": 4, "batch_size": 8, "ema.widths": (0.05, 0.1),
    "sharding.preset": "fsdp", "sharding.min_size": 0,
}  # fmt: skip


def recipe(**changes):
    config = gan.get_config("smoke")
    config.update_from_flattened_dict(TINY | changes)
    return config_lib.check(config)


def moved(x, step):
    """Where an array of step 0 is at a later one."""
    return x + (step / STEPS) ** 2


def train_step(state, batch, rng):
    """A method whose parameters are a known function of the step; the generator's variances fall from 1000 to 0.001."""
    assert power_ema.NAME not in state.extra
    step = state.step + 1
    params = jax.tree.map(lambda x: moved(x, step), batch["params"])
    stats = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.where(step < 0.5 * STEPS, 1e3, 1e-3) + 0 * x if path[-1].key == "var" else moved(x, step),
        batch["stats"],
    )
    return state.replace(step=step, params=params, extra={**state.extra, "generator_stats": stats}), {}


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """(folder, first state) of a run by `train_step`."""
    folder = tmp_path_factory.mktemp("power_ema") / "known"
    config = recipe()
    run.save_config(folder, config, SPECS)
    algorithm, mesh = run.build_algorithm(config, SPECS), sharding.make_mesh(8)
    shapes = run.abstract_state(algorithm, mesh, config.sharding.all_rules, 0, config.ema.widths)
    shardings = jax.tree.map(lambda x: x.sharding, shapes)
    first = state = loop.initialise(algorithm, sharding.key(mesh, 0, "init"), shardings)
    assert all(not leaf.any() for leaf in jax.tree.leaves(first.extra["power_ema"]))
    origin = {"params": first.params, "stats": first.extra["generator_stats"]}
    step_fn = jax.jit(power_ema.following(train_step), out_shardings=(shardings, {}))
    with checkpoint.Checkpointer(folder / run.CHECKPOINTS, preservation.Policy(latest=9)) as checkpointer:
        for step in range(1, STEPS + 1):
            state, _ = step_fn(state, origin, None)
            if step in KEPT:
                checkpointer.save(state, checkpoint.Position(step, 0.0, 1, ""))
    jax.tree.map(lambda x, shape: x.sharding == shape.sharding or pytest.fail(str(x.sharding)), state, shapes)
    return folder, first


def by_profile(width, step):
    """The average of `moved(0, step)` by its definition, in float64."""
    steps = np.arange(step + 1)
    return np.diff((steps / step) ** (averages.gamma(width) + 1)) @ moved(0.0, steps[1:])


@pytest.mark.parametrize("width", [0.05, 0.1])
@pytest.mark.parametrize("step", [20, 60])
def test_a_width_that_is_kept_is_loaded_as_it_was_kept(known, width, step, capsys):
    folder, first = known
    loaded = imagegen_jax.load(folder, step, ema=width)
    assert (loaded.step, loaded.ema) == (step, width) and "1 of the " in capsys.readouterr().err
    expected = jax.tree.map(lambda x: x + by_profile(width, step), jax.device_get(first.params["generator"]))
    chex.assert_trees_all_close(jax.device_get(loaded.state.params["generator"]), expected, rtol=1e-5, atol=1e-5)
    # What has no average is the checkpoint's own.
    expected = jax.tree.map(lambda x: moved(x, step), jax.device_get(first.params["discriminator"]))
    chex.assert_trees_all_close(jax.device_get(loaded.state.params["discriminator"]), expected, rtol=1e-5, atol=1e-5)
    assert set(loaded.state.extra) == set(first.extra) - {"ema", "power_ema"}


@pytest.mark.parametrize(("width", "step"), [(0.07, 60), (0.04, 60), (0.15, 60), (0.07, 40), (0.07, None)])
def test_another_width_is_made_afterwards(known, width, step):
    """As near to the truth as its profile is, statistics too."""
    folder, first = known
    loaded = imagegen_jax.load(folder, step, ema=width)
    step = step or STEPS
    assert loaded.step == step
    kept = [(each, at) for at in KEPT if at <= step for each in (0.05, 0.1)]
    _, error = averages.combination(*zip(*kept), width, step)
    norm = np.sqrt(averages.inner_product(width, step, width, step))
    path = moved(0.0, np.arange(1, step + 1))
    bound = error * norm * np.linalg.norm(path - path.mean()) + 1e-5
    assert bound < 0.1 * by_profile(width, step)

    def compare(path, found, before):
        if path[-1].key == "var":  # some weights are negative, and none of these may become so
            assert found.min() > 1e-4
        else:
            assert np.abs(found - before - by_profile(width, step)).max() <= bound

    state = jax.device_get((loaded.state.params["generator"], loaded.state.extra["generator_stats"]))
    jax.tree_util.tree_map_with_path(
        compare, state, jax.device_get((first.params["generator"], first.extra["generator_stats"]))
    )


def test_without_a_width_nothing_of_them_is_read(known):
    folder, first = known
    for ema in (True, False):
        state = imagegen_jax.load(folder, ema=ema).state
        assert "power_ema" not in state.extra
        expected = first.params["generator"] if ema else jax.tree.map(lambda x: moved(x, STEPS), first.params["generator"])
        chex.assert_trees_all_close(jax.device_get(state.params["generator"]), jax.device_get(expected), rtol=1e-6, atol=1e-6)
    warm = start.begin(recipe(init_from=str(folder), seed=3), *beginning(recipe()))
    chex.assert_trees_all_equal(*(jax.device_get(s.ema_params) for s in (warm, first)))
    assert all(not leaf.any() for leaf in jax.tree.leaves(warm.extra["power_ema"]))


def beginning(config):
    """What start.begin takes beside a config."""
    algorithm, mesh = run.build_algorithm(config, SPECS), sharding.make_mesh(8)
    shapes = run.abstract_state(algorithm, mesh, config.sharding.all_rules, 0, config.ema.widths)
    return algorithm, sharding.key(mesh, 0, "init"), jax.tree.map(lambda x: x.sharding, shapes)


def test_a_first_stage_leaves_them_in_place(monkeypatch):
    algorithm, rng, shardings = beginning(recipe())
    monkeypatch.setattr(run, "load", lambda *_, **__: types.SimpleNamespace(state=jnp.float32(0.5)))
    standing = types.SimpleNamespace(
        init=algorithm.init,
        with_first_stage=lambda state, trained: state.replace(extra=power_ema.without(state).extra | {"augmentation": trained}),
    )
    config = dataclasses.replace(recipe(), first_stage=config_lib.FirstStage())
    state = start.begin(config, standing, rng, shardings)
    assert float(state.extra["augmentation"]) == 0.5 and set(state.extra["power_ema"]) == {"0.05", "0.1"}


def test_what_cannot_be_made_is_a_line(known, tmp_path):
    folder, _ = known
    for ema, words in (
        (0.01, "the 10 averages in checkpoints up to step 60 .*nearer to 0.05 or 0.1, .*keep_every"),
        (0.5, "at most 0.28"),
        (0.0, "more than 0"),
    ):
        with pytest.raises(errors.UserError, match=f"^--ema={ema:g}: .*{words}"):
            imagegen_jax.load(folder, ema=ema)
    with pytest.raises(errors.UserError, match="no checkpoint of step 7 "):
        imagegen_jax.load(folder, 7, ema=0.07)

    run.save_config(tmp_path / "empty", recipe(), SPECS)
    with pytest.raises(errors.UserError, match="no checkpoint in .*: train the run first"):
        imagegen_jax.load(tmp_path / "empty", ema=0.07)
    run.save_config(tmp_path / "plain", recipe(**{"ema.widths": ()}), SPECS)
    with pytest.raises(errors.UserError, match=r"plain keeps no averages .*--config.ema.widths='\(0.05,0.1\)'"):
        imagegen_jax.load(tmp_path / "plain", ema=0.07)
    with pytest.raises(errors.UserError, match="not the folder of a run"):
        imagegen_jax.load(tmp_path, ema=0.07)

    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    shutil.rmtree(damaged / run.CHECKPOINTS / "40" / "state")
    with pytest.raises(
        errors.UserError, match="checkpoints/40 cannot be read .*20, 30, 50, 60 can be; move it out of the folder"
    ):
        imagegen_jax.load(damaged, ema=0.07)
    shutil.rmtree(damaged / run.CHECKPOINTS / "40")
    assert imagegen_jax.load(damaged, ema=0.07).step == 60


# ------------------------------------------------------------------------------------------------------------- whole commands


@pytest.fixture(scope="module")
def trained(tmp_path_factory, command):
    """Folders of one GAN: 'whole'; 'resumed', stopped in the middle; 'plain', without these averages."""
    folder = tmp_path_factory.mktemp("power_ema")
    words = [f"--config.{name}={value}" for name, value in TINY.items() if name != "ema.widths"] + [
        "--config.checkpoint.every=3", "--config.checkpoint.keep=9", "--config.eval.every=0",
        "--config.optimizer.schedule=constant", "--config.sample.every=0", "--config.sample.batch_size=8",
    ]  # fmt: skip
    main = command("main")
    recipe = "--config=configs/gan.py:smoke"
    widths, stopped, end = "--config.ema.widths=(0.05,0.1)", "--config.duration=6", "--config.duration=12"
    main(recipe, *words, widths, end, f"--workdir={folder / 'whole'}")
    main(recipe, *words, widths, stopped, f"--workdir={folder / 'resumed'}")
    main(recipe, *words, widths, end, f"--workdir={folder / 'resumed'}")
    main(recipe, *words, end, f"--workdir={folder / 'plain'}")
    with pytest.raises(errors.UserError, match=r"ema.widths: \[\] in the run, \[0.05, 0.1\] asked for"):
        main(recipe, *words, widths, end, f"--workdir={folder / 'plain'}")
    return folder


def last_state(folder):
    opened = run.open_run(folder)
    return jax.device_get(checkpoint.Checkpointer(folder / run.CHECKPOINTS, read_only=True).restore(None, opened.state)[0])


@pytest.mark.recipes
def test_a_resumed_run_has_the_same_averages_to_the_bit(trained):
    whole, resumed, plain = (last_state(trained / name) for name in ("whole", "resumed", "plain"))
    assert set(whole.extra["power_ema"]) == {"0.05", "0.1"} and "power_ema" not in plain.extra
    chex.assert_trees_all_equal(whole, resumed)
    chex.assert_trees_all_close(power_ema.without(whole), plain, rtol=1e-4, atol=1e-5)  # the rest knows nothing of them
    kept = whole.extra["power_ema"]["0.05"]
    assert set(kept["params"]) == set(whole.ema_params) and set(kept["extra"]) == {"generator_stats"}


@pytest.mark.recipes
def test_commands_take_a_width(trained, tmp_path, command):
    folder = f"--workdir={trained / 'whole'}"
    drawn = {}
    for word in ("", "--ema", "--ema=true", "--noema", "--ema=False", "--ema=0.07", "--ema=.1"):
        command("sample")(folder, "--num=8", f"--out={tmp_path / 'images.npz'}", *word.split())
        with np.load(tmp_path / "images.npz") as file:
            drawn[word] = file["images"].astype(int)
    for same in (("", "--ema", "--ema=true"), ("--noema", "--ema=False")):
        assert all((drawn[word] == drawn[same[0]]).all() for word in same)
    different = [drawn[word] for word in ("", "--noema", "--ema=0.07", "--ema=.1")]
    assert all((a != b).any() for i, a in enumerate(different) for b in different[:i])
    loaded = imagegen_jax.load(trained / "whole", ema=0.07)
    np.testing.assert_array_equal(loaded.sample(8), drawn["--ema=0.07"])

    for word, ema in (("--ema=0.07", 0.07), ("--noema", False), ("", True)):
        score = tmp_path / "score.json"
        words = [folder, "--num=8", "--metrics=fid", "--noanchors", f"--out={score}", *word.split()]
        command("evaluate")(*words)
        assert json.loads(score.read_text())["protocol"]["images"]["ema"] == ema

    command("export")(folder, "--ema=0.07", f"--out={tmp_path / 'gan.safetensors'}")
    exported = safetensors.load_file(tmp_path / "gan.safetensors")
    chex.assert_trees_all_equal(exported, run.named_arrays(loaded.state))
    assert not any("power_ema" in name for name in exported) and any("generator_stats" in name for name in exported)
    with pytest.raises(errors.UserError, match="keeps no averages"):
        command("edit")("interpolate", f"--workdir={trained / 'plain'}", "--ema=0.07", f"--out={tmp_path / 'way.png'}")
