"""Runs that are killed, stopped, damaged or contradicted, as a person meets them: the command on a tiny recipe.

What is killed, stopped or refused, or diverges, is a process of its own; what ends by itself is trained in this one.

The recipe is the one that compiles the fastest; that every family's state comes back is tested in test_parallel.py.

The reference is one uninterrupted run. Every other run is brought to an end in its own way, started again with the same
command, and must end in the same bits.
"""

import contextlib
import dataclasses
import io
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import whole_runs

from imagegen_jax import errors
from imagegen_jax.training import checkpoint
from imagegen_jax.training import run

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 40
PATIENCE = 240  # seconds; a machine under load compiles slowly


def words(workdir, *flags):
    """What the command of a run says."""
    return [
        f"--config={ROOT}/configs/vae.py:smoke", f"--workdir={workdir}",
        f"--config.duration={STEPS}", "--config.network.name=dense", "--config.network.widths=(16,)",
        "--config.optimizer.warmup=5", "--config.checkpoint.every=10", "--config.checkpoint.keep=9",
        "--config.log.every=1", "--config.sample.every=20", "--config.sample.num=8", "--config.sample.batch_size=8",
        "--config.eval.every=20", "--config.eval.num=16", "--config.eval.batch_size=16", *flags,
    ]  # fmt: skip


def in_a_process(workdir, *flags):
    return [sys.executable, "-m", "experiments.main", *words(workdir, *flags)]


@pytest.fixture(scope="module")
def finish(command):
    """(workdir, *flags) -> stderr: trains to the end."""

    def call(workdir, *flags):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            command("main")(*words(workdir, *flags))
        return said.getvalue()

    return call


def start_until(workdir, condition, *flags):
    """Starts a run and returns its process as soon as condition() holds."""
    process = subprocess.Popen(in_a_process(workdir, *flags), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"it ended before the moment came: {process.stderr.read()[-2000:]}"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return process


@pytest.fixture(scope="module")
def reference(tmp_path_factory, finish):
    workdir = tmp_path_factory.mktemp("reference") / "run"
    finish(workdir)
    assert checkpoint.available_steps(workdir / run.CHECKPOINTS) == [10, 20, 30, 40]
    assert len(whole_runs.logged(workdir)) == STEPS
    return workdir


@pytest.mark.parametrize(
    ("flags", "measured"),
    [
        (["--config.eval.every=0", "--config.sample.every=0"], set()),
        (["--config.eval.every=10", "--config.eval.samples=16"], {"eval/loss", "eval/fid", "eval/kid"}),
    ],
)
def test_what_is_measured_on_the_way_changes_no_bit(tmp_path, reference, flags, measured, finish):
    """Parameters, optimiser, moving average: with grids and held-out metrics, without, and with distances more often."""
    finish(tmp_path, *flags)
    log = (tmp_path / "metrics.jsonl").read_text()
    assert {name for name in ("eval/loss", "eval/fid", "eval/kid") if name in log} == measured
    assert (tmp_path / "samples").exists() == bool(measured)
    whole_runs.assert_same_training(tmp_path, reference)


def test_killed_after_a_checkpoint(tmp_path, reference, finish):
    """Other instants are those of test_kills.py."""
    process = start_until(tmp_path, (tmp_path / run.CHECKPOINTS / "30").exists)
    process.kill()
    process.wait()
    assert "continuing from step" in finish(tmp_path)
    whole_runs.assert_same_run(tmp_path, reference)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.faults)])
def test_stopped_by_a_signal(tmp_path, reference, number, finish):
    log = tmp_path / "metrics.jsonl"
    process = start_until(tmp_path, lambda: log.exists() and len(log.read_text().splitlines()) > 13)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0 and "the same command continues" in error and "\ndraw more: python" in error
    stopped_at = checkpoint.available_steps(tmp_path / run.CHECKPOINTS)[-1]
    assert 12 <= stopped_at < STEPS and max(whole_runs.logged(tmp_path)) == stopped_at
    finish(tmp_path)
    whole_runs.assert_same_run(tmp_path, reference)


@pytest.mark.faults
def test_stopped_during_warm_up_and_while_sampling(tmp_path, reference, finish):
    """Nothing is trained yet: exit 0, no checkpoint. Then in the middle of drawing a grid that would take minutes."""
    process = start_until(tmp_path, (tmp_path / "config.json").exists)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0 and "before the first step" in error
    assert checkpoint.available_steps(tmp_path / run.CHECKPOINTS) == []

    slow = ("--config.sample.num=1000000", "--config.sample.every=20")
    process = start_until(tmp_path, lambda: (tmp_path / "metrics.jsonl").exists() and 20 in whole_runs.logged(tmp_path), *slow)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0 and time.monotonic() - began < 10
    assert checkpoint.available_steps(tmp_path / run.CHECKPOINTS)[-1] == 20
    finish(tmp_path)
    whole_runs.assert_same_run(tmp_path, reference)


_SLOW = """
import runpy, sys, time
from imagegen_jax.training import checkpoint

def read(*_):
    print("reading", file=sys.stderr, flush=True)
    time.sleep(600)

checkpoint.Checkpointer._read = read
runpy.run_module("experiments.main", run_name="__main__", alter_sys=True)
"""


@pytest.mark.faults
def test_stopped_while_a_checkpoint_is_read(tmp_path, reference):
    """From a disk that does not answer: it ends soon, says so, and changes nothing."""
    shutil.copytree(reference, tmp_path / "run")
    before = whole_runs.contents(tmp_path / "run")
    slow = [sys.executable, "-c", _SLOW, *words(tmp_path / "run", "--config.duration=60")]
    process = subprocess.Popen(slow, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert "reading\n" in iter(process.stderr.readline, "")
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0 and error.startswith("SIGTERM: ") and "before the first step: nothing is lost" in error
    assert whole_runs.contents(tmp_path / "run") == before


def test_finished_run_started_again_does_nothing(tmp_path, reference, finish):
    before = whole_runs.contents(reference)
    assert f"is trained to step {STEPS}" in finish(reference)
    assert whole_runs.contents(reference) == before


@pytest.mark.recipes
def test_a_finished_run_goes_on_with_a_new_schedule_as_exactly_as_ever(tmp_path, reference, finish):
    """Its schedule has ended at a rate of 0. Its checkpoints are from before they told their schedules, as is config.json."""
    extended, killed = tmp_path / "extended", tmp_path / "killed"
    shutil.copytree(reference, extended)
    for path in (extended / run.CHECKPOINTS).glob("*/position/metadata"):
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "schedules"}))
    run.save_config(extended, *run.load_config(reference))
    longer = ("--config.duration=60", "--config.optimizer.on_new_duration=restart")
    assert "anew: from step 40 to step 60" in finish(extended, *longer)
    shutil.copytree(extended, killed)
    shutil.rmtree(killed / run.CHECKPOINTS / "60")
    assert "continuing from step 50\n" in finish(killed, "--config.duration=60")
    whole_runs.assert_same_run(killed, extended)
    assert all(whole_runs.logged(extended)[step] == whole_runs.logged(reference)[step] for step in range(1, 41))

    config, _ = run.load_config(killed)
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, on_new_duration="error"))
    with pytest.raises(errors.UserError, match="from step 40 to step 60"):  # had it been killed before its first checkpoint
        run.scheduled(killed, config, checkpoint.Position(40, 0.0, 8000, ""))


def refused(arguments):
    """Runs a command that must be refused, and returns its one line of stderr."""
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: "), done.stderr[-2000:]
    return lines[0]


def test_contradicting_config_is_refused_with_its_keys(reference):
    before = whole_runs.contents(reference)
    error = refused(in_a_process(reference, "--config.seed=5", "--config.network.blocks=2"))
    assert "seed: 0 in the run, 5 asked for" in error and "network.blocks: 1 in the run, 2 asked for" in error
    assert whole_runs.contents(reference) == before


def test_damaged_checkpoint_names_the_readable_ones(tmp_path, reference, finish):
    workdir = tmp_path / "run"
    shutil.copytree(reference, workdir)
    shutil.rmtree(workdir / run.CHECKPOINTS / "40" / "state" / "d")  # half-deleted
    for part in (workdir / run.CHECKPOINTS / "30" / "state").rglob("*"):  # cut short
        if part.is_file() and part.stat().st_size > 1000:
            part.write_bytes(part.read_bytes()[:500])
    before = whole_runs.contents(workdir)
    error = refused(in_a_process(workdir))
    assert "checkpoints/40 cannot" in error and "10, 20 can be;" in error and "--checkpoint=STEP" in error
    sample = [sys.executable, "-m", "experiments.sample", f"--workdir={workdir}", f"--out={tmp_path / 'grid.png'}"]
    assert "10, 20 can be;" in refused(sample)
    assert whole_runs.contents(workdir) == before and not (tmp_path / "grid.png").exists()

    (workdir / "eval").mkdir()
    for name in ("20-fashion-0.json", "40-fashion-0.json", "40-fashion-0.neighbours.png"):
        (workdir / "eval" / name).write_text("{}")
    (workdir / "eval" / "mine.json").write_text('{"label": {"step": 30}}')
    finish(workdir, "--checkpoint=20")
    whole_runs.assert_same_run(workdir, reference)
    (aside,) = workdir.glob("superseded-*")
    moved = {str(path.relative_to(aside)) for path in aside.rglob("*") if "checkpoints" not in path.parts and path.is_file()}
    pictures = {"samples/40.png", "panels/40.png"}
    scores = {"eval/40-fashion-0.json", "eval/40-fashion-0.neighbours.png", "eval/mine.json"}
    assert moved == {"metrics.jsonl"} | pictures | scores
    assert sorted(entry.name for entry in (aside / "checkpoints").iterdir()) == ["30", "40"]
    assert [path.name for path in (workdir / "eval").iterdir()] == ["20-fashion-0.json"]


def test_other_images_under_the_same_name_are_refused(tmp_path, finish):
    from PIL import Image

    (tmp_path / "data").mkdir()
    for i in range(9):
        image = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(image).save(tmp_path / f"data/{i}.png")
    flags = ("--config.duration=2", "--config.sample.every=0")
    finish(tmp_path / "run", f"--config.data.source=folder:{tmp_path}/data", *flags)
    (tmp_path / "data").rename(tmp_path / "moved")  # the place is no part of the experiment
    flags = (f"--config.data.source=folder:{tmp_path}/moved", *flags)
    assert "is trained to step 2" in finish(tmp_path / "run", *flags)
    (tmp_path / "moved/3.png").unlink()
    assert "trained on 9, there are 8 now" in refused(in_a_process(tmp_path / "run", *flags))


def test_divergence_stops_with_step_and_metric_and_keeps_the_last_checkpoint(tmp_path):
    flags = ("--config.optimizer.lr=1e30", "--config.optimizer.clip_norm=0.0", "--config.optimizer.schedule=constant")
    flags += ("--config.optimizer.warmup=0", "--config.checkpoint.every=1", "--config.sample.every=0", "--config.eval.every=0")
    done = subprocess.run(in_a_process(tmp_path, *flags), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and "error: step " in last and (" is nan" in last or " is inf" in last), done.stderr[-2000:]
    steps = checkpoint.available_steps(tmp_path / run.CHECKPOINTS)
    assert steps
    assert np.isfinite([value for pair in whole_runs.logged(tmp_path).values() for value in pair]).all()
