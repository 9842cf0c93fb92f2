"""python -m experiments.benchmark: what it refuses, prints and writes."""

import importlib
import json
import pathlib
import subprocess
import sys
import types

import jax
import pytest

from experiments.torch_reference import pytorch
from imagegen_jax import errors
from imagegen_jax.benchmark import extraction
from imagegen_jax.benchmark import peers
from imagegen_jax.benchmark import recipe
from imagegen_jax.benchmark import table


@pytest.fixture
def benchmark(command, monkeypatch):
    """The command, which measures nothing."""
    monkeypatch.setattr(recipe, "measure", lambda config, *asked: [config.batch_size, *asked])
    monkeypatch.setattr(extraction, "measure", lambda *asked: list(asked))
    monkeypatch.setattr(table, "table", lambda report: f"results {report['results']}")
    monkeypatch.setattr(jax.config, "update", lambda *setting: None)
    return command("benchmark")


def test_what_was_measured_is_printed_and_written(benchmark, tmp_path, capsys):
    out = tmp_path / "new" / "speed.json"
    benchmark("--config=configs/ddpm.py:smoke", "--repeats=3", f"--out={out}")
    assert capsys.readouterr().out == "results [8, 3, None, False]\n"
    written = json.loads(out.read_text())
    assert written["recipe"] == "configs/ddpm.py:smoke"
    assert written["results"] == [8, 3, None, False] and written["repeats"] == 3 and written["config"]["batch_size"] == 8
    assert written["machine"]["platform"] == "cpu" and written["machine"]["device_count"] == 8

    benchmark("--features=inception", f"--out={out}")
    written = json.loads(out.read_text())
    assert written["features"] == "inception" and written["results"] == [20, None] and "config" not in written


def test_all_recipes_are_compared_in_processes_of_their_own(benchmark, monkeypatch, tmp_path, capsys):
    started = []

    def run(words, **how):
        started.append(words)
        out = next(word for word in words if word.startswith("--out=")).removeprefix("--out=")
        recipe = next(word for word in words if word.startswith("--config=")).removeprefix("--config=")
        times = {"ours": {"median": 40.0}, "theirs": {"median": 50.0}, "ratio": 1.25}
        against = {"step_ms": times, "forward_ms": times, "compiled_step_ms": times}
        results = {"fraction_of_peak": 0.5, "against": against}
        pathlib.Path(out).write_text(json.dumps({"recipe": recipe, "machine": {"load_average": 0.1}, "results": results}))
        return types.SimpleNamespace(returncode=int(recipe == failing))

    failing = None
    monkeypatch.setattr(subprocess, "run", run)
    benchmark("--all", "--repeats=3", f"--out={tmp_path / 'all.json'}")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["recipe"] + [words.split("=")[1] for words, *_ in peers.COMPARISONS]
    assert "40.0 ms" in lines[1] and lines[1].count("50.0 ms, 1.25") == 3
    assert len(json.loads((tmp_path / "all.json").read_text())["results"]) == len(started) == len(peers.COMPARISONS)
    assert all({"--torch_compile", "--repeats=3"} < set(words) for words in started)
    failing = "configs/gan.py"
    with pytest.raises(errors.UserError, match="configs/gan.py .*: the comparison ended with exit code 1"):
        benchmark("--all")


@pytest.mark.parametrize("words", peers.COMPARISONS, ids=lambda words: words[0])
def test_what_is_compared_is_trained_as_the_reference_trains(words):
    path, *changes = (word.removeprefix("--config") for word in words[:-1])
    recipe, _, variant = path.removeprefix("=configs/").partition(".py")
    config = importlib.import_module(f"configs.{recipe}").get_config(variant.removeprefix(":"))
    for change in changes:
        key, _, value = change.removeprefix(".").partition("=")
        config.update_from_flattened_dict({key: value})
    assert not [reason for reason, holds in pytorch.training_reasons(config).items() if holds]


@pytest.mark.parametrize(
    ("words", "module"),
    [
        (["--config=configs/ddpm.py:smoke", "--against=diffusers"], "unet"),
        (["--config=configs/cyclegan.py:smoke", "--against=torch"], "cyclegan"),
        (["--features=inception", "--against=torch"], "inception"),
    ],
)
def test_the_reference_is_that_of_the_family_and_only_a_checkout_has_it(benchmark, monkeypatch, capsys, words, module):
    benchmark(*words)
    assert f"<module 'experiments.torch_reference.{module}'" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "experiments.torch_reference", None)
    with pytest.raises(errors.UserError, match=rf"^{words[1]}: .* start this in a checkout$"):
        benchmark(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "^give either --config=FILE"),
        (["--config=configs/ddpm.py", "--features=inception"], "^give either --config=FILE"),
        (["--config=configs/ddpm.py", "--repeats=0"], "--repeats is 0"),
        (["--config=configs/ddpm.py", "--against=torch"], "^--against=torch .*'diffusion': choose --against=diffusers$"),
        (["--config=configs/cyclegan.py", "--against=diffusers"], "^--against=diffusers .*'cyclegan': choose --against=torch$"),
        (["--config=configs/baseline.py", "--against=torch"], "there is none at all"),
        (["--features=inception", "--against=diffusers"], "^--against=diffusers .*'inception': choose --against=torch$"),
        (["--config=configs/vae.py", "--scaling", "--projection"], "^--scaling and --projection do not go together"),
        (["--config=configs/vae.py", "--steps_only", "--against=torch"], "--steps_only and --against=torch do not go"),
        (["--all", "--config=configs/vae.py"], "^give either --config=FILE"),
        (["--all", "--against=torch"], "^--all and --against=torch do not go together"),
        (["--config=configs/vae.py", "--torch_compile"], "^--torch_compile is for a recipe with --against"),
        (["--features=inception", "--scaling"], "--scaling and --features=inception do not go together"),
        (["--features=inception", "--out=speed.csv"], "^--out=speed.csv: give a path ending in .json"),
        (["--features=inception", "--out=setup.cfg/speed.json"], "^--out=setup.cfg/speed.json: cannot make setup.cfg"),
    ],
)
def test_what_cannot_be_measured_is_refused(benchmark, words, message):
    with pytest.raises(errors.UserError, match=message):
        benchmark(*words)
