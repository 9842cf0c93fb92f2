"""What the end of a training says. That its command can be given is tested in tests/generation/test_sample.py."""

import json
import types
import typing

import pytest

from imagegen_jax.algorithms import capabilities
from imagegen_jax.training import summary


def family(capability=None):
    """An object with all that a protocol asks for."""
    names = typing._get_protocol_attrs(capability) if capability else ()
    return types.SimpleNamespace(**{name: {"ab": ("a", "b")} for name in names})


def test_the_last_pictures_and_values_are_named(tmp_path):
    workdir = tmp_path / "a run"
    for name in ("samples/9.png", "samples/10.png", "samples/notes.png", "panels/8.png"):
        (workdir / name).parent.mkdir(parents=True, exist_ok=True)
        (workdir / name).touch()
    rows = [{"step": 8, "eval/loss": 2.0}, {"step": 9, "eval/loss": 1.23456, "eval/fid": 20000}, {"step": 10, "loss": 0.5}]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 10, "eval/l')
    assert summary.lines(workdir, family(capabilities.Draws)) == [
        f"last grid: {workdir}/samples/10.png",
        f"last panel: {workdir}/panels/8.png",
        "held-out images, step 9: eval/loss 1.235, eval/fid 2e+04",
        f"draw more: python -m experiments.sample '--workdir={workdir}' --num=64 --out=more.png",
    ]


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        (
            family(capabilities.Translates),
            "experiments.edit translate --workdir=run --direction=ab --input=IMAGES --out=translated/",
        ),
        (family(capabilities.Autoencodes), "experiments.edit reconstruct --workdir=run --input=test:0,1,2,3 --out=pairs.png"),
        (family(), "experiments.report --workdir=run"),
    ],
)
def test_what_does_not_draw_is_asked_for_what_it_does(algorithm, words):
    (advice,) = summary.lines("run", algorithm)
    assert advice.endswith(f": python -m {words}")
