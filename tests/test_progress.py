"""How far work has come: on a terminal, and where there is none."""

import io

import pytest

from imagegen_jax import progress


class Terminal(io.StringIO):
    """What is written there is kept."""

    def isatty(self):
        return True


@pytest.fixture
def clock():
    """Stands still but for what a test adds."""
    return type("Clock", (), {"now": 100.0, "__call__": lambda self: self.now})()


def test_without_a_terminal_each_interval_of_steps_is_a_line_but_not_more_than_one_in_ten_seconds(capsys, clock):
    """100 of 300 steps were done before; ten steps take 20 s, then 3 s."""
    with progress.Progress(300, "step", done=100, clock=clock) as bar:
        for seconds in [20, 20, 3, 3, 3, 3]:
            for _ in range(10):
                bar.count()
            clock.now += seconds
            bar.show("loss 0.5, 7 images/s")
        clock.now += 3600
        bar.count(140)
        bar.show("loss 0.4, 9 images/s")
    assert capsys.readouterr().err.splitlines() == [
        "110 of 300 steps, loss 0.5, 7 images/s, 6:20 left",
        "120 of 300 steps, loss 0.5, 7 images/s, 6:00 left",
        "160 of 300 steps, loss 0.5, 7 images/s, 2:01 left",
        "300 of 300 steps, loss 0.4, 9 images/s, in 1:00:52",
    ]


def test_other_work_tells_of_itself_and_its_end_is_always_a_line(capsys, clock):
    with progress.Progress(4, "image", "step 500", clock=clock) as bar:
        for _ in range(4):
            clock.now += 6
            bar.update()
        progress.tell("told")
    lines = ["step 500: 2 of 4 images, 0:12 left", "step 500: 4 of 4 images, in 0:24", "told"]
    assert capsys.readouterr().err.splitlines() == lines
    with progress.Progress(4, "image", shown=False) as bar:
        bar.update(4)
    assert not capsys.readouterr().err


def test_a_terminal_has_a_bar(monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with progress.Progress(4, "step", "drawing") as bar:
        bar.count(3)
        bar.show("loss 0.5")
        bar.update()
    assert "\r" in terminal.getvalue() and "drawing" in terminal.getvalue() and "4/4" in terminal.getvalue()
