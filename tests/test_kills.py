"""SIGKILL, again and again: at random instants of trainings of all families, and before each change that one makes to its disk.

`python -m pytest -m faults tests/test_kills.py` kills some twenty times; with FAULTS=10 before it more than three hundred. Each
run must end in the same bits as one that nobody killed, with the same losses at every step and the same pictures. Beside them
stand a full disk and a long training, which must take no more of the machine at its end than at its beginning.
"""

import json
import os
import pathlib
import random
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time

import pytest
import whole_runs

from imagegen_jax.training import checkpoint
from imagegen_jax.training import run

pytestmark = pytest.mark.faults

ROOT = pathlib.Path(__file__).parent.parent
PATIENCE = 300  # seconds
DENSE = ("--config=configs/vae.py:smoke", "--config.network.name=dense", "--config.network.widths=(16,)", *whole_runs.EVERY)
KILLS = 2 if whole_runs.TIMES == 1 else whole_runs.TIMES  # of each family; CI kills the first two

# Forks a training for each line of its input, from a process that has imported what takes the time. With a number the training
# kills itself before the so many-th thing that it does in its workdir: opening a file to write, renaming, making, removing.
FORKER = """
import json, os, runpy, signal, sys
from imagegen_jax.evaluation import evaluator, tracking
from imagegen_jax.generation import output, sampling
from imagegen_jax.training import checkpoint, interruption, logging, loop, run

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.utime"}

def watch(workdir, last):
    count = 0
    def hook(event, words):
        nonlocal count
        writes = event == "open" and words[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writes or event in CHANGES) and str(words[0]).startswith(workdir):
            count += 1
            os.pwrite(counted, str(count).encode(), 0)
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
    counted = os.open(workdir + ".count", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    sys.addaudithook(hook)

for line in sys.stdin:
    words, workdir, last = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(workdir + ".stderr", os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
        watch(workdir, last)
        sys.argv = ["main", *words, "--workdir=" + workdir]
        runpy.run_module("experiments.main", run_name="__main__")
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forker:
    """Starts trainings one after the other."""

    def __init__(self):
        words = [sys.executable, "-c", FORKER]
        self._process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def run(self, words, workdir, kill_after=None, kill_before=None):
        """Trains; returns 'killed' or 'ended'.

        Args:
          words: the flags.
          workdir: the folder.
          kill_after: seconds.
          kill_before: the number of a change of the disk, from 1.
        """
        self._process.stdin.write(json.dumps([words, str(workdir), kill_before]).encode() + b"\n")
        child = int(self._process.stdout.readline())
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE if kill_after is None else kill_after)
        if not ready:
            assert kill_after is not None, f"it hangs: {self.said(workdir)}"
            os.kill(child, signal.SIGKILL)
        code = int(self._process.stdout.readline())
        assert code in (0, -signal.SIGKILL), self.said(workdir)
        return "ended" if code == 0 else "killed"

    def said(self, workdir):
        """The end of what the trainings in a folder have said."""
        return pathlib.Path(f"{workdir}.stderr").read_text()[-2000:]

    def close(self):
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture(scope="module")
def forker():
    forker = Forker()
    yield forker
    forker.close()


def check_whole(workdir, forker):
    """Nothing half-written is left beside the checkpoints, and nothing that a training said is a traceback."""
    names = [entry.name for entry in (workdir / run.CHECKPOINTS).iterdir()]
    assert all(name.isdigit() for name in names), names
    assert "Traceback" not in forker.said(workdir)


@pytest.mark.parametrize("family", list(whole_runs.FAMILIES)[: None if whole_runs.TIMES > 1 else 2])
def test_killed_at_random_instants(family, forker, tmp_path):
    flags = (f"--config=configs/{family}.py:smoke", *whole_runs.EVERY, *whole_runs.FAMILIES[family])
    forker.run(flags, tmp_path / "first")  # compiles
    begin = time.monotonic()
    forker.run(flags, tmp_path / "reference")
    whole = time.monotonic() - begin
    instants = random.Random(family)
    killed = 0
    while killed < KILLS:
        if forker.run(flags, tmp_path / "run", kill_after=instants.uniform(0.2, 0.9) * whole) == "killed":
            killed += 1
        else:  # the kills before it have left little to do
            whole_runs.assert_same_training(tmp_path / "run", tmp_path / "reference")
            shutil.rmtree(tmp_path / "run")
    assert forker.run(flags, tmp_path / "run") == "ended"
    whole_runs.assert_same_training(tmp_path / "run", tmp_path / "reference")
    whole_runs.assert_same_pictures(tmp_path / "run", tmp_path / "reference")  # which a classifier has none of
    check_whole(tmp_path / "run", forker)


@pytest.mark.parametrize("part", range(4))
def test_killed_before_each_change_of_the_disk(part, forker, tmp_path):
    """At each phase of a save, of a log's line, of a picture; with FAULTS=10 at each single one."""
    reference = tmp_path / "reference"
    forker.run(DENSE, reference)
    changes = int(pathlib.Path(f"{reference}.count").read_text())
    assert changes > 100
    for before in range(1 + 5 * part, changes + 1, 20 // min(whole_runs.TIMES, 10) * 2):
        workdir = tmp_path / str(before)
        # Threads write side by side, and so a run can have one change fewer than the reference.
        if forker.run(DENSE, workdir, kill_before=before) == "killed":
            assert forker.run(DENSE, workdir) == "ended"
        whole_runs.assert_same_run(workdir, reference)
        check_whole(workdir, forker)


@pytest.mark.parametrize("number", range(whole_runs.TIMES))
def test_a_process_of_two_is_killed(number, tmp_path):
    """At a random instant: the job ends within a minute with the reason, and goes on as if nothing had been."""
    words = [sys.executable, "-m", "experiments.launch", "--processes=2", "--", *DENSE]

    def start(workdir):
        return subprocess.Popen([*words, f"--workdir={workdir}"], cwd=ROOT, stderr=subprocess.PIPE, text=True)

    begin = time.monotonic()
    job = start(tmp_path / "reference")
    _, error = job.communicate(timeout=PATIENCE)
    assert job.returncode == 0, error[-2000:]
    instant = random.Random(number).uniform(0.3, 0.9) * (time.monotonic() - begin)
    for earlier in (0.8**n for n in range(6)):
        job = start(tmp_path / "run")
        try:
            job.wait(instant * earlier)
        except subprocess.TimeoutExpired:
            children = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True).stdout.split()
            if len(children) == 2:  # otherwise one has ended
                os.kill(int(children[number % 2]), signal.SIGKILL)
        _, error = job.communicate(timeout=60)
        if job.returncode != 0:
            break
        # The machine was slower when the reference ran, and this one ended before the kill.
        whole_runs.assert_same_training(tmp_path / "run", tmp_path / "reference")
        shutil.rmtree(tmp_path / "run")
    assert job.returncode == 1 and f"process {number % 2} was ended by SIGKILL: stopping the others" in error, error[-2000:]
    job = start(tmp_path / "run")
    _, error = job.communicate(timeout=PATIENCE)
    assert job.returncode == 0, error[-2000:]
    whole_runs.assert_same_training(tmp_path / "run", tmp_path / "reference")
    assert checkpoint.available_steps(tmp_path / "run" / run.CHECKPOINTS)[-1] == 12


def test_a_full_disk(tmp_path):
    """A tmpfs of 1.5 MB: what was saved stays, one line says so, and with more room the run goes on to the same end."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk of his own")
    flags = [*DENSE, "--config.duration=200", "--config.checkpoint.every=5", "--config.checkpoint.keep=99"]
    flags += ["--config.sample.every=0", "--config.eval.every=0"]
    train = [sys.executable, "-m", "experiments.main", *flags]
    disk = tmp_path / "disk"
    disk.mkdir()
    script = """
mount -t tmpfs -o size=1500k tmpfs "$0" || exit 99
"$@" --workdir="$0/run" 2> "$0.first"; echo $? > "$0.code"; ls "$0/run/checkpoints" > "$0.saved"
mount -o remount,size=100m "$0"
"$@" --workdir="$0/run" 2> "$0.second"; cp -r "$0/run" "$0.run"
"""
    subprocess.run(["unshare", "-rm", "bash", "-c", script, str(disk), *train], cwd=ROOT, timeout=PATIENCE, check=True)
    first = pathlib.Path(f"{disk}.first").read_text().splitlines()
    saved = sorted(int(name) for name in pathlib.Path(f"{disk}.saved").read_text().split() if name.isdigit())
    assert pathlib.Path(f"{disk}.code").read_text() == "2\n"
    assert len([line for line in first if "steps, loss" not in line]) == 1, first
    assert (
        f"(No space left on device): free the disk and start again; the last good checkpoint is step {saved[-1]}" in first[-1]
    )
    assert f"continuing from step {saved[-1]}" in pathlib.Path(f"{disk}.second").read_text()
    done = subprocess.run([*train, f"--workdir={tmp_path / 'reference'}"], cwd=ROOT, timeout=PATIENCE, capture_output=True)
    assert done.returncode == 0
    whole_runs.assert_same_training(pathlib.Path(f"{disk}.run"), tmp_path / "reference")


def test_a_long_training_takes_no_more_and_more(tmp_path):
    """Memory, open files and threads after the first tenth and at the end; 20,000 steps with FAULTS=10."""
    steps = 2000 * whole_runs.TIMES
    flags = [*DENSE, f"--config.duration={steps}", "--config.checkpoint.every=100", "--config.log.every=10"]
    flags += ["--config.sample.every=100", "--config.eval.every=100", f"--workdir={tmp_path}"]
    with open(tmp_path / "stderr", "w") as said:
        job = subprocess.Popen([sys.executable, "-m", "experiments.main", *flags], cwd=ROOT, stderr=said)
    process, seen = pathlib.Path(f"/proc/{job.pid}"), []
    while True:
        try:
            job.wait(0.2)
            break
        except subprocess.TimeoutExpired:
            status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            log = tmp_path / "metrics.jsonl"
            done = json.loads(log.read_text().splitlines()[-1])["step"] if log.exists() and log.read_text() else 0
            if "VmRSS" in status:  # which a process that ends has no more
                files = len(list((process / "fd").iterdir()))
                seen.append((done, int(status["VmRSS"].split()[0]) / 1024, files, int(status["Threads"])))
    assert job.returncode == 0, (tmp_path / "stderr").read_text()[-2000:]

    def usual(begin, end):
        """(MB at most, medians of files and threads, of which a save has some for a moment) from one share of the steps on."""
        megabytes, files, threads = zip(*(row[1:] for row in seen if begin * steps <= row[0] < end * steps))
        return max(megabytes), statistics.median(files), statistics.median(threads)

    early, late = usual(0.1, 0.3), usual(0.8, 1)
    print(f"{steps} steps; MB, files and threads: {early} in the beginning, {late} at the end")
    assert late[0] < early[0] + 30 and late[1] <= early[1] + 3 and late[2] <= early[2] + 3
