"""Steps that are not finite are left out, or gone back from, and the run is the one that the rule says."""

import dataclasses
from typing import ClassVar

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax.algorithms import base
from imagegen_jax.api import training
from imagegen_jax.training import checkpoint
from imagegen_jax.training import interruption
from imagegen_jax.training import logging
from imagegen_jax.training import nonfinite
from imagegen_jax.training import run

POISON = {"at": (), "first": None}  # steps whose gradient is not finite, if need be only in batches that begin with this image


@dataclasses.dataclass(frozen=True)
class Config:
    """No key."""


@dataclasses.dataclass(frozen=True)
class Counting(base.Algorithm):
    """Adds up the numbers of the images that it sees; a poisoned step spoils its parameters and says nothing of it."""

    Config: ClassVar[type] = Config
    optimized: ClassVar[bool] = False
    at: tuple[int, ...]
    first: int | None

    @classmethod
    def from_config(cls, config, spec, training):
        return cls(**POISON)

    def init(self, rng):
        return base.TrainState(jnp.int32(0), {"sum": {"x": jnp.float32(0)}}, {}, {}, {"seen": jnp.zeros(8, jnp.float32)})

    def train_step(self, state, batch, rng):
        index = batch["index"]
        bad = jnp.isin(state.step + 1, jnp.array([0, *self.at])) & ((self.first is None) | (index[0] == (self.first or 0)))
        x = state.params["sum"]["x"] + index.sum()
        seen = state.extra["seen"].at[state.step].set(index[0])
        state = state.replace(step=state.step + 1, params={"sum": {"x": jnp.where(bad, jnp.nan, x)}}, extra={"seen": seen})
        return state, {"loss": index.sum().astype(jnp.float32)}

    def eval_step(self, state, batch, rng):
        return {"loss": batch["index"].astype(jnp.float32)}


def trained(workdir, monkeypatch, at=(), first=None, **keys):
    """(the run.Run after six steps of 8 images with a checkpoint at each second, its lines of metrics)."""
    monkeypatch.setitem(POISON, "at", at)
    monkeypatch.setitem(POISON, "first", first)
    config = config_lib.default(f"{__name__}:Counting")
    config.batch_size = 8
    config.duration = "6 steps"
    config.log.every = config.checkpoint.every = "2 steps"
    config.sample.every = config.eval.every = "0"
    config.update(keys)
    with interruption.Interruption() as stop:
        training.train(config, workdir, stop)
    return run.load(workdir), list(logging.rows(workdir))


def test_a_skipped_step_leaves_the_state_and_the_means_as_they_were(tmp_path, monkeypatch):
    whole, rows = trained(tmp_path / "whole", monkeypatch)
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    skipping, rows = trained(tmp_path / "skipping", monkeypatch, at=(3,), on_nonfinite="skip")
    seen = np.asarray(skipping.state.extra["seen"])
    assert skipping.step == 6 and seen[2] == 0  # what the third step would have noted
    np.testing.assert_array_equal(np.delete(seen, 2), np.delete(whole.state.extra["seen"], 2))
    lines = {row["step"]: row for row in rows if "loss" in row}
    assert lines[4]["skipped_steps"] == 1 and "skipped_steps" not in lines[2] | lines[6]
    third = float(whole.state.params["sum"]["x"] - skipping.state.params["sum"]["x"])
    assert lines[4]["loss"] == 2 * losses[4] - third  # the fourth step's alone


def test_too_many_skipped_steps_in_a_row_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(nonfinite, "MOST_IN_A_ROW", 3)
    with pytest.raises(errors.UserError, match="step 4: 3 steps in a row were not finite and left out"):
        trained(tmp_path, monkeypatch, at=(2, 3, 4), on_nonfinite="skip")


def test_a_rollback_goes_on_from_the_last_checkpoint_with_other_batches(tmp_path, monkeypatch, capsys):
    whole, _ = trained(tmp_path / "whole", monkeypatch)
    was = np.asarray(whole.state.extra["seen"])
    back, rows = trained(tmp_path / "back", monkeypatch, at=(4,), first=int(was[3]), on_nonfinite="rollback")
    now = np.asarray(back.state.extra["seen"])
    np.testing.assert_array_equal(now[:2], was[:2])
    assert back.step == 6 and np.isfinite(back.state.params["sum"]["x"]) and (now[2:6] != was[2:6]).any()
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6] and {"rollbacks": 1}.items() <= rows[-3].items()
    assert "step 4: loss is nan: back to step 2, with other batches and noise (1 of 3)" in capsys.readouterr().err
    # Its checkpoints tell of it, so that a resumed run draws the batches that the whole one would have drawn.
    resumed, _ = trained(tmp_path / "back", monkeypatch, duration="8 steps")
    once, _ = trained(tmp_path / "once", monkeypatch, at=(4,), first=int(was[3]), on_nonfinite="rollback", duration="8 steps")
    np.testing.assert_array_equal(resumed.state.extra["seen"], once.state.extra["seen"])


def test_rollbacks_come_to_an_end_and_no_checkpoint_is_spoilt(tmp_path, monkeypatch, capsys):
    with pytest.raises(errors.UserError, match="step 4: loss is nan"):
        trained(tmp_path, monkeypatch, at=(4,), on_nonfinite="rollback", max_rollbacks=2)
    assert "(2 of 2)" in capsys.readouterr().err
    assert checkpoint.available_steps(tmp_path / run.CHECKPOINTS) == [2]
    assert np.isfinite(run.load(tmp_path).state.params["sum"]["x"])


def test_a_guarded_step_that_is_finite_is_the_step(monkeypatch):
    state = Counting((), None).init(None)
    batch = {"index": jnp.arange(8)}
    steps = [jax.jit(nonfinite.guarded(Counting((), None).train_step, rule)) for rule in ("stop", "skip", "rollback")]
    expected, metrics = steps[0](state, batch, None)
    for step in steps[1:]:
        found, measured = step(state, batch, None)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        assert measured["loss"] == metrics["loss"] and measured.get(nonfinite.SKIPPED, 0) == 0
