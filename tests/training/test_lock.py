"""A folder that is being trained, and whom it belongs to."""

import os
import subprocess
import sys

import pytest

from imagegen_jax import errors
from imagegen_jax.training import lock


def test_a_second_training_is_refused_and_told_whose_the_folder_is(tmp_path):
    workdir = tmp_path / "runs" / "a"
    with lock.owned(workdir):
        (workdir / "config.json").write_text("{}")
        with (
            pytest.raises(errors.UserError, match=f"process {os.getpid()} on .* since 20.*another --workdir"),
            lock.owned(workdir),
        ):
            pass
        with lock.owned(tmp_path / "runs" / "b"):
            pass
    with lock.owned(workdir):  # it is free again
        pass
    assert [path.name for path in workdir.iterdir()] == ["config.json"]
    assert [path.name for path in workdir.parent.iterdir()] == ["a"]


def test_the_same_command_twice_touches_nothing(tmp_path, command):
    workdir = tmp_path / "run"
    with lock.owned(workdir):
        for word in ("", "--checkpoint=3"):
            with pytest.raises(errors.UserError, match="is being trained by process"):
                command("main")("--config=configs/vae.py:smoke", f"--workdir={workdir}", *filter(None, [word]))
        assert [path.name for path in workdir.iterdir()] == ["lock"]


def test_the_lock_dies_with_its_process(tmp_path):
    """And what it leaves behind says nothing of the next owner."""
    code = f"""
import os
from imagegen_jax.training import lock
with lock.owned({str(tmp_path)!r}):
    os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert (tmp_path / "lock").exists()
    with lock.owned(tmp_path):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_folder_in_which_nothing_came_to_be_is_removed_with_those_above_it(tmp_path):
    with pytest.raises(ZeroDivisionError), lock.owned(tmp_path / "a" / "b"):
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_a_note(tmp_path, monkeypatch, capsys):
    def flock(file, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with lock.owned(tmp_path / "a"):
        pass
    assert "cannot be locked (Operation not supported)" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named_with_the_reason(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(errors.UserError, match="cannot write to the workdir .*file/run: Not a directory"),
        lock.owned(tmp_path / "file/run"),
    ):
        pass
