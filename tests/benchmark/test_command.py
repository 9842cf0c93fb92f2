"""python -m experiments.benchmark: what it refuses, prints and writes."""

import json
import sys

import jax
import pytest

from imagegen_jax import errors
from imagegen_jax.benchmark import extraction
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
    assert capsys.readouterr().out == "results [8, 3, None]\n"
    written = json.loads(out.read_text())
    assert written["recipe"] == "configs/ddpm.py:smoke"
    assert written["results"] == [8, 3, None] and written["repeats"] == 3 and written["config"]["batch_size"] == 8
    assert written["machine"]["platform"] == "cpu" and written["machine"]["device_count"] == 8

    benchmark("--features=inception", f"--out={out}")
    written = json.loads(out.read_text())
    assert written["features"] == "inception" and written["results"] == [20, None] and "config" not in written


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
        (["--features=inception", "--scaling"], "--scaling and --features=inception do not go together"),
        (["--features=inception", "--out=speed.csv"], "^--out=speed.csv: give a path ending in .json"),
        (["--features=inception", "--out=setup.cfg/speed.json"], "^--out=setup.cfg/speed.json: cannot make setup.cfg"),
    ],
)
def test_what_cannot_be_measured_is_refused(benchmark, words, message):
    with pytest.raises(errors.UserError, match=message):
        benchmark(*words)
