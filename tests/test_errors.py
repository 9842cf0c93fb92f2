"""What a person types wrong: one line on stderr that names it, exit code 2, nothing written."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SMOKE = "--config=configs/ddpm.py:smoke"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([SMOKE, "--config.optimiser.lr=1"], ["optimiser", "optimizer"]),
        ([SMOKE, "--config.optimizer.lrr=1"], ["there is no --config.optimizer.lrr", '"lr"']),
        ([SMOKE, "--config.batch_size=abc"], ["batch_size", "abc"]),
        ([SMOKE, "--config.batch_size=6"], ["6", "8 devices", "--config.batch_size"]),
        ([SMOKE, "--config.network.patch_size=3"], ["patch_size", "28x28"]),
        ([SMOKE, "--config.sharding.rules=(('.*','shard'),)"], ["config.sharding.rules", "fsdp"]),
        (["--config=configs/nothing.py"], ["configs/nothing.py"]),
        (["--config=configs/ddpm.py:imagenet"], ["imagenet", "cifar10"]),
        ([SMOKE, "--nonsense=1"], ["nonsense"]),
        ([SMOKE, "--config.data.source=folder:nowhere"], ["nowhere"]),
        ([], ["--config"]),
    ],
)
def test_one_line_and_nothing_written(tmp_path, flags, words):
    workdir = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", "experiments.main", *flags, f"--workdir={workdir}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: "), done.stderr[-2000:]
    for word in words:
        assert word in lines[0]
    assert not workdir.exists()


def test_workdir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.main", SMOKE, f"--workdir={tmp_path / 'file' / 'run'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and "cannot write to the workdir" in done.stderr and done.stderr.count("\n") == 1
    assert (tmp_path / "file").read_text() == "in the way"
