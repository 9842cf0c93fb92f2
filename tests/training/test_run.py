"""A run's folder: what is read of a checkpoint, and where it lies; what a new run takes from it; the images it goes on with."""

import contextlib
import dataclasses
import json
import shutil

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from configs import classifier
from configs import vae
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.generation import sampling
from imagegen_jax.training import checkpoint
from imagegen_jax.training import logging
from imagegen_jax.training import preservation
from imagegen_jax.training import run
from imagegen_jax.training import sharding
from imagegen_jax.training import start
from imagegen_jax.training import superseded

SPECS = images.Spec((8, 8, 1))
SHAPE = (28, 28, 1)


def recipe(**changes):
    config = vae.get_config("smoke")
    config.network.name = "dense"
    config.network.widths = (16,)
    config.sharding.preset = "fsdp"
    config.sharding.min_size = 0
    config.update_from_flattened_dict(changes)
    config_lib.check(config)
    return config_lib.typed(config)


def first_state(config):
    algorithm = run.build_algorithm(config, SPECS)
    mesh = sharding.make_mesh(8)
    shapes = run.abstract_state(algorithm, mesh, config.sharding.all_rules, config.sharding.min_size)
    shardings = jax.tree.map(lambda x: x.sharding, shapes)
    return shapes, start.begin(config, algorithm, sharding.key(mesh, config.seed, "init"), shardings)


def elements_on_a_device(state):
    return sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state.params))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(workdir, state) of a run with checkpoints of steps 1, 2 and 3, the best in the middle.

    The optimiser's state in them has other shapes than the algorithm's, so that whoever reads it fails.
    """
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    config = recipe(**{"checkpoint.best_metric": "eval/loss"})
    _, state = first_state(config)
    state = state.replace(ema_params=jax.tree.map(lambda x: x + 0.01, state.ema_params))
    run.save_config(workdir, config, SPECS)
    saved = state.replace(opt_state=jax.tree.map(lambda _: jnp.zeros(3), state.opt_state))
    with checkpoint.Checkpointer(workdir / run.CHECKPOINTS, preservation.Policy(latest=9)) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(saved, checkpoint.Position(step, 0.0, 1, ""))
    with contextlib.closing(logging.MetricWriter(workdir, 0)) as writer:
        for step, loss in ((1, 0.5), (2, 0.1), (3, 0.2), (4, 0.0)):
            writer.write(step, {"eval/loss": loss})
    return workdir, state


def test_a_run_is_read_without_its_optimiser_and_stays_split_over_the_devices(trained):
    workdir, state = trained
    loaded = run.load(workdir)
    config, algorithm, split = loaded.config, loaded.algorithm, loaded.state
    whole = jax.device_put(split, sharding.replicated(sharding.make_mesh(8)))
    sizes = elements_on_a_device(whole), elements_on_a_device(split)
    assert sizes[0] == sum(leaf.size for leaf in jax.tree.leaves(state.params)) and sizes[1] < sizes[0] / 7
    assert split.opt_state == split.ema_params == {}
    drawer = sampling.Drawer(algorithm, sharding.make_mesh(8), 8)
    drawn = [np.concatenate(list(drawer.batches(state, config.seed, 8))).astype(int) for state in (whole, split)]
    assert np.abs(drawn[0] - drawn[1]).max() <= 1 and np.ptp(drawn[0]) > 50  # of 255: float rounding

    for use_ema, wanted in ((True, state.ema_params), (False, state.params)):
        found = run.load(workdir, use_ema=use_ema).state
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(found.params), jax.device_get(wanted))
    shapes, _ = first_state(config)
    with pytest.raises(errors.UserError, match="cannot be read"):
        checkpoint.Checkpointer(workdir / run.CHECKPOINTS, read_only=True).restore(None, shapes)


@pytest.mark.parametrize(("wanted", "step"), [(None, 3), ("latest", 3), ("best", 2), ("1", 1), (1, 1)])
def test_a_checkpoint_is_named_by_its_step_or_as_the_latest_or_best(trained, wanted, step):
    assert run.load(trained[0], wanted).step == step


def test_a_checkpoint_that_cannot_be_meant_is_refused(trained, tmp_path):
    workdir = trained[0]
    for wanted, words in (("two", "number of a step, latest or best"), ("-1", "checkpoint=-1"), ("7", "there are 1, 2, 3")):
        with pytest.raises(errors.UserError, match=words):
            run.load(workdir, wanted)
    with pytest.raises(errors.UserError, match="best_metric is empty"):
        run.find_step(workdir, recipe(), "best")
    with pytest.raises(errors.UserError, match="eval/kl was measured"):
        run.find_step(workdir, recipe(**{"checkpoint.best_metric": "eval/kl"}), "best")


def test_a_damaged_checkpoint_can_be_moved_out_of_the_way_as_the_error_says(trained, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    shutil.rmtree(workdir / run.CHECKPOINTS / "3" / "state")
    with pytest.raises(errors.UserError, match="1, 2 can be; move it out of the folder"):
        run.load(workdir, remedy=run.BY_MOVING)
    (workdir / run.CHECKPOINTS / "3").rename(tmp_path / "3")
    assert run.load(workdir).step == 2


def test_a_new_run_takes_the_networks_of_another_as_far_as_they_fit(trained, capsys):
    workdir, state = trained
    shapes, warm = first_state(recipe(init_from=f"{workdir}:best", seed=1))
    for name in ("params", "ema_params", "extra"):
        jax.tree.map(np.testing.assert_array_equal, *(jax.device_get(getattr(s, name)) for s in (warm, state)))
    assert "taken from step 2" in capsys.readouterr().err and int(warm.step) == 0
    jax.tree.map(lambda x, shape: x.sharding == shape.sharding or pytest.fail(str(x.sharding)), warm, shapes)

    _, new = first_state(recipe(seed=1, **{"network.latent": 4}))
    config = recipe(
        init_from=str(workdir), init_from_regex="encoder|posterior|prior|likelihood", seed=1, **{"network.latent": 4}
    )
    _, warm = first_state(config)
    said = capsys.readouterr().err
    assert "taken from step 3" in said and "not chosen (" in said and "of another shape (" in said
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.params)]
    kept = []
    for path, ours, theirs, drawn in zip(paths, *(jax.tree.leaves(jax.device_get(s.params)) for s in (warm, state, new))):
        fits = "decoder" not in path and ours.shape == theirs.shape
        kept.append(fits)
        np.testing.assert_array_equal(ours, theirs if fits else drawn)
    assert 0 < sum(kept) < len(kept)

    with pytest.raises(errors.UserError, match="none can be taken.*not chosen"):
        first_state(recipe(init_from=str(workdir), init_from_regex="unet"))
    with pytest.raises(errors.UserError, match="no regular expression"):
        first_state(recipe(init_from=str(workdir), init_from_regex="("))
    with pytest.raises(errors.UserError, match="not the folder of a run"):
        first_state(recipe(init_from=str(workdir / "nowhere")))


def test_before_the_first_checkpoint_any_key_may_change_and_what_was_drawn_gives_way(trained, tmp_path):
    config = recipe()
    run.save_config(tmp_path, config, SPECS)
    assert run.check_resumable(tmp_path, config, SPECS) is False
    other = recipe(seed=5, **{"network.latent": 4})
    assert run.check_resumable(tmp_path, other, images.Spec((8, 8, 1), ("a", "b", "c"))) is True
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "10.png").write_text("of the first")
    superseded.set_aside(tmp_path, 0)  # of the same experiment: it will come again
    assert (tmp_path / "samples" / "10.png").exists()
    superseded.set_aside(tmp_path, 0, foreign=True)
    (aside,) = tmp_path.glob("superseded-*")
    assert (aside / "samples" / "10.png").read_text() == "of the first" and not (tmp_path / "samples" / "10.png").exists()
    with pytest.raises(errors.UserError, match="seed: 0 in the run, 5 asked for"):
        run.check_resumable(trained[0], other, SPECS)


def old(text, classes):
    """A config.json from before names were kept."""
    saved = json.loads(text)
    saved["images"] = {"": {"shape": SHAPE, "classes": classes}}
    return json.dumps(saved)


def test_names_of_classes_are_kept_and_decide(tmp_path):
    config, spec = config_lib.typed(classifier.get_config("smoke")), images.Spec(SHAPE, ("cat", "dog"))
    text = run.to_json(config, spec)
    assert run.from_json(text)[1] == spec
    before = run.from_json(old(text, 2))[1]
    assert before.classes == 2 and before.known_names is None and before.name_of(1) == "1" and spec.name_of(1) == "dog"

    run.save_config(tmp_path, config, spec)
    (tmp_path / run.CHECKPOINTS / "1").mkdir(parents=True)
    for other in (("cat", "wolf"), ("dog", "cat"), ("cat",), ()):
        with pytest.raises(errors.UserError, match="another experiment"):
            run.check_resumable(tmp_path, config, images.Spec(SHAPE, other))
    (tmp_path / "config.json").write_text(old(text, 2))
    run.check_resumable(tmp_path, config, spec)
    with pytest.raises(errors.UserError, match="another experiment"):
        run.check_resumable(tmp_path, config, images.Spec(SHAPE, ("cat", "dog", "wolf")))


def test_an_old_run_whose_folders_were_numbered_as_text_is_not_continued_with_other_labels(tmp_path):
    config, names = config_lib.typed(classifier.get_config("smoke")), tuple(map(str, range(12)))
    (tmp_path / run.CHECKPOINTS / "1").mkdir(parents=True)
    (tmp_path / "config.json").write_text(old(run.to_json(config, {}), 12))
    run.check_resumable(tmp_path, config, images.Spec(SHAPE, names))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, source="edges:folder:x"))
    (tmp_path / "config.json").write_text(old(run.to_json(config, {}), 12))
    with pytest.raises(errors.UserError, match="in the run '10' comes before '2'"):
        run.check_resumable(tmp_path, config, images.Spec(SHAPE, names))


def test_the_images_of_a_run_decide_whether_it_goes_on(capsys):
    position = checkpoint.Position(step=1, seconds=0.0, records=10, fingerprint="0123456789ab")
    now = run.on_images(position, 10, "v2:abc")  # from when names and sizes were compared
    assert now.fingerprint == "v2:abc" and "how many there were (10)" in capsys.readouterr().err
    assert run.on_images(now, 10, "v2:abc") == now and not capsys.readouterr().err
    with pytest.raises(errors.UserError, match="there are as many, but contents"):
        run.on_images(now, 10, "v2:abd")
    with pytest.raises(errors.UserError, match="trained on 10, there are 9 now; put back"):
        run.on_images(now, 9, "v2:abc")
