"""Configs: durations, checks, contradictions, recipes."""

import importlib

import pytest

from configs import variants
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import keys

RECIPES = variants.recipes()


def variants_of(name):
    """Of a recipe, which names them where there is not the one that was asked for."""
    with pytest.raises(errors.UserError, match="has no variant 'of no name': choose one of ") as caught:
        importlib.import_module(f"configs.{name}").get_config("of no name")
    return ["", *str(caught.value).partition("choose one of ")[2].split(", ")]


def contradictions(saved, config):
    return config_lib.contradictions(*map(config_lib.typed, (saved, config)))


@pytest.mark.parametrize("name", RECIPES)
def test_every_variant_of_every_recipe_passes_the_checks(name):
    for variant in variants_of(name):
        config_lib.check(importlib.import_module(f"configs.{name}").get_config(variant))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_smoke_variant_and_says_what_its_variants_are(name):
    described = importlib.import_module(f"configs.{name}").__doc__
    assert "smoke" in variants_of(name) and all(f"\n{variant} " in described for variant in variants_of(name) if variant)


def test_durations():
    for text, steps in (("7", 7), ("7 steps", 7), ("1 step", 1), ("2 epochs", 20), ("0.5 epoch", 5), ("0", 0)):
        assert keys.in_steps(text, batch_size=10, records=100) == steps
    config = config_lib.default("diffusion")
    for text in ("", "two", "3 weeks", "-1", "1e3 steps"):
        config.duration = text
        with pytest.raises(errors.UserError, match="config.duration"):
            config_lib.check(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.on_bad_image", "ignore"),
        ("data.channels", 2),
        ("batch_size", 0),
        ("network.dtype", "float16"),
        ("diffusion.schedule", "quadratic"),
        ("diffusion.weighting", "snrr"),
        ("sampler.name", "rk4"),
        ("diffusion.process", "brownian"),
        ("sampler.grid", "even"),
        ("sampler.steps", 1001),
        ("sampler.eta", 1.5),
        ("seed", -1),
        ("seed", 2**64),
        ("optimizer.accumulate", 7),
        ("optimizer.clip_norm", -1.0),
        ("optimizer.weight_decay", 0.1),  # adam has none
        ("optimizer.lr", float("nan")),
        ("optimizer.b1", 1.0),
        ("optimizer.b2", -0.1),
        ("ema.decay", 1.01),
        ("network.dropout", 1.0),
        ("network.heads", 3),
        ("network.multipliers", ()),
        ("network.multipliers", (1, 0)),
        ("network.attention_levels", (4,)),
        ("network.attention_levels", (-1,)),
        ("eval.samples", 1),
        ("log.every", "0"),
    ],
)
def test_impossible_values_are_named(key, value):
    config = config_lib.default("diffusion")
    with config.unlocked():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(errors.UserError, match=f"config.{key}") as caught:
        config_lib.check(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network.name", "vit"),
        ("network.upsampling", "shuffle"),
        ("discriminator.name", "patches"),
        ("discriminator.layers", 0),
        ("cyclegan.loss", "lsgan"),
        ("cyclegan.loss", "wasserstein"),
        ("cyclegan.pool", -1),
        ("optimizer.accumulate", 2),
        ("optimizer.hold", "soon"),
    ],
)
def test_impossible_values_of_a_cyclegan_are_named(key, value):
    config = config_lib.default("cyclegan")
    config.batch_size = 2
    config.update_from_flattened_dict({key: value})
    with pytest.raises(errors.UserError, match=f"config.{key}"):
        config_lib.check(config)


@pytest.mark.parametrize(
    ("recipe", "changes", "key"),
    [
        ("vae", {"vae.free_bits": 0.1, "optimizer.accumulate": 2}, "optimizer.accumulate"),
        ("vae", {"network.name": "pythae", "optimizer.accumulate": 2}, "optimizer.accumulate"),
        ("autoencoder", {"network.name": "pythae", "optimizer.accumulate": 2}, "optimizer.accumulate"),
        ("gan", {"optimizer.accumulate": 2}, "optimizer.accumulate"),
        ("vae", {"network.widths": ()}, "network.widths"),
        ("hvae", {"network.widths": ()}, "network.widths"),
        ("vqvae", {"network.widths": ()}, "network.widths"),
        ("vqvae", {"vqvae.decay": 1.5}, "vqvae.decay"),
        ("vae", {"network.name": "ladder"}, "network.name=ladder"),
        ("hvae", {"network.name": "conv"}, "network.name=conv"),
        ("hvae", {"network.latents": (1, -1, 1)}, "network.latents"),
        ("classifier", {"classifier.label_smoothing": -0.1}, "classifier.label_smoothing"),
    ],
)
def test_what_cannot_be_in_a_family_is_named(recipe, changes, key):
    config = importlib.import_module(f"configs.{recipe}").get_config("smoke")
    config.update_from_flattened_dict(changes)
    with pytest.raises(errors.UserError, match=f"config.{key} ") as caught:
        config_lib.check(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("recipe", "changes", "same"), [("vae", {}, True), ("vae", {"vae.free_bits": 0.1}, False)])
def test_pieces_of_a_batch_are_another_experiment_where_they_change_the_loss(recipe, changes, same):
    """Runs from before that was refused are told."""
    saved, config = (importlib.import_module(f"configs.{recipe}").get_config("smoke") for _ in range(2))
    for one in (saved, config):
        one.update_from_flattened_dict(changes)
    saved.optimizer.accumulate = 2
    found = config_lib.contradictions(*map(config_lib.typed, (saved, config)))
    assert found == ([] if same else ["optimizer.accumulate: 2 in the run, 1 asked for"])


def test_contradictions_are_what_makes_another_experiment():
    saved, config = config_lib.default("diffusion"), config_lib.default("diffusion")
    config.duration = "9 epochs"
    config.sample.num = 3
    config.data.workers = 7
    config.sampler.steps = 10
    assert contradictions(saved, config) == []
    config.seed = 3
    config.network.multipliers = (1, 2)
    assert contradictions(saved, config) == [
        "network.multipliers: [1, 2, 2, 2] in the run, [1, 2] asked for",
        "seed: 0 in the run, 3 asked for",
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_a_saved_config_without_newer_keys_gets_their_defaults(name):
    config = importlib.import_module(f"configs.{name}").get_config("smoke")
    older = config.copy_and_resolve_references()
    with older.unlocked():
        del older.data.prefetch, older.log, older.checkpoint.keep
    completed = config_lib.completed(config_lib.to_dict(older))
    assert completed.checkpoint.keep == config_lib.Checkpoint().keep and completed.log.every == config_lib.Log().every
    changed = {key for key, value in config_lib.flatten(completed).items() if config_lib.flatten(config)[key] != value}
    assert changed <= {"log.every", "checkpoint.keep", "data.prefetch"}
    config_lib.check(completed)


def test_images_may_move_and_bad_ones_may_be_skipped_from_now_on():
    saved, now = config_lib.default("cyclegan"), config_lib.default("cyclegan")
    saved.data.update(source="idx:/a", source_a="folder:/a/b", source_b="edges:folder:/a/c")
    now.data.update(source="idx:/x", source_a="folder:~/b", source_b="edges:folder:y", on_bad_image="skip")
    assert contradictions(saved, now) == []
    saved.data.source, now.data.source = "emoji", "emoji:/a/b.ttf"
    assert contradictions(saved, now) == []
    now.data.source_a = "edges:folder:/a/b"
    assert len(contradictions(saved, now)) == 1


@pytest.mark.parametrize(
    ("recipe", "key"),
    [
        ("ddpm", "network.multipliers"),
        ("ddpm", "network.attention_levels"),
        ("hvae", "network.latents"),
        ("gan", "network.widths"),
    ],
)
@pytest.mark.parametrize("value", [(1.5,), ("a",), (True,)])
def test_several_numbers_are_whole_ones(recipe, key, value):
    config = importlib.import_module(f"configs.{recipe}").get_config("smoke")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(errors.UserError, match=f"config.{key} is .*: give whole numbers"):
        config_lib.check(config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer": {"momentum": 0.9}}, r"this version of imagegen_jax has no config.optimizer.momentum"),
        ({"alchemy": {}}, "has no config.alchemy"),
        ({"network": {"name": "vit"}}, "config.network.name is 'vit': choose one of linear, dense, conv, pythae, ladder"),
        ({"algorithm": "alchemy"}, "config.algorithm is 'alchemy'"),
    ],
)
def test_a_saved_config_of_another_version_is_one_line(change, words):
    saved = config_lib.to_dict(config_lib.default("vae")) | change
    with pytest.raises(errors.UserError, match=words):
        config_lib.completed(saved)


@pytest.mark.parametrize(
    ("key", "value"), [("optimizer.lr", None), ("batch_size", None), ("data.flip", None), ("batch_size", True)]
)
def test_values_of_another_type_are_named(key, value):
    config = config_lib.default("diffusion")
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(errors.UserError, match=f"config.{key} is {value}: write "):
        config_lib.check(config)
