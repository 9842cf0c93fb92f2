"""Runs of a loop without a network that are stopped, killed and started again: they end as if nothing had been."""

import contextlib
import types

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax.training import checkpoint
from imagegen_jax.training import interruption
from imagegen_jax.training import logging
from imagegen_jax.training import loop
from imagegen_jax.training import preservation
from imagegen_jax.training import run
from imagegen_jax.training import sharding

STEPS = 6
TIMES = {"seconds", "images_per_second", "data_wait_fraction", "hook_seconds"}
LOSSES = {2: 0.3, 4: 0.5, 6: 0.4}  # held-out


class Killed(BaseException):
    """What no one catches."""


def start(workdir, stop_at=None, stop_in=None, kill_in=None, total=STEPS, steps_per_call=1, **policy):
    """One start of the run, as experiments.main has it: to the end, or to where it is stopped or killed.

    The state is a sum of batches. Every second step is measured and drawn, every third has a checkpoint, a line is written at
    each fourth; `stop_in` and `kill_in` name the step in whose hooks it ends, after the first of the two.
    """
    folder = workdir / run.CHECKPOINTS
    mesh = sharding.make_mesh(8)
    state = {"x": jax.device_put(jnp.float32(0.1), sharding.replicated(mesh))}
    position = checkpoint.Position(0, 0.0, 1, "")
    if checkpoint.available_steps(folder):
        shape = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        state, position = checkpoint.Checkpointer(folder, read_only=True).restore(None, shape)
        position = loop.still_due(position, logging.rows(workdir))
    scores = run.scores(workdir, "eval/loss", position.step)

    def measure(step, state, writer):
        return {"eval/loss": LOSSES[step]}

    def draw(step, state, writer):
        if step == stop_in:
            raise interruption.StopRequested
        if step == kill_in:
            raise Killed
        (workdir / f"{step}.txt").write_text(str(state["x"]))
        return {}

    def step_fn(state, batch, rng):
        with jax.transfer_guard("allow"):
            batches, n = batch if steps_per_call > 1 else (batch[None], 1)
            x = state["x"] + jnp.cumsum(batches.sum(1) / 3)  # those behind the n-th are no batches of this call
            return {"x": x[int(n) - 1]}, {"loss": x if steps_per_call > 1 else x[0]}

    policy = preservation.Policy(**{"latest": 1, "cadence": 3, "metric": "eval/loss", "scores": scores} | policy)
    with (
        checkpoint.Checkpointer(folder, policy) as checkpointer,
        contextlib.closing(logging.MetricWriter(workdir, position.step)) as writer,
    ):
        return loop.train(
            state,
            position,
            step_fn=step_fn,
            rng=None,
            batches=(np.full(8, step, np.float32) for step in range(position.step, total)),
            mesh=mesh,
            batch_size=8,
            steps_per_call=steps_per_call,
            total_steps=total,
            log_every=4,
            checkpoint_every=3,
            hooks=[loop.Hook(2, measure), loop.Hook(2, draw)],
            checkpointer=checkpointer,
            writer=writer,
            progress=types.SimpleNamespace(count=lambda: None, show=lambda numbers: None),
            stop=types.SimpleNamespace(agreed=lambda step, pause: stop_at is not None and step >= stop_at),
        )[1]


def outcome(workdir):
    """All that is left of a run but times: its metrics, pictures, checkpoints and last state."""
    rows = [{name: value for name, value in row.items() if name not in TIMES} for row in logging.rows(workdir)]
    pictures = {path.name: path.read_text() for path in workdir.glob("*.txt")}
    shape = {"x": jax.ShapeDtypeStruct((), jnp.float32, sharding=sharding.replicated(sharding.make_mesh(8)))}
    folder = workdir / run.CHECKPOINTS
    state, position = checkpoint.Checkpointer(folder, read_only=True).restore(None, shape)
    assert not position.extra and position.interval == {}
    return rows, pictures, checkpoint.available_steps(folder), float(state["x"])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    assert start(workdir).step == STEPS
    rows, pictures, steps, x = found = outcome(workdir)
    assert [row["step"] for row in rows if "loss" in row] == [2, 3, 4, 6]
    assert {row["step"]: row["eval/loss"] for row in rows if "eval/loss" in row} == LOSSES
    assert set(pictures) == {"2.txt", "4.txt", "6.txt"} and steps == [6]
    np.testing.assert_allclose(x, 0.1 + 8 * sum(range(STEPS)) / 3, rtol=1e-6)
    return found


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_run_stopped_at_any_step_ends_as_if_it_had_not_been(tmp_path, uninterrupted, step):
    """Also at the last: its grid and its metrics are still to come."""
    at = start(tmp_path, stop_at=step)
    assert at.step == step and at.due == (step % 2 == 0)
    assert start(tmp_path).step == STEPS
    assert outcome(tmp_path) == uninterrupted


def test_one_that_is_trained_further_than_it_is_to_be_draws_what_is_due(tmp_path):
    with pytest.raises(Killed):
        start(tmp_path, kill_in=6)
    assert start(tmp_path, total=4).step == 6
    assert (tmp_path / "6.txt").exists()


@pytest.mark.parametrize(("step", "end"), [(1, 2), (3, 3), (5, 6)])
def test_so_does_one_of_several_steps_a_call(tmp_path, uninterrupted, step, end):
    """A call ends where anything is due: at 2, 3, 4 and 6."""
    assert start(tmp_path, stop_at=step, steps_per_call=4).step == end
    assert start(tmp_path, steps_per_call=4).step == STEPS
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.parametrize("step", [4, 6])
@pytest.mark.parametrize("how", ["stop_in", "kill_in"])
def test_what_ends_a_hook_loses_neither_the_steps_before_it_nor_what_was_due(tmp_path, uninterrupted, step, how):
    with contextlib.suppress(Killed):
        start(tmp_path, **{how: step})
    assert checkpoint.available_steps(tmp_path / run.CHECKPOINTS)[-1] == step
    with contextlib.suppress(Killed):
        start(tmp_path, **{how: step})  # and again
    assert start(tmp_path).step == STEPS
    assert outcome(tmp_path) == uninterrupted


def test_hooks_that_ran_after_their_checkpoint_do_not_run_again(tmp_path, monkeypatch):
    start(tmp_path)
    (tmp_path / "6.txt").unlink()
    monkeypatch.setitem(LOSSES, 7, 0.2)
    assert start(tmp_path, total=7).step == 7
    assert not (tmp_path / "6.txt").exists()


def test_the_best_checkpoint_survives_a_restart(tmp_path, monkeypatch):
    """Its score is read from the metrics, so that it does not matter which version wrote the checkpoint."""
    for step, loss in ((6, 0.1), (8, 0.2), (9, 0.5), (10, 0.2), (12, 0.3)):
        monkeypatch.setitem(LOSSES, step, loss)
    start(tmp_path, total=6)
    start(tmp_path, total=9)
    assert checkpoint.available_steps(tmp_path / run.CHECKPOINTS) == [6, 9]
    start(tmp_path, total=12)
    assert checkpoint.available_steps(tmp_path / run.CHECKPOINTS) == [6, 12]
