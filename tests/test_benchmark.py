"""The benchmark's report is whole, and the twin it is compared with is one. No timing is asserted."""

import importlib.util
import json
import math

import jax
import numpy as np
import pytest

from experiments import benchmark
from imagegen_jax import errors
from imagegen_jax.networks import unet
from imagegen_jax.training import run

KEYS = {
    "parameters", "compile_seconds", "step_ms", "images_per_second", "step_flops", "flops_per_second",
    "matmul_peak_flops_per_second", "fraction_of_peak", "peak_memory_bytes", "peak_memory_of", "pipeline_images_per_second",
    "sampling_images_per_second",
}  # fmt: skip


def numbers(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if not isinstance(leaf, str)]


def test_report_has_every_number(tiny_config, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "_MATMUL_SIZES", (64,))
    monkeypatch.setattr(benchmark, "_PIPELINE_SECONDS", 0.05)
    peers = all(importlib.util.find_spec(name) for name in ("torch", "diffusers"))
    results = benchmark.measure(tiny_config, 2, "diffusers" if peers else None)
    config = json.loads(tiny_config.to_json())
    out = tmp_path / "new" / "speed.json"
    benchmark.check_out(out)
    benchmark.write(out, dict(recipe="tiny", machine=benchmark.machine(), config=config, results=results))

    read = json.loads(out.read_text())
    assert read["results"].keys() == (KEYS | {"against"} if peers else KEYS)
    assert all(math.isfinite(x) and x > 0 for x in numbers(read["results"]))
    assert read["machine"]["platform"] == "cpu" and read["machine"]["device_count"] == 8
    table = benchmark.table(read)
    assert "sampling, images/s" in table
    if peers:
        peer = read["results"]["against"]
        assert peer["parameters"] == read["results"]["parameters"]
        assert peer["step_ms"].keys() == peer["forward_ms"].keys() == {"ours", "theirs", "ratio"}
        assert "forward pass, theirs / ours" in table


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        (dict(channels=16, multipliers=(1, 2), blocks=1, attention_levels=(), patch_size=2, out_channels=1), (28, 28, 1)),
        (dict(channels=16, multipliers=(1, 2, 4), blocks=2, attention_levels=(1, 2), heads=4), (16, 24, 3)),
    ],
)
def test_twin_has_as_many_parameters_and_the_same_shape(changes, shape):
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    network = unet.UNet(groups=8, **changes)
    x = np.zeros((2, *shape), np.float32)
    ours = jax.eval_shape(network.init, jax.random.key(0), x, np.zeros(2))
    twin = benchmark.build_twin(network, shape)
    assert sum(leaf.size for leaf in jax.tree.leaves(ours)) == sum(p.numel() for p in twin.parameters())
    benchmark.twin_forward(network, twin, x)()
    patches = torch.nn.functional.pixel_unshuffle(torch.tensor(x).permute(0, 3, 1, 2), network.patch_size)
    assert twin(patches, torch.zeros(2)).sample.shape == patches.shape


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("optimizer.name", "lion", "adam or adamw"),
        ("optimizer.accumulate", 2, "accumulate"),
        ("network.groups", 3, "groups"),
        ("network.multipliers", (1, 2, 2, 2), "multiples of 16"),
    ],
)
def test_what_has_no_twin_is_refused(tiny_config, monkeypatch, key, value, words):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    tiny_config.update_from_flattened_dict({key: value})
    algorithm = run.build_algorithm(tiny_config, (28, 28, 1))
    with pytest.raises(errors.UserError, match=words):
        benchmark.check_twin(tiny_config, algorithm, jax.sharding.Mesh(jax.devices()[:1], "data"))


def test_missing_peers_are_named(tiny_config, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UserError, match=r"torch and diffusers: pip install 'imagegen_jax\[peers\]'"):
        benchmark.check_twin(tiny_config, None, None)


def test_an_impossible_out_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "speed.csv", tmp_path / "file" / "speed.json"):
        with pytest.raises(errors.UserError, match="--out="):
            benchmark.check_out(out)
