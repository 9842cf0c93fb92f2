"""--profile: which steps are recorded, and that they are the same steps."""

import jax
from jax import numpy as jnp
import pytest

from imagegen_jax import errors
from imagegen_jax.training import profiling


def step(state, batch, rng):
    return state + batch, {"loss": state}


def test_the_steps_asked_for_are_recorded_and_change_nothing(tmp_path, monkeypatch, capsys):
    told = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder, **_: told.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: told.append("stop"))
    state = jnp.zeros(())
    with profiling.profiled(step, 10, (13, 14), tmp_path) as recorded:  # steps 11 to 16
        for number in range(11, 17):
            state, metrics = recorded(state, 1.0, None)
            told.append(number)
            assert metrics["loss"] == number - 11
    assert told == [11, 12, tmp_path / "profile", 13, "stop", 14, 15, 16]
    assert f"profile: {tmp_path / 'profile'}" in capsys.readouterr().err


def test_a_call_of_several_steps_is_recorded_if_one_of_them_is(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder, **_: told.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: told.append("stop"))
    with profiling.profiled(lambda *what: what[:2], 10, (15, 17), tmp_path) as recorded:  # steps 11 to 22
        for _ in range(4):
            recorded(0.0, ("batches", jnp.int32(3)), None)
            told.append("call")
    assert told == ["call", "start", "call", "stop", "call", "call"]


def test_a_training_that_ends_amid_them_keeps_what_was_recorded(tmp_path):
    with pytest.raises(KeyboardInterrupt), profiling.profiled(jax.jit(step), 0, (2, 100), tmp_path) as recorded:
        for _ in range(3):
            recorded(jnp.zeros(()), 1.0, None)
        raise KeyboardInterrupt
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize("word", ["5", "0:3", "3:0", "a:b", "1:2:3", "-1:2"])
def test_what_is_no_range_of_steps(word):
    with pytest.raises(errors.UserError, match=f"--profile={word}: write the first step and how many, such as 100:5"):
        profiling.steps_of(word)
    assert profiling.steps_of("100:5") == (100, 104) and profiling.steps_of(None) is None
