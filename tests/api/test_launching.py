"""Several processes of one command: they end together, and train as one does."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import whole_runs

from imagegen_jax import errors
from imagegen_jax.api import launching
from imagegen_jax.training import checkpoint
from imagegen_jax.training import run

ROOT = pathlib.Path(__file__).parent.parent.parent
PATIENCE = 300
LAUNCH = [sys.executable, "-m", "experiments.launch"]
# Few steps of a network that compiles at once, with all that is due on the way.
TRAINING = (
    "--config=configs/vae.py:smoke", "--config.network.name=dense", "--config.network.widths=(16,)", "--config.log.every=1",
    "--config.sample.num=8", "--config.sample.batch_size=8", "--config.eval.num=10", "--config.eval.batch_size=8",
    "--config.checkpoint.every=2",
)  # fmt: skip


def script(text):
    """A command that sees number of its process as `me` and its other flags as `flags`."""
    head = "import os, signal, sys, time; flags = dict(a.lstrip('-').split('=') for a in sys.argv[1:])\n"
    return ["-c", f"{head}me = int(flags['process_id'])\n{text}"]


def test_each_process_is_told_who_it_is(tmp_path):
    told = "open(f'{flags[\"to\"]}/{me}', 'w').write(str([flags['coordinator'], flags['num_processes'], dict(os.environ)]))"
    assert launching.launch([*script(told), f"--to={tmp_path}"], 3, devices=2) == 0
    found = [eval((tmp_path / str(i)).read_text()) for i in range(3)]
    assert len({address for address, *_ in found}) == 1 and {number for _, number, _ in found} == {"3"}
    assert [environment["CUDA_VISIBLE_DEVICES"] for *_, environment in found] == ["0,1", "2,3", "4,5"]
    assert all(
        environment["XLA_FLAGS"].split().count("--xla_force_host_platform_device_count=2") == 1 for *_, environment in found
    )


def test_of_visible_gpus_each_process_gets_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7a,6")
    told = "open(f'{flags[\"to\"]}/{me}', 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])"
    assert launching.launch([*script(told), f"--to={tmp_path}"], 3) == 0
    assert [(tmp_path / str(i)).read_text() for i in range(3)] == ["4", "GPU-7a", "6"]
    with pytest.raises(errors.UserError, match="4 devices are asked for, and CUDA_VISIBLE_DEVICES=4,GPU-7a,6 names 3"):
        launching.launch(script("pass"), 2, devices=2)


def test_one_that_fails_ends_all_with_its_code_and_its_words(capfd):
    assert launching.launch(script("if me == 1: sys.exit('no such thing' and 3)\ntime.sleep(600)"), 3) == 3
    assert launching.launch(script("if me == 2: print('here', flush=True); os.kill(os.getpid(), 9)\ntime.sleep(600)"), 3) == 1
    error = capfd.readouterr().err
    assert "process 1 ended with exit code 3: stopping the others" in error
    assert "[2] here\n" in error and "process 2 was ended by SIGKILL" in error


def launched(workdir, *flags, processes=2, devices=4):
    return [*LAUNCH, f"--processes={processes}", f"--devices={devices}", "--", *TRAINING, f"--workdir={workdir}", *flags]


def finish(command, code=0):
    """The lines on stderr of a command that ends with this code."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == code, done.stderr[-2000:]
    return done.stderr


def losses(workdir):
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {(row["step"], key): row[key] for row in rows for key in ("loss", "eval/loss") if key in row}


def assert_same(found, expected):
    assert found.keys() == expected.keys() and len(expected) > 7
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), rtol=1e-5)


def test_nothing_to_start_is_an_error():
    assert "error: there is nothing to start: write -- and the flags" in finish([*LAUNCH, "--processes=2"], code=2)


@pytest.mark.faults
def test_processes_and_devices_may_change_between_starts(tmp_path):
    """One process of eight devices, two of four, and starts of two of four, one of two, and four of one train the same."""
    one = [sys.executable, "-m", "experiments.main", *TRAINING, f"--workdir={tmp_path / 'one'}", "--config.duration=8"]
    finish(one)
    finish(launched(tmp_path / "two", "--config.duration=8"))
    assert_same(losses(tmp_path / "two"), losses(tmp_path / "one"))
    assert checkpoint.available_steps(tmp_path / "two" / run.CHECKPOINTS)[-1] == 8
    assert (tmp_path / "two/samples/8.png").read_bytes()
    for steps, processes, devices in ((3, 2, 4), (5, 1, 2), (8, 4, 1)):
        finish(launched(tmp_path / "changing", f"--config.duration={steps}", processes=processes, devices=devices))
    ours, theirs = losses(tmp_path / "changing"), losses(tmp_path / "one")
    shared = ours.keys() & theirs.keys()  # each end also measures
    assert_same({key: ours[key] for key in shared}, {key: theirs[key] for key in shared})


@pytest.mark.faults
@pytest.mark.parametrize("family", list(whole_runs.FAMILIES)[: None if whole_runs.TIMES > 1 else 1])
def test_a_run_of_four_processes_goes_on_in_one_of_eight_devices(family, tmp_path):
    """Divided in other ways, too, to the losses of one device."""
    # eps: so large that Adam makes no whole steps of the rounding in gradients near zero, and in those of absolute differences.
    eps = 1.0 if family in ("cyclegan", "pix2pix", "kl_autoencoder", "vqgan") else 1e-2
    flags = (f"--config=configs/{family}.py:smoke", *whole_runs.EVERY, *whole_runs.FAMILIES[family], "--config.batch_size=16")
    flags += ("--config.optimizer.schedule=constant", f"--config.optimizer.eps={eps}", "--config.sharding.min_size=64")

    def train(workdir, steps, processes, devices, preset):
        told = (f"--config.sharding.preset={preset}", f"--config.duration={steps}", f"--workdir={tmp_path / workdir}")
        finish([*LAUNCH, f"--processes={processes}", f"--devices={devices}", "--", *flags, *told])
        return whole_runs.logged(tmp_path / workdir)

    one = train("one", 12, 1, 1, "replicate")
    train("changing", 6, 4, 1, "fsdp")
    changing = train("changing", 12, 1, 8, "zero1")
    assert changing.keys() == one.keys() == set(range(1, 13))
    for step, (loss, *norms) in one.items():
        np.testing.assert_allclose(changing[step][0], loss, rtol=1e-5)
        rtol = 1e-3 if family == "cyclegan" else 1e-4  # its norms are 2e-4 apart
        np.testing.assert_allclose(changing[step][1:], norms, rtol=rtol, atol=1e-6)  # 0 of what has not begun


@pytest.mark.faults
def test_a_job_of_two_that_is_stopped_saves_and_one_whose_process_is_killed_ends_soon(tmp_path):
    endless = launched(tmp_path, "--config.duration=100000", "--config.eval.every=0", "--config.sample.every=0", devices=1)

    def started():
        job = subprocess.Popen(endless, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        before = checkpoint.available_steps(tmp_path / run.CHECKPOINTS)[-1:]
        while checkpoint.available_steps(tmp_path / run.CHECKPOINTS)[-1:] == before:
            assert job.poll() is None, job.stderr.read()
            time.sleep(0.2)
        return job

    job = started()
    job.send_signal(signal.SIGTERM)
    _, error = job.communicate(timeout=PATIENCE)
    assert job.returncode == 0 and "the same command continues" in error, error[-2000:]

    job = started()
    children = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[1]), signal.SIGKILL)
    _, error = job.communicate(timeout=60)
    assert job.returncode == 1
    assert "process 1 was ended by SIGKILL: stopping the others" in error
    assert checkpoint.available_steps(tmp_path / run.CHECKPOINTS)
