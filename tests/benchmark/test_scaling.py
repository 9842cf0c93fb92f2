"""--scaling, --projection and --steps_only of experiments.benchmark: the same training in every layout, and its costs."""

import json

import jax
from jax import numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from configs import vae
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax.api import launching
from imagegen_jax.api import scaling
from imagegen_jax.benchmark import projection
from imagegen_jax.benchmark import recipe
from imagegen_jax.benchmark import steps
from imagegen_jax.benchmark import timing
from imagegen_jax.training import run
from imagegen_jax.training import sharding


def test_bytes_of_collectives_are_read_from_a_program():
    mesh = sharding.make_mesh(8, (1, 8))

    def exchange(x):
        gathered = jax.lax.all_gather(x, "fsdp", tiled=True)  # (8, 3, 50) float32
        return jax.lax.psum((x, jnp.float32(1), gathered.astype(jnp.int32).sum(0)), "fsdp")

    split = jax.shard_map(exchange, mesh=mesh, in_specs=PartitionSpec("fsdp"), out_specs=PartitionSpec(), check_vma=False)
    found = steps.collective_bytes(jax.jit(split).lower(np.zeros((8, 3, 50), np.float32)).compile().as_text())
    assert found == {"all-gather": 8 * 3 * 50 * 4, "all-reduce": (3 * 50 + 1 + 3 * 50) * 4}


def small(preset):
    config = vae.get_config("dense")
    config.update_from_flattened_dict(
        {"network.widths": (64,), "batch_size": 8, "sharding.preset": preset, "sharding.min_size": 256}
    )
    return config


def test_presets_say_what_lies_where():
    """Nothing is split; or optimiser and averages; or the parameters too."""
    split = {}
    for preset in ("replicate", "zero1", "fsdp"):
        config = config_lib.typed(small(preset))
        assert config.sharding.all_rules[-1] == config.sharding.all_rules[0]
        _, algorithm, mesh = recipe._built(small(preset))
        state = run.abstract_state(algorithm, mesh, config.sharding.all_rules, 256)
        for part in (state.params, state.ema_params, state.opt_state):
            wholes = {leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(part) if leaf.size >= 256}
            split.setdefault(preset, []).append(wholes)
    whole, parts = {True}, {False}
    assert split == {"replicate": [whole] * 3, "zero1": [whole, parts, parts], "fsdp": [parts] * 3}


@pytest.mark.recipes
def test_the_steps_of_presets_are_equal_and_cost_what_they_should(monkeypatch):
    """On eight devices: an eighth of what is split on each, and what is exchanged for it."""
    monkeypatch.setattr(timing, "WARM_UP", 0)
    found = {preset: recipe.measure_steps(small(preset), 3) for preset in ("replicate", "zero1", "fsdp")}
    base = found["replicate"]
    assert len(set(base["losses"])) == 3
    for results in found.values():
        np.testing.assert_allclose(results["losses"], base["losses"], rtol=1e-5)
        np.testing.assert_allclose(results["gradient_norms"]["grad_norm"], base["gradient_norms"]["grad_norm"], rtol=1e-5)
        assert "fraction_of_peak" not in results
    parameters = 4 * base["parameters"]
    shares = {preset: results["state_bytes"] / parameters for preset, results in found.items()}
    assert shares["replicate"] == pytest.approx(4, rel=0.01)  # with two moments and an average
    assert shares["zero1"] == pytest.approx(1 + 3 / 8, rel=0.05) and shares["fsdp"] == pytest.approx(4 / 8, rel=0.1)
    moved = {preset: sum(results["step_collective_bytes"].values()) / parameters for preset, results in found.items()}
    assert moved["replicate"] == pytest.approx(1, rel=0.05)  # the result of one all-reduce
    assert moved["zero1"] == pytest.approx(2, rel=0.1)  # and the new parameters
    assert found["fsdp"]["step_collective_bytes"]["all-gather"] > 0


def test_projection():
    """By hand: 2 GFLOP an image, 100 MB of parameters, a batch of 512."""
    facts = projection.project(2e9, 512, 100_000_000, 400_000_000)
    pod = facts["pods"]["TPU v5e"]
    assert pod["images"] == 2 and pod["compute_ms"] == pytest.approx(2 * 2e9 / (0.4 * 197e12) * 1e3)
    whole, split = pod["replicate"], pod["fsdp"]
    assert whole["exchanged_bytes"] == pytest.approx(2e8 * 255 / 256) and split["exchanged_bytes"] == pytest.approx(
        3e8 * 255 / 256
    )
    assert whole["exchange_ms"] == pytest.approx(1e3 * whole["exchanged_bytes"] / 200e9)
    ratio = pod["compute_ms"] / whole["exchange_ms"]
    assert whole["efficiency"] == pytest.approx([ratio / (1 + ratio), ratio])
    assert (whole["state_bytes"], split["state_bytes"]) == (4e8, 4e8 / 256)
    enough = projection.project(2e9, whole["images_for_90_percent"] * 256, 100_000_000, 400_000_000)["pods"]["TPU v5e"]
    assert enough["replicate"]["efficiency"] == pytest.approx([0.9, 1.0])
    text = projection.table({"results": facts, "recipe": "mine"})
    assert "256 TPU v5e, fsdp" in text and "64 H200, replicate" in text and "recipe  mine" in text


@pytest.mark.recipes
def test_a_traced_step_has_the_operations_of_a_compiled_one():
    config = small("replicate")
    config.batch_size = 512  # so many that the optimiser's operations, which every device makes, are few
    facts, training = recipe.project(config), recipe.measure_steps(config, 1)
    assert facts["flops_per_image"] == pytest.approx(training["step_flops"] * 8 / 512, rel=0.3)
    assert facts["parameter_bytes"] == 4 * training["parameters"]


def results(loss):
    memory = {"state_bytes": 1e6, "step_temporary_bytes": 2e6, "step_collective_bytes": {}}
    return {"step_ms": {"median": 2.0}, "losses": [loss, 0.5], "gradient_norms": {"grad_norm": 2 * loss}} | memory


def test_layouts_are_measured_in_their_own_processes(monkeypatch, capfd):
    started = []

    def launch(words, processes, devices, stdout):
        started.append((processes, devices, words[:-1]))
        found = {"machine": {"device_count": min(processes * devices, 4)}, "results": results(1 + 1e-6 * devices)}
        out = words[-1].removeprefix("--out=")
        with open(out, "w") as file:
            json.dump(found, file)
        return 0

    monkeypatch.setattr(launching, "launch", launch)
    layouts = (scaling.Layout(1, 1, "replicate"), scaling.Layout(2, 2, "fsdp"), scaling.Layout(1, 8, "fsdp"))
    rows = scaling.measure(["-m", "command"], layouts)
    assert started[1] == (2, 2, ["-m", "command", "--config.sharding.preset=fsdp"])
    assert rows[0]["loss_difference"] == 0 and rows[1]["loss_difference"] == pytest.approx(1e-6, rel=0.01)
    lines = scaling.table(rows).splitlines()
    assert lines[2].split() == ["2", "2", "fsdp", "2.0", "1.00", "2.00", "0.00", "1.0e-06", "1.0e-06"]
    assert lines[3].endswith("too few devices here")
    assert "2 of 3: processes: 2, devices of each: 2, fsdp" in capfd.readouterr().err
    monkeypatch.setattr(launching, "launch", lambda *_, **__: 2)
    with pytest.raises(errors.UserError, match="processes: 1, .* ended with exit code 2; its error is above"):
        scaling.measure(["-m", "command"], layouts)
