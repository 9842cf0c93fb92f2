"""Checkpoints: what is kept, what survives donation and a full disk."""

import errno
import pathlib
import shutil
import subprocess
import sys

import chex
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax import errors
from imagegen_jax.algorithms import base
from imagegen_jax.training import checkpoint
from imagegen_jax.training import preservation
from imagegen_jax.training import run


def position(step):
    return checkpoint.Position(step=step, seconds=1.5, records=10, fingerprint="abc")


def test_the_latest_and_the_best_are_kept_though_scores_come_after_the_checkpoint(tmp_path):
    with checkpoint.Checkpointer(tmp_path, preservation.Policy(latest=2, metric="eval/loss")) as checkpointer:
        for step, loss in enumerate([0.5, 0.2, 0.4, 0.3, 0.6], start=1):
            checkpointer.save({"x": jnp.full(4, step)}, position(step))
            checkpointer.measured(step, {"eval/loss": loss})
    assert checkpoint.available_steps(tmp_path) == [2, 4, 5]


def test_what_a_checkpoint_has_under_an_older_name_is_found(tmp_path):
    """Also in the averages' parts, though one average did not exist then."""

    def state(stats, first_stage, ema):
        power = {"0.1": {"params": {}, "extra": {stats: jnp.full(2, 3.0)}}}
        extra = {stats: jnp.full(2, 1.0), first_stage: jnp.full(2, 4.0), "pool": jnp.full(2, 5.0)}
        return base.TrainState(jnp.int32(1), {"vae": jnp.full(2, 6.0)}, {}, {}, extra | {"ema": ema, "power_ema": power})

    with checkpoint.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(state("batch_stats", "vqvae", {"batch_stats": jnp.full(2, 2.0)}), position(1))
    asked = state("vae_stats", "first_stage", {"vae_stats": jnp.full(2, 2.0), "pool": jnp.full(2, 5.0)})
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), asked)
    chex.assert_trees_all_equal(checkpoint.Checkpointer(tmp_path, read_only=True).restore(1, shapes)[0], asked)


def test_a_saved_state_is_not_touched_by_the_steps_after_it(tmp_path):
    """The buffers are donated while the checkpoint is still being written."""
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros((512, 1024))
    with checkpoint.Checkpointer(tmp_path, preservation.Policy(latest=3)) as checkpointer:
        for i in range(3):
            checkpointer.save({"x": x}, position(i))
            for _ in range(5):
                x = step(x)
    shape = {"x": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)}
    for i in range(3):
        state, at = checkpoint.Checkpointer(tmp_path, read_only=True).restore(i, shape)
        np.testing.assert_array_equal(state["x"], 5 * i)
        assert at == position(i)


def test_too_small_a_disk_is_noticed_before_the_training(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    run.check_space(tmp_path, {"x": jax.ShapeDtypeStruct((100,), jnp.float32)})
    with pytest.raises(errors.UserError, match="1 MB free and two checkpoints need 8 MB"):
        run.check_space(tmp_path, {"x": jax.ShapeDtypeStruct((1000, 1000), jnp.float32)})


def test_a_write_that_fails_keeps_the_checkpoints_before_it(tmp_path):
    """The kernel refuses to let any file grow beyond 64 KiB, as a full disk would, in a process of its own."""
    code = f"""
import resource, signal
from jax import numpy as jnp
import numpy as np
from imagegen_jax import errors
from imagegen_jax.algorithms import base
from imagegen_jax.training import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
position = lambda step: checkpoint.Position(step, 0.0, 1, "")
try:
    with checkpoint.Checkpointer({str(tmp_path)!r}) as checkpointer:
        checkpointer.save({{"x": jnp.zeros(4)}}, position(1))
        checkpointer.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
        checkpointer.save({{"x": jnp.asarray(np.random.default_rng(0).random(10**6))}}, position(2))
except errors.UserError as error:
    print(error)
"""
    root = pathlib.Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert (
        "cannot write a checkpoint" in done.stdout and "(File too large): the last good checkpoint is step 1" in done.stdout
    ), done.stderr[-2000:]
    assert checkpoint.available_steps(tmp_path) == [1]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "…"), "No space left on device): free the disk"),
        (OSError(errno.EDQUOT, "…"), "quota exceeded): free the disk"),
        (ValueError("OUT_OF_RANGE: Error writing x [os_error_code='28']"), "No space left on device): free the disk"),
        (PermissionError(errno.EACCES, "…"), "Permission denied): there is none yet"),
        (FileNotFoundError(errno.ENOENT, "…"), "No such file or directory): there is none yet"),
        (ValueError("something else\nat length"), "(something else): there is none yet"),
    ],
)
def test_a_write_that_fails_names_its_cause(tmp_path, monkeypatch, error, words):
    def save(*args, **kwargs):
        raise error

    with checkpoint.Checkpointer(tmp_path) as checkpointer:
        monkeypatch.setattr(checkpointer._manager, "save", save)
        with pytest.raises(errors.UserError) as raised:
            checkpointer.save({"x": jnp.zeros(4)}, position(1))
    assert words in str(raised.value) and ("free" in words) == ("free" in str(raised.value))
