"""MeanFlow: a step by hand, an exact network, guidance inside the target, drawing, and what is refused."""

from collections.abc import Callable

from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

from configs import meanflow as recipe
from imagegen_jax import conditions
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import meanflow
from imagegen_jax.generation import requests

SHAPE = (2, 2, 1)
CLASSES = 3


def built(network, *, optimizer=None, sampler=(), **objective):
    """A MeanFlow with a network."""
    aim = meanflow.Objective(**objective)
    training = base.Training(optimizer=optimizer or optax.sgd(1.0), ema_decay=lambda step: 0.5)
    told = {"label": conditions.Label(CLASSES)} if aim.conditional else {}
    return meanflow.MeanFlow(network, SHAPE, aim, meanflow.Sampler(*sampler), training, told)


def batch_of(n, image=None):
    drawn = np.random.default_rng(0)
    return {
        "image": drawn.integers(0, 256, (n, *SHAPE), np.uint8) if image is None else image,
        "condition": {"label": drawn.integers(0, CLASSES, n, np.int32)},
        "index": np.arange(n, dtype=np.int32),
    }


# ------------------------------------------------------------------------------------------------------------- a step by hand


class Affine(nn.Module):
    """u = w z + a t + b (t - r) + k[label] (1 + the third number), beside a head g z; shows what it is given in training."""

    show: Callable = lambda *given: None
    head: bool = False

    @nn.compact
    def __call__(self, z, told, condition, train=False):
        w, a, b, g = (self.param(name, nn.initializers.constant(value), ()) for name, value in VALUES.items())
        k = self.param("k", lambda rng: jnp.array(OFFSETS))
        label = condition["label"] if condition else jnp.zeros(len(z), jnp.int32)
        if train:
            self.make_rng("dropout")
            jax.debug.callback(self.show, z, told, label)
        scalar = a * told[:, 0] + b * told[:, 1] + k[label] * (1 + (told[:, 2] if told.shape[1] > 2 else 0))
        u = w * z + scalar[:, None, None, None]
        return jnp.concatenate([u, g * z], -1) if self.head else u


VALUES = {"w": 0.3, "a": -0.2, "b": 0.5, "g": 0.7}
OFFSETS = [0.1, -0.3, 0.4, 0.2]


def images_of(values):
    return np.asarray(values, np.float64)[:, None, None, None]


@pytest.mark.parametrize(
    "objective",
    [
        {},
        {"weight_power": 0.75, "weight_eps": 1e-3, "time_scale": 10.0},
        {"weight_power": 0.0, "instantaneous": 1.0},
        {"velocity_head": True},
        {"conditional": True, "condition_dropout": 0.5},
        {"conditional": True, "guidance": (2.5, 2.5), "instantaneous": 0.0},
        {"conditional": True, "guidance": (1.0, 8.0), "condition_dropout": 0.4},
        {"conditional": True, "guidance": (1.0, 8.0), "condition_dropout": 0.4, "velocity_head": True},
    ],
)
def test_a_step_is_the_gradient_of_the_weighted_error(objective):
    """By hand in float64, with the z, times and labels that the network was given, by the negative gradient as the update."""
    n, shown = 64, []
    network = Affine(
        lambda *given: shown.append([np.asarray(x, np.float64) for x in given]), objective.get("velocity_head", False)
    )
    algorithm = built(network, **objective)
    aim, batch = algorithm.objective, batch_of(n)
    before = algorithm.init(jax.random.key(0))
    after, metrics = jax.jit(algorithm.train_step)(before, batch, jax.random.key(1))
    jax.effects_barrier()
    z, told, label = (np.asarray(x, np.float64) for x in shown[0])
    label = label.astype(int)

    t, h = images_of(told[:, 0] / aim.time_scale), images_of(told[:, 1] / aim.time_scale)
    assert np.all(h >= 0) and np.all(t >= h) and np.mean(h == 0) == pytest.approx(aim.instantaneous, abs=1e-9)
    x0 = batch["image"] / 127.5 - 1
    target = (z - (1 - t) * x0) / t - x0
    dropped = label == CLASSES
    np.testing.assert_array_equal(label[~dropped], batch["condition"]["label"][~dropped] if aim.conditional else 0)
    share = aim.condition_dropout if aim.conditional else 0
    assert abs(dropped.mean() - share) < 4 * np.sqrt(share * (1 - share) / n) + 1e-9
    q = images_of(told[:, 2] / aim.time_scale) if aim.tells_scale else 0.0  # 1 - 1 / scale

    w, a, b, g = VALUES.values()
    s, k = aim.time_scale, images_of(np.array(OFFSETS)[label])
    at_once = g * z if aim.velocity_head else w * z + a * s * t + k * (1 + q)
    without = g * z if aim.velocity_head else w * z + a * s * t + OFFSETS[CLASSES]
    if aim.guided:
        share_of_guidance = np.where(images_of(dropped), 0, q if aim.tells_scale else 1 - 1 / 2.5)
        assert not aim.tells_scale or (np.all(q[dropped] == 0) and 0 < q[~dropped].min() < q.max() < 7 / 8)
        target = target + share_of_guidance * (at_once - without)
    u = w * z + a * s * t + b * s * h + k * (1 + q)
    compound = u + h * (w * at_once + (a + b) * s)  # du/dt of (z, r, t) along (v, 0, 1)

    def weighted(error):
        total = np.square(error).sum((1, 2, 3))
        weight = (total + aim.weight_eps) ** -aim.weight_power
        return (weight * total).mean(), 2 * images_of(weight) * error / n

    loss, slope = weighted(compound - target)
    slopes = {name: (slope * d).sum() for name, d in {"w": z, "a": s * t, "b": s * h, "g": 0 * z}.items()}
    offsets = [(slope * images_of(label == i) * (1 + q)).sum() for i in range(CLASSES + 1)]
    if aim.velocity_head:
        more, slope = weighted(g * z - target)
        loss, slopes["g"] = loss + more, (slope * z).sum()
    assert metrics["weighted_loss"] == pytest.approx(loss, rel=1e-4)
    assert metrics["loss"] == pytest.approx(np.square(compound - target).mean(), rel=1e-4)
    found = jax.tree.map(lambda old, new: old - new, before.params["unet"], after.params["unet"])
    for name, expected in slopes.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["k"], offsets, rtol=1e-3, atol=1e-4)


def test_times_are_two_logit_normal_ones_in_order():
    algorithm = built(Affine(), t_mean=0.5, t_std=0.7, r_mean=-1.0, r_std=1.5)
    r, t = (np.asarray(x, np.float64) for x in algorithm._times(jax.random.key(0), (20_000,)))
    drawn = np.random.default_rng(0).normal((0.5, -1.0), (0.7, 1.5), (20_000, 2))
    for found, expected in ((r, drawn.min(1)), (t, drawn.max(1))):
        logit = np.log(found) - np.log1p(-found)
        assert logit.mean() == pytest.approx(expected.mean(), abs=0.04)
        assert logit.std() == pytest.approx(expected.std(), abs=0.04)


# ----------------------------------------------------------------------------------------------------------- an exact network

MEAN, STD = 0.1, 0.2


class Gaussian(nn.Module):
    """The average velocity of the flow of images of N(mean, std^2), (z_t - z_r) / (t - r) with no zero over zero."""

    @nn.compact
    def __call__(self, z, told, condition, train=False):
        mean, std = (self.param(name, nn.initializers.constant(value), ()) for name, value in (("mean", MEAN), ("std", STD)))
        t, h = (told[:, i, None, None, None] for i in (0, 1))
        of_r, of_t = (jnp.sqrt(jnp.square((1 - x) * std) + jnp.square(x)) for x in (t - h, t))
        quotient = ((1 + std**2) * (2 * t - h) - 2 * std**2) / (of_t + of_r)
        return (z - (1 - t) * mean) / of_t * quotient - mean


def test_the_exact_network_stays_as_it_is():
    """Its expected gradient is zero: over many images it is small beside that of a network which is a little off."""
    n = 20_000
    algorithm = built(Gaussian(), weight_power=0.0, instantaneous=0.3)
    pixels = np.random.default_rng(0).normal(MEAN, STD, (n, *SHAPE))
    batch = batch_of(n, np.clip(np.round((pixels + 1) * 127.5), 0, 255).astype(np.uint8))
    step = jax.jit(algorithm.train_step)

    def gradient(mean, std):
        state = algorithm.init(jax.random.key(0))
        state = state.replace(params={"unet": {"mean": jnp.float32(mean), "std": jnp.float32(std)}})
        after, metrics = step(state, batch, jax.random.key(1))
        off = jax.tree.map(lambda old, new: float(new - old), state.params["unet"], after.params["unet"])
        return np.array([off["mean"], off["std"]]), float(metrics["loss"])

    exact, least = gradient(MEAN, STD)
    lower, error = gradient(MEAN - 0.05, STD - 0.05)
    higher, _ = gradient(MEAN + 0.05, STD + 0.05)
    assert np.all(np.abs(exact) < 0.1 * np.abs(lower)) and np.all(lower > 0) and np.all(higher < 0) and least < error
    loss = jax.jit(algorithm.eval_step)(algorithm.init(jax.random.key(0)), batch, jax.random.key(2))["loss"]
    assert loss.shape == (n,)  # of what is left, the variance of eps - x0 given z, sd^2 / (sd^2 (1 - t)^2 + t^2)
    _, t = algorithm._times(jax.random.key(3), (n,))
    t = np.asarray(t)
    assert loss.mean() == pytest.approx(np.mean(STD**2 / (STD**2 * (1 - t) ** 2 + t**2)), rel=0.05)


def drawn(algorithm, n=1000, start=0, **options):
    state = algorithm.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 1000)[start : start + n]
    labels = {"label": jnp.arange(start, start + n) % CLASSES}
    return np.asarray(jax.jit(algorithm.sample, static_argnums=3)(state, keys, labels, algorithm.Request(**options)))


def test_one_step_and_more_end_where_the_flow_does():
    """z_0 = mean + std z_1, since the flow keeps the standardised value."""
    algorithm = built(Gaussian(), sampler=(3,))
    noise = jax.vmap(lambda key: jax.random.normal(key, SHAPE))(jax.random.split(jax.random.key(1), 1000))
    one = drawn(algorithm, steps=1)
    np.testing.assert_allclose(one, np.clip(MEAN + STD * noise, -1, 1), atol=1e-5)
    np.testing.assert_allclose((one.mean(), one.std()), (MEAN, STD), atol=4 * STD / np.sqrt(one.size))
    for options in ({}, {"steps": 8}):
        np.testing.assert_allclose(drawn(algorithm, **options), one, atol=1e-5)
    assert algorithm.about_request(algorithm.Request()) == {"steps": 3}


def test_an_image_depends_on_its_key_and_its_condition_alone():
    algorithm = built(Affine(), conditional=True, guidance=(1.0, 8.0), sampler=(2, 3.0))
    np.testing.assert_allclose(drawn(algorithm, 3, start=4), drawn(algorithm, 9)[4:7], atol=1e-6)
    batch, state = batch_of(8), algorithm.init(jax.random.key(0))
    part = jax.tree.map(lambda x: x[5:7], batch)
    whole, some = (jax.jit(algorithm.eval_step)(state, one, jax.random.key(0))["loss"] for one in (batch, part))
    np.testing.assert_allclose(some, whole[5:7], rtol=1e-5)


def test_a_scale_that_is_told_is_an_option_and_a_fixed_one_is_not():
    told = built(Affine(), conditional=True, guidance=(1.0, 8.0), sampler=(1, 4.0))
    assert np.abs(drawn(told, 9) - drawn(told, 9, guidance_scale=4.0)).max() == 0
    z = jax.vmap(lambda key: jax.random.normal(key, SHAPE))(jax.random.split(jax.random.key(1), 1000)[:9])
    w, a, b, _ = VALUES.values()
    k = images_of(np.array(OFFSETS)[np.arange(9) % CLASSES])
    for scale in (1.0, 8.0):
        expected = z - (w * z + a + b + k * (2 - 1 / scale))
        np.testing.assert_allclose(drawn(told, 9, guidance_scale=scale), np.clip(expected, -1, 1), atol=1e-5)
    assert told.about_request(told.Request()) == {"steps": 1, "guidance_scale": 4.0}
    fixed = built(Affine(), conditional=True, guidance=(2.0, 2.0))
    assert fixed.about_request(fixed.Request()) == {"steps": 1, "guidance_scale": 2.0}
    fixed.check_request(fixed.Request(guidance_scale=2.0))


@pytest.mark.parametrize(
    ("objective", "scale", "words"),
    [
        ({}, 2.0, "this run is told neither labels nor texts"),
        ({"conditional": True}, 2.0, "this run was trained with the scale 1.0; leave it out"),
        ({"conditional": True, "guidance": (2.0, 2.0)}, 1.0, "this run was trained with the scale 2.0; leave it out"),
        ({"conditional": True, "guidance": (1.0, 8.0)}, 9.0, "this run was trained with the scales 1.0 to 8.0"),
    ],
)
def test_scales_of_guidance_that_cannot_be(objective, scale, words):
    algorithm = built(Affine(), **objective)
    with pytest.raises(errors.UserError, match=f"--guidance_scale={scale}: {words}") as caught:
        algorithm.check_request(algorithm.Request(guidance_scale=scale))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"sampler.steps": 0}, "config.sampler.steps is 0: it must be at least 1"),
        ({"meanflow.guidance": (2.0, 2.0)}, "config.meanflow.guidance .* needs config.meanflow.conditional=True"),
        (
            {"meanflow.guidance": (2.0, 2.0), "meanflow.conditional": True, "meanflow.condition_dropout": 0.0},
            "without conditions",
        ),
        ({"meanflow.guidance": (8.0, 1.0)}, "give the least and the most scale"),
        ({"meanflow.guidance": (1.0,)}, "give the least and the most scale"),
        ({"meanflow.guidance": (0.0, 1.0)}, "each must be at least 1"),
        (
            {"meanflow.guidance": (2.0, 4.0), "meanflow.conditional": True},
            "config.sampler.guidance_scale is 1.0: config.meanflow.guidance has the scales 2.0 to 4.0",
        ),
    ],
)
def test_configs_that_cannot_be(keys, words):
    config = recipe.get_config("smoke")
    config.update_from_flattened_dict(keys)
    with pytest.raises(errors.UserError, match=words) as caught:
        config_lib.check(config)
    assert "\n" not in str(caught.value)


def test_no_steps_are_none_of_the_options():
    with pytest.raises(errors.UserError, match="--steps=0: it must be at least 1"):
        requests.typed({"steps": "0"}, built(Affine()), images.Spec(SHAPE))
