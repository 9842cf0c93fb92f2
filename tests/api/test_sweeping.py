"""Sweeps: every combination is trained once, the best comes first, and what cannot be is refused before anything is trained."""

import dataclasses
import json
from typing import Annotated
from typing import ClassVar

from jax import numpy as jnp
import pytest

from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import keys
from imagegen_jax.algorithms import base
from imagegen_jax.api import sweeping
from imagegen_jax.training import interruption


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of a method whose held-out loss is known: |aim - 3| / step, and none where aim is 0."""

    aim: Annotated[float, keys.AtLeast(0)] = 1.0
    sizes: tuple[int, ...] = (1,)


@dataclasses.dataclass(frozen=True)
class Known(base.Algorithm):
    """That method."""

    Config: ClassVar[type] = Config
    optimized: ClassVar[bool] = False
    aim: float

    @classmethod
    def from_config(cls, config, spec, training):
        return cls(config.aim)

    def init(self, rng):
        return base.TrainState(jnp.int32(0), {}, {}, {}, {})

    def train_step(self, state, batch, rng):
        return state.replace(step=state.step + 1), {"loss": jnp.log(self.aim) + 0 * state.step}

    def eval_step(self, state, batch, rng):
        loss = jnp.full(len(batch["index"]), abs(self.aim - 3) / state.step)
        return {"loss": loss, "accuracy": 1 - loss}


def swept(workdir, *grid, **options):
    config = config_lib.default(f"{__name__}:Known")
    config.batch_size = config.eval.batch_size = config.eval.num = 8
    config.duration = "4 steps"
    config.log.every = config.eval.every = config.checkpoint.every = "2 steps"
    config.sample.every = "0"
    with interruption.Interruption() as stop:
        return sweeping.sweep(config, grid, workdir, stop, **options)


def test_the_best_comes_first_and_what_is_trained_is_not_trained_again(tmp_path, capsys):
    grid = ("aim:1,2.5,0", "sizes:(1,2),(3,)")
    results = swept(tmp_path, *grid)
    names = [f"aim={aim},sizes={sizes}" for aim in (2.5, 1, 0) for sizes in ((1, 2), (3,))]
    assert [one["name"] for one in results] == names
    assert [one["last"] for one in results] == pytest.approx([0.125, 0.125, 0.5, 0.5, None, None])
    assert [one["step"] for one in results] == [4, 4, 4, 4, 0, 0]
    assert all(one["error"] == "step 1: loss is -inf" for one in results[4:])
    assert json.loads((tmp_path / "sweep.json").read_text()) == {"metric": "eval/loss", "runs": results}
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    lines = sweeping.table("eval/loss", results).splitlines()
    assert lines[1].split() == ["aim=2.5,sizes=(1,", "2)", "0.125", "0.125", "4"] and "loss is -inf" in lines[-1]

    begun = {path: path.stat().st_mtime_ns for path in tmp_path.glob("aim=[12]*/checkpoints/*")}
    capsys.readouterr()
    assert swept(tmp_path, *grid) == results
    assert capsys.readouterr().err.count("is trained to step 4") == 4
    assert begun == {path: path.stat().st_mtime_ns for path in tmp_path.glob("aim=[12]*/checkpoints/*")}


def test_of_some_metrics_more_is_better(tmp_path):
    results = swept(tmp_path, "aim:1,2.5", metric="eval/accuracy")
    assert [one["last"] for one in results] == [one["best"] for one in results] == pytest.approx([0.875, 0.5])


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ("aim", "write a key and its values"),
        ("aim:", "write a key and its values"),
        ("aims:1", "no such key or value"),
        ("aim:one", "no such key or value"),
        ("optimiser.lr:1", "no such key or value"),
        ("aim:1,-1", "aim"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(tmp_path, grid, words):
    with pytest.raises(errors.UserError, match=words):
        swept(tmp_path / "sweep", grid)
    assert not (tmp_path / "sweep").exists()


def test_a_metric_that_nothing_measures_is_refused(tmp_path):
    with pytest.raises(errors.UserError, match="--metric=eval/fid: no run has measured it"):
        swept(tmp_path, "aim:1", metric="eval/fid")
