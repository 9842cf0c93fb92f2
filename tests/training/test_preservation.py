"""Which checkpoints stay, and which questions for the best are refused."""

import pytest

from imagegen_jax import errors
from imagegen_jax.training import preservation


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("eval/loss", 2), ("eval/fid", 2), ("eval/accuracy", 3), ("eval/psnr_ab", 3), ("eval/classes_covered", 3)],
)
def test_the_best_is_the_lowest_loss_or_the_highest_accuracy_and_the_earliest_of_equals(metric, expected):
    scores = {1: 0.5, 2: 0.1, 3: 0.9, 4: 0.1, 5: 0.9, 6: float("nan")}
    assert preservation.best(metric, scores, range(1, 9)) == expected
    assert preservation.best(metric, {6: float("nan")}, [6, 7]) is None


def test_what_stays_is_the_same_however_often_it_is_asked():
    """The latest two, the best, one of each thirty steps; a checkpoint of a stop only while it is the latest."""
    scores = {10: 0.4, 20: 0.2, 30: 0.3, 40: 0.5}

    def policy():
        return preservation.Policy(2, 10, 30, "eval/loss", scores, {25, 71})

    steps = [10, 20, 25, 30, 40, 50, 60, 70, 71, 80]
    assert policy().kept(steps) == {20, 30, 60, 70, 80}
    assert policy().kept(steps[:-1]) == {20, 30, 60, 70, 71}
    there = []
    for step in steps:
        there = sorted(policy().kept([*there, step]))
    assert set(there) == policy().kept(steps)
    assert preservation.Policy(1, 8, 20).kept(list(range(8, 81, 8))) == {24, 40, 64, 80}  # cadences that hardly meet


@pytest.mark.parametrize(
    ("metric", "names", "cadences", "words"),
    [
        ("eval/acuracy", ["eval/loss", "eval/accuracy"], (10, 10, 100), "did you mean eval/accuracy"),
        ("eval/loss", [], (10, 10, 100), "no test images"),
        ("eval/loss", ["eval/loss"], (10, 0, 100), "config.eval.every is 0"),
        ("eval/loss", ["eval/loss"], (30, 40, 100), "30 and 40 steps"),
        ("eval/loss", ["eval/loss"], (30, 20, 100), None),
        ("eval/loss", ["eval/loss"], (500, 20, 100), None),  # the only checkpoint is the last
        ("eval/loss", ["eval/loss"], (0, 20, 100), None),
        ("", [], (10, 0, 100), None),
    ],
)
def test_a_best_that_cannot_be_is_refused(metric, names, cadences, words):
    if words is None:
        return preservation.check(metric, names, *cadences)
    with pytest.raises(errors.UserError, match=words):
        preservation.check(metric, names, *cadences)
