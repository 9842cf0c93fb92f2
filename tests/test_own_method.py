"""A method of one's own, in a file outside of the package, goes through all ordinary commands."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Annotated
from typing import ClassVar
from unittest import mock

import jax
from jax import numpy as jnp
import numpy as np
import pytest

import imagegen_jax
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import keys
from imagegen_jax.algorithms import base
from imagegen_jax.generation import drawing_flags

ROOT = pathlib.Path(__file__).parent.parent

# ----------------------------------------------------------------------------------------------------------------- the method


@dataclasses.dataclass(frozen=True)
class Config:
    """Its own sections of a config: here a single key."""

    deviation: Annotated[float, keys.Above(0)] = 1.0  # where that of each pixel begins


@dataclasses.dataclass(frozen=True)
class Request:
    """Its options of drawing."""

    spread: Annotated[float | None, "Factor on the deviations.", keys.AtLeast(0)] = None


@dataclasses.dataclass(frozen=True)
class Pixels(base.Algorithm):
    """Independent normal pixels, by the gradient of their likelihood."""

    Config: ClassVar[type] = Config
    Request: ClassVar[type] = Request
    defaults: ClassVar[dict] = {"optimizer.lr": 0.05}
    classes: ClassVar[int] = 0

    shape: tuple[int, int, int]
    deviation: float
    training: base.Training

    @classmethod
    def from_config(cls, config, spec, training):
        return cls(spec.shape, config.deviation, training)

    def init(self, rng):
        params = {"mean": jnp.zeros(self.shape), "log_deviation": jnp.full(self.shape, jnp.log(self.deviation))}
        return base.first_state("pixels", params, self.training)

    def train_step(self, state, batch, rng):
        def loss(params, x, rng):
            return self._nats(params, x).mean(), ({}, {})

        return base.train_step(self.training, state, "pixels", loss, images.to_float(batch["image"]), rng)

    def eval_step(self, state, batch, rng):
        return {"loss": self._nats(state.params["pixels"], images.to_float(batch["image"]))}

    def sample(self, state, keys, condition, request):
        noise = jax.vmap(lambda key: jax.random.normal(key, self.shape))(keys)
        params, spread = state.params["pixels"], 1.0 if request.spread is None else request.spread
        return jnp.clip(params["mean"] + spread * jnp.exp(params["log_deviation"]) * noise, -1.0, 1.0)

    def _nats(self, params, x):
        scaled = (x - params["mean"]) * jnp.exp(-params["log_deviation"])
        return (0.5 * jnp.square(scaled) + params["log_deviation"]).mean((1, 2, 3))


# --------------------------------------------------------------------------------------------------------------------- its use


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe, as a person writes it."""
    path = tmp_path_factory.mktemp("recipes") / "pixels.py"
    path.write_text(
        "from imagegen_jax import config\n\n\n"
        "def get_config(variant=''):\n"
        "    c = config.default('test_own_method:Pixels')\n"
        "    c.batch_size = 80\n"
        "    c.duration = '60 steps'\n"
        "    c.checkpoint.every = c.sample.every = c.eval.every = '30 steps'\n"
        "    c.sample.num = 8\n"
        "    c.eval.num = 80\n"
        "    return c\n"
    )
    return path


def test_it_trains_resumes_draws_scores_and_reports(recipe, tmp_path, command):
    whole, stopped = (f"--workdir={tmp_path / name}" for name in ("whole", "stopped"))
    command("main")(f"--config={recipe}", whole)
    command("main")(f"--config={recipe}", "--config.duration=30 steps", stopped)
    command("main")(f"--config={recipe}", stopped)
    trained, resumed = (imagegen_jax.load(tmp_path / name) for name in ("whole", "stopped"))
    assert trained.step == resumed.step == 60
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(trained.state), jax.device_get(resumed.state))

    # After 60 steps the mean is on its way to that of the images, which is darker than the grey that it began at.
    (still,) = trained.sample(1, spread=0)
    assert still[:, 0].mean() < 60 < still[8:20, 8:20].mean()
    np.testing.assert_array_equal(trained.sample(3, seed=5)[1:], trained.sample(3, seed=5, batch_size=1)[1:])
    with pytest.raises(errors.UserError, match="--spread=-1: it must be at least 0"):
        trained.sample(1, spread=-1)
    with pytest.raises(errors.UserError, match="--temperature=1: this family"):
        trained.sample(1, temperature=1)

    command("evaluate")(whole, "--num=40", "--metrics=fid", f"--out={tmp_path / 'scores.json'}")
    command("report")(whole)
    assert "Pixels" in (tmp_path / "whole" / "report.html").read_text() and (tmp_path / "scores.json").exists()


def test_its_options_are_flags_and_its_keys_are_checked(recipe, tmp_path, command):
    with pytest.raises(errors.UserError, match="config.deviation is 0.0: it must be more than 0"):
        command("main")(f"--config={recipe}", "--config.deviation=0", f"--workdir={tmp_path / 'run'}")
    command("main")(f"--config={recipe}", "--config.duration=1 steps", f"--workdir={tmp_path / 'run'}")
    python_path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    words = [f"--workdir={tmp_path / 'run'}", "--num=2", "--spread=0", f"--out={tmp_path / 'images.npz'}"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.sample", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": python_path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, second = np.load(tmp_path / "images.npz")["images"]
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("alchemy", "choose one of autoencoder, baseline, "),
        ("no_such_module:Pixels", "No module named 'no_such_module'"),
        ("test_own_method:Alchemy", "has no attribute 'Alchemy'"),
        ("test_own_method:Config", "is no subclass of"),
    ],
)
def test_a_name_that_means_no_method_is_said(name, words):
    with pytest.raises(errors.UserError, match=f"config.algorithm is '{name}': .*{words}"):
        config_lib.default(name)


@pytest.mark.parametrize(
    "saved",
    [{"config": {"algorithm": "nowhere:Method"}, "images": {}}, {"config": None, "images": {}}, {"config": {}, "images": []}],
)
def test_a_run_whose_method_is_not_there_is_one_line_not_a_traceback(tmp_path, saved):
    (tmp_path / "config.json").write_text(json.dumps(saved))
    for flag in ([f"--workdir={tmp_path}"], ["--workdir", str(tmp_path)]):
        with mock.patch.object(sys, "argv", ["sample", *flag]):
            assert "steps" in drawing_flags.declared()
    with pytest.raises(errors.UserError, match="cannot read .*config.json: "):
        imagegen_jax.load(tmp_path)
