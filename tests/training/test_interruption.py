"""Signals, and processes that stop together."""

import os
import signal

import numpy as np
import pytest

from imagegen_jax.training import interruption


def test_a_signal_is_answered_where_print_would_fail(capfd, monkeypatch):
    """A print inside a print is an error, and the signal may come in the middle of one."""

    def write(text):
        raise RuntimeError("reentrant call")

    with interruption.Interruption() as stop:
        with monkeypatch.context() as patch:
            patch.setattr("sys.stderr.write", write, raising=False)
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    assert capfd.readouterr().err == "SIGTERM: saving and stopping\n"


def test_several_processes_leave_a_draw_together_though_only_one_was_asked_to(monkeypatch):
    """The exchange stands for that of two processes; the other's answers come from a list."""
    others = [False, False, True]
    monkeypatch.setattr(interruption.jax, "process_count", lambda: 2)
    monkeypatch.setattr(interruption.multihost_utils, "process_allgather", lambda ours: np.array([ours, others.pop(0)]))
    stop = interruption.Interruption()
    for walk in (stop.each, stop.between):
        others[:] = [False, False, True]
        seen = []
        with pytest.raises(interruption.StopRequested):
            for item in walk(iter(range(9))):
                seen.append(item)
        assert seen == [0, 1, 2]
    others[:] = [True, True, True]
    assert [stop.agreed(step, pause) for step, pause in ((7, False), (7, True), (10, False))] == [False, True, True]
