"""A MeanFlow with a teacher: an exact student of an exact teacher, guidance, and what is refused."""

import types

from flax import linen as nn
import jax
from jax import numpy as jnp
from ml_collections import config_dict
import numpy as np
import optax
import pytest

from configs import ddpm_conditional
from configs import meanflow_distilled as recipe
from imagegen_jax import conditions
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import meanflow
from imagegen_jax.algorithms import meanflow_distilled
from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import solvers
from imagegen_jax.training import first_stage
from imagegen_jax.training import run

SHAPE = (2, 2, 1)
NAMES = ("ddpm", "vp", "ve", "flow")


class Teacher:
    """Of images of N(mean[label], std^2), where mean and std are its parameters."""

    def __init__(self, process, classes=0):
        self.process, self.classes = process, classes

    def init(self, rng):
        return base.TrainState(0, {"unet": {"mean": jnp.array([0.1, -0.4, 0.3]), "std": jnp.float32(0.2)}}, {}, {"unet": 0.0})

    def denoiser(self, state):
        def denoise(x, level, condition):
            mean, std = state.params["unet"]["mean"][condition.get("label", 0), None, None, None], state.params["unet"]["std"]
            gain = std**2 * level.alpha / ((level.alpha * std) ** 2 + level.sigma**2)
            return solvers.Estimate(mean + gain * (x - level.alpha * mean))

        return denoise


class Student(nn.Module):
    """The average velocity of the flow of those without a label, off by a factor."""

    @nn.compact
    def __call__(self, z, told, condition, train=False):
        factor = self.param("factor", nn.initializers.ones, ())
        t, h = (told[:, i, None, None, None] for i in (0, 1))
        of_r, of_t = (jnp.sqrt(jnp.square((1 - x) * 0.2) + jnp.square(x)) for x in (t - h, t))
        return factor * ((z - (1 - t) * 0.1) / of_t * (1.04 * (2 * t - h) - 0.08) / (of_t + of_r) - 0.1)


def built(name, classes=0, **objective):
    keys = types.SimpleNamespace(schedule="linear", length=1000, data_std=0.5)
    aim = meanflow.Objective(conditional=bool(classes), **objective)
    training = base.Training(optimizer=optax.sgd(1.0), ema_decay=lambda step: 0.5)
    told = {"label": conditions.Label(classes)} if classes else {}
    teacher = Teacher(processes.PROCESSES[name](keys), classes)
    made = Student(), SHAPE, aim, meanflow.Sampler(), training, told
    return meanflow_distilled.DistilledMeanFlow(*made, first_stage=teacher)


@pytest.mark.parametrize("name", NAMES)
def test_an_exact_student_of_an_exact_teacher_has_no_error(name):
    """Whatever the teacher's process, and at every point: there is no noise in the target."""
    algorithm = built(name, weight_power=0.0)
    state = algorithm.init(jax.random.key(0))
    assert state.extra["first_stage"].ema_params == {} and set(state.params["unet"]) == {"factor"}
    image = np.random.default_rng(0).integers(0, 256, (64, *SHAPE), np.uint8)
    batch = {"image": image, "condition": {}, "index": np.arange(64, dtype=np.int32)}
    step = jax.jit(algorithm.train_step)
    after, metrics = step(state, batch, jax.random.key(1))
    tolerance = 1e-6 if name == "flow" else 1e-3  # of the times of the same SNR, whose float32 and steps are the process's
    assert metrics["loss"] < tolerance and abs(after.params["unet"]["factor"] - 1) < 30 * tolerance
    wrong = state.replace(params={"unet": {"factor": jnp.float32(0.5)}})
    assert step(wrong, batch, jax.random.key(1))[1]["loss"] > 0.05
    jax.tree.map(np.testing.assert_array_equal, after.extra, state.extra)
    other = state.extra["first_stage"].replace(params={"unet": {"mean": jnp.full(3, 0.5), "std": jnp.float32(0.2)}})
    assert step(algorithm.with_first_stage(state, other), batch, jax.random.key(1))[1]["loss"] > 0.05


def test_guidance_is_that_of_the_teacher():
    algorithm = built("flow", classes=2, guidance=(1.0, 8.0))
    state, drawn = algorithm.init(jax.random.key(0)), np.random.default_rng(0)
    z, t = drawn.normal(size=(3, *SHAPE)), np.array([0.3, 0.6, 0.9])
    label, scale = jnp.array([0, 1, 2]), np.array([1.0, 5.0, 1.0])
    given = (jnp.float32(x) for x in (z, t))
    along, target = algorithm._field(state, state.params["unet"], *given, None, {"label": label}, jnp.float32(scale))
    t, scale = t[:, None, None, None], scale[:, None, None, None]

    def velocity(mean):
        return (z - mean - 0.04 * (1 - t) / (0.04 * (1 - t) ** 2 + t**2) * (z - (1 - t) * mean)) / t

    means = np.array([0.1, -0.4, 0.3])[:, None, None, None]
    expected = velocity(0.3) + scale * (velocity(means) - velocity(0.3))
    np.testing.assert_allclose(along, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(along, target)


def test_a_student_is_told_labels_where_its_teacher_is():
    config = recipe.get_config("smoke")
    with config.unlocked():
        config.first_stage.run = config_dict.ConfigDict(ddpm_conditional.get_config("smoke"))
    spec = images.Spec((8, 8, 1), images.unnamed(3))
    with pytest.raises(errors.UserError, match="told labels: set --config.meanflow.conditional=True") as caught:
        run.build_algorithm(config_lib.check(config), spec)
    assert "\n" not in str(caught.value)
    config.meanflow.conditional = True
    assert run.build_algorithm(config_lib.check(config), spec).classes == 3


def test_a_teacher_must_denoise(tmp_path):
    spec = images.Spec((8, 8, 1))
    run.save_config(tmp_path / "run", recipe.meanflow.get_config("smoke"), spec)
    config = recipe.get_config("smoke")
    config.first_stage.workdir = str(tmp_path / "run")
    with pytest.raises(errors.UserError, match="is a run of meanflow, and meanflow_distilled stands on one that denoises"):
        first_stage.filled_in(tmp_path / "own", config_lib.typed(config), spec)
