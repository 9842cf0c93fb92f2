"""What is measured of recipes and of the FID's network is whole, and so is the table. No timing is asserted."""

import itertools
import math

import jax
import pytest

from configs import cyclegan
from configs import kl_autoencoder
from configs import vae
from imagegen_jax import errors
from imagegen_jax import machine
from imagegen_jax.benchmark import extraction
from imagegen_jax.benchmark import recipe
from imagegen_jax.benchmark import steps
from imagegen_jax.benchmark import table
from imagegen_jax.benchmark import timing
from imagegen_jax.training import sharding

KEYS = {
    "parameters", "compile_seconds", "step_images", "step_ms", "images_per_second", "step_flops", "flops_per_second",
    "matmul_peak_flops_per_second", "fraction_of_peak", "step_temporary_bytes", "step_collective_bytes",
    "peak_memory_bytes", "peak_memory_of",
}  # fmt: skip


class Reference:
    """Accepts everything, and compares what it measures with itself."""

    def check(self, *asked):
        self.asked = asked

    def compare(self, step, repeats, compiled):
        times = timing.alternate(step, lambda: None, repeats)
        more = dict(compiled_step_ms=times) if compiled else {}
        return dict(device="cpu", other_version="1.2", parameters=step.parameters, step_ms=times) | more


@pytest.fixture
def small(monkeypatch):
    """Less of everything that is measured beside the step."""
    monkeypatch.setattr(steps, "_MATMUL_SIZES", (64,))
    monkeypatch.setattr(recipe, "_PIPELINE_SECONDS", 0.05)
    monkeypatch.setattr(timing, "WARM_UP", 0)


def check(results, keys, **name):
    """All numbers are there; returns the lines of the table by their names."""
    assert results.keys() == KEYS | keys
    numbers = [leaf for leaf in jax.tree.leaves(results) if not isinstance(leaf, str)]
    assert all(math.isfinite(x) and x > 0 for x in numbers)
    lines = table.table(dict(machine=machine.facts(), results=results, **name)).splitlines()
    return dict(line.split("  ", 1) for line in lines)


@pytest.mark.parametrize(
    ("family", "variant", "made"),
    [(vae, "dense", "sampling"), pytest.param(cyclegan, "smoke", "translation", marks=pytest.mark.recipes)],
)
def test_a_recipe_is_measured(small, family, variant, made):
    config = family.get_config(variant)
    config.batch_size = config.sample.batch_size = 8
    reference = Reference()
    results = recipe.measure(config, 2, reference, compiled=made == "sampling")
    rows = check(results, {"pipeline_images_per_second", f"{made}_images_per_second", "against"}, recipe=variant)
    assert reference.asked[0] is config and reference.asked[2].size == 8
    assert results["step_images"] == 8
    assert {"train step of 8, ms", "input pipeline, images/s", f"{made}, images/s"} <= rows.keys()
    assert rows["against"].strip() == "other 1.2 on cpu" and "train step, theirs / ours" in rows
    assert ("train step, theirs by torch.compile / ours" in rows) == (made == "sampling")


@pytest.mark.recipes
def test_a_recipe_that_stands_on_a_run_is_measured_with_it(small):
    config = kl_autoencoder.get_config("smoke")
    config.update_from_flattened_dict({"network.channels": 4, "network.groups": 2, "discriminator.layers": 1})
    check(recipe.measure(config, 2), {"pipeline_images_per_second"}, recipe="smoke")
    config.first_stage.workdir = ""
    with pytest.raises(errors.UserError, match="config.first_stage.workdir is missing"):
        recipe.measure(config, 2)


def test_features_are_measured(small, monkeypatch):
    """One small image, once."""
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda batch_size: make_mesh(1, devices=jax.devices()[:1]))
    monkeypatch.setattr(extraction, "_BATCH", (1, 8, 8, 3))
    results = extraction.measure(1)
    rows = check(results, set(), features="inception")
    assert results["step_images"] == 1
    assert {"batch of 1, ms", "extraction, images/s"} <= rows.keys() and "against" not in rows


def test_calls_are_timed_by_turns_of_five():
    """One call of each turn is not counted, and neither is the warm-up."""
    calls = []
    timing.alternate(lambda: calls.append("ours"), lambda: calls.append("theirs"), 7)
    turns = [(name, len(list(group))) for name, group in itertools.groupby(calls)]
    assert turns == [("ours", 3), ("theirs", 3), ("ours", 6), ("theirs", 6), ("ours", 3), ("theirs", 3)]
