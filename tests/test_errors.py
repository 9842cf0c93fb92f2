"""What a person types wrong: one line on stderr that names it, exit code 2, nothing written."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from imagegen_jax import command_line

ROOT = pathlib.Path(__file__).parent.parent
SMOKE = "--config=configs/ddpm.py:smoke"
SOONER = "--config=configs/vae.py:smoke"  # where the networks are built before the mistake is found
MISTAKES = [
    ([SMOKE, "--config.optimiser.lr=1"], ["optimiser", "optimizer"]),
    ([SMOKE, "--config.optimizer.lrr=1"], ["there is no --config.optimizer.lrr", '"lr"']),
    ([SMOKE, "--config.batch_size=abc"], ["batch_size", "abc"]),
    ([SOONER, "--config.batch_size=6"], ["6", "8 devices", "--config.batch_size"]),
    ([SMOKE, "--config.network.patch_size=3"], ["patch_size", "28x28"]),
    ([SOONER, "--config.checkpoint.best_metric=eval/los"], ["is not measured: did you mean eval/loss?"]),
    ([SOONER, "--config.eval.samples=16", "--config.checkpoint.best_metric=eval/FID"], ["eval/fid", "eval/classes_covered"]),
    ([SOONER, "--config.eval.every=0", "--config.checkpoint.best_metric=eval/loss"], ["--config.eval.every"]),
    ([SOONER, "--config.init_from=nowhere:5"], ["nowhere is not the folder of a run"]),
    ([SOONER, "--checkpoint=last"], ["number of a step, latest or best"]),
    ([SMOKE, "--config.mesh.data=3"], ["config.mesh.data=3, config.mesh.fsdp=-1", "8 devices"]),
    ([SMOKE, "--config.mesh.data=-1"], ["config.mesh.data", "in one of the two"]),
    ([SOONER, "--config.sharding.rules=(('.*','shard'),)"], ["config.sharding.rules", "fsdp"]),
    (["--config=configs/nothing.py"], ["configs/nothing.py"]),
    (["--config=configs/ddpm.py:imagenet"], ["imagenet", "cifar10"]),
    ([SMOKE, "--nonsense=1"], ["nonsense"]),
    ([SMOKE, "--config.data.source=folder:nowhere"], ["nowhere"]),
    (["--config=configs/latent_diffusion.py:smoke"], ["config.first_stage.workdir is missing"]),
    (["--config=configs/kl_autoencoder.py:smoke", "--config.data.channels=3"], ["fashion", "28x28x1", "28x28x3"]),
    ([], ["--config"]),
]
OTHERS = [
    (["edit"], 2, "error: the verb is missing: write one of translate"),
    (["edit", "colour"], 2, "error: there is no verb 'colour': write one of translate"),
    (["edit", "reconstruct", "--workdir=~/caf\udce9", "--out=x.png"], 2, "caf\\udce9 is not the folder of a run"),
    (["edit", "translate", "--help"], 0, "translate            images of one domain"),
    (["sample", "--help"], 0, "--eta"),
    (["sample", "--workdir=x", "--out=x.png", "--num=ten"], 2, "error: flag --num=ten: "),
]
# A process for each command, forked from one that has imported what takes the time: most of a start.
DRIVER = """
import json, os, runpy, sys
from imagegen_jax.evaluation import evaluator, tracking
from imagegen_jax.generation import output, sampling
from imagegen_jax.training import interruption, logging, loop, run
for number, (command, *words) in enumerate(json.loads(sys.argv[1])):
    if os.fork() == 0:
        for stream, name in (1, "stdout"), (2, "stderr"):
            os.dup2(os.open(f"{sys.argv[2]}/{number}.{name}", os.O_CREAT | os.O_WRONLY), stream)
        sys.argv = [command, *words]
        runpy.run_module(f"experiments.{command}", run_name="__main__", alter_sys=True)
    print("exit code", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """(exit code, stdout, stderr, its workdir) of MISTAKES; of OTHERS, which are given none; and of one within a file."""
    written = tmp_path_factory.mktemp("errors")
    (written / "file").write_text("in the way")
    given = [(["main", *flags], written / "runs" / str(number)) for number, (flags, _) in enumerate(MISTAKES)]
    given += [*((words, None) for words, *_ in OTHERS), (["main", SMOKE], written / "file" / "run")]
    commands = [[*words, f"--workdir={workdir}"] if workdir else words for words, workdir in given]
    driver = [sys.executable, "-c", DRIVER, json.dumps(commands), str(written)]
    done = subprocess.run(driver, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    codes = [int(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("exit code")]
    said = [[(written / f"{number}.{name}").read_text() for name in ("stdout", "stderr")] for number in range(len(commands))]
    return [(code, *both, workdir) for code, both, (_, workdir) in zip(codes, said, given, strict=True)]


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=lambda number: " ".join(MISTAKES[number][0][-1:]))
def test_one_line_and_nothing_written(outcomes, number):
    code, _, error, workdir = outcomes[number]
    assert code == 2 and error.count("\n") == 1 and error.startswith("error: "), error
    for word in MISTAKES[number][1]:
        assert word in error
    assert not workdir.exists()


@pytest.mark.parametrize("number", range(len(OTHERS)), ids=lambda number: " ".join(OTHERS[number][0][:2]))
def test_other_commands_have_one_line_too(outcomes, number):
    code, output, error, _ = outcomes[len(MISTAKES) + number]
    assert code == OTHERS[number][1] and OTHERS[number][2] in (error if code else output)
    assert error.count("\n") == (1 if code else 0)


def test_workdir_that_cannot_be_made(outcomes):
    code, _, error, workdir = outcomes[-1]
    assert code == 2 and "cannot write to the workdir" in error and error.count("\n") == 1
    assert workdir.parent.read_text() == "in the way"


def test_home_folders_are_those_that_a_shell_means(monkeypatch):
    """Which shells leave as they are behind --name=."""
    monkeypatch.setenv("HOME", "/home/me")
    for word, meant in {
        "--workdir=~/runs/x": "--workdir=/home/me/runs/x",
        "--workdir=~": "--workdir=/home/me",
        "--input=~/a.png,~/b.png": "--input=/home/me/a.png,/home/me/b.png",
        "--config.data.source=folder:~/photos": "--config.data.source=folder:/home/me/photos",
        "--out=a~/b": "--out=a~/b",
        "--out=/x/~/b": "--out=/x/~/b",
        "--label=3": "--label=3",
    }.items():
        assert command_line._at_home(word) == meant


@pytest.mark.faults
@pytest.mark.parametrize("words", ["benchmark --config=configs/vae.py:smoke --projection", "sample --help"])
def test_a_reader_that_has_seen_enough_is_no_error(words):
    command = f"{sys.executable} -m experiments.{words} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stderr == "" and done.returncode in (0, 1)


def test_a_command_starts_again_once_with_huge_pages():
    """As `python -m` imports the package: what comes then is the interpreter's own command line, in the new environment."""
    setting = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[madvise]" not in setting.read_text():
        pytest.skip("the kernel gives huge pages to all or to none")
    again = "import os; print(os.environ['GLIBC_TUNABLES'])"
    first = f"import sys; sys.argv = ['-m']; sys.orig_argv = ['python', '-c', {again!r}]; import experiments; print('went on')"
    outcomes = {}
    for given in ({}, {"GLIBC_TUNABLES": "glibc.malloc.check=0"}):
        environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | given
        done = subprocess.run([sys.executable, "-c", first], cwd=ROOT, env=environment, capture_output=True, text=True)
        outcomes[bool(given)] = done.stdout.strip()
    assert outcomes == {False: "glibc.malloc.hugetlb=1", True: "went on"}


def test_garbage_is_searched_for_once_a_command_has_been_imported():
    """And not in what was imported. Whoever imports the commands' modules decides for themselves."""
    told = "; import gc; from imagegen_jax import command_line; before = gc.isenabled()"
    told += "; command_line.run(lambda: print(before, gc.isenabled(), gc.get_freeze_count() > 1e5))"
    environment = os.environ | {"GLIBC_TUNABLES": ""}
    printed = []
    for how in ("import sys; sys.argv = ['-m']; import experiments", "import experiments"):
        done = subprocess.run([sys.executable, "-c", how + told], cwd=ROOT, env=environment, capture_output=True, text=True)
        printed.append(done.stdout.split())
    assert printed == [["False", "True", "True"], ["True", "True", "False"]]
