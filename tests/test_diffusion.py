"""Schedules, prediction types and weightings against their formulas, and the loss against its definition."""

from collections.abc import Callable

from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

from configs import ddpm_conditional
from imagegen_jax import conditions
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import diffusion
from imagegen_jax.diffusion import prediction_types
from imagegen_jax.diffusion import samplers
from imagegen_jax.diffusion import schedules
from imagegen_jax.diffusion import weightings


@pytest.mark.parametrize("name", schedules.CURVES)
@pytest.mark.parametrize("length", [10, 1000])
def test_schedules_fall_from_almost_one_to_almost_zero(name, length):
    abar = schedules.Schedule.named(name, length).alphas_cumprod
    assert abar.shape == (length,) and abar.dtype == np.float64
    assert np.all(np.diff(abar) < 0) and 0 < abar[-1] < abar[0] < 1
    assert abar[-1] < 1e-3


def test_cosine_schedule_is_equation_17():
    length, s = 1000, 0.008
    abar = schedules.Schedule.named("cosine", length).alphas_cumprod
    t = np.arange(length + 1)
    f = np.cos((t / length + s) / (1 + s) * np.pi / 2) ** 2
    unclipped = (1 - f[1:] / f[:-1]) < 0.999
    np.testing.assert_allclose(abar[unclipped], (f[1:] / f[0])[unclipped], rtol=1e-9)


def test_sigmoid_schedule_is_chens_algorithm_1():
    """alpha(t) of Chen 2023 with start -3, end 3, tau 1, by jax.nn's sigmoid."""
    length = 1000
    abar = schedules.Schedule.named("sigmoid", length).alphas_cumprod
    t = np.arange(1, length) / length
    top, bottom = jax.nn.sigmoid(3.0), jax.nn.sigmoid(-3.0)
    expected = (top - jax.nn.sigmoid(jnp.asarray(t * 6 - 3))) / (top - bottom)
    np.testing.assert_allclose(abar[: length - 1], expected, rtol=1e-3, atol=1e-6)


def test_signal_noise_and_snr_agree():
    schedule = schedules.Schedule.named("cosine", 1000)
    t = jnp.arange(1000)
    signal, noise = schedule.signal_and_noise(t)
    np.testing.assert_allclose(signal**2 + noise**2, 1.0, rtol=1e-6)
    np.testing.assert_allclose(schedule.log_snr(t), 2 * (np.log(signal) - np.log(noise)), rtol=1e-4, atol=1e-4)
    assert schedule.signal_and_noise(t[:5], ndim=4)[0].shape == (5, 1, 1, 1)


@pytest.mark.parametrize("name", prediction_types.NAMES)
def test_prediction_types_round_trip(name):
    x0, eps = jax.random.normal(jax.random.key(0), (2, 64, 4))
    angle = jnp.linspace(0.05, 1.5, 64)[:, None]
    signal, noise = jnp.cos(angle), jnp.sin(angle)
    x_t = signal * x0 + noise * eps
    prediction = prediction_types.target(name, x0, eps, signal, noise)
    back = prediction_types.to_x0(name, prediction, x_t, signal, noise)
    np.testing.assert_allclose(back, x0, atol=1e-4)
    np.testing.assert_allclose(prediction_types.implied_eps(back, x_t, signal, noise), eps, atol=1e-3)
    # The table's last column: an error d of the target is an error sqrt(ratio) d of x0.
    moved = prediction_types.to_x0(name, prediction + 0.1, x_t, signal, noise)
    ratio = prediction_types.x0_error_ratio(name, 2 * jnp.log(signal / noise))
    np.testing.assert_allclose(jnp.abs(moved - back), jnp.broadcast_to(0.1 * jnp.sqrt(ratio), back.shape), rtol=2e-2)


def test_weights_mean_the_same_for_every_prediction_type():
    log_snr = jnp.linspace(-8, 8, 17)
    snr = np.exp(log_snr)
    for name in prediction_types.NAMES:
        ratio = prediction_types.x0_error_ratio(name, log_snr)
        np.testing.assert_allclose(weightings.weight("snr", name, log_snr) / ratio, snr, rtol=1e-5)
        np.testing.assert_allclose(weightings.weight("min_snr", name, log_snr) / ratio, np.minimum(snr, 5), rtol=1e-5)
        np.testing.assert_array_equal(weightings.weight("simple", name, log_snr), 1)
    # Hang et al. 2023, section 3.4: min(SNR, gamma) / SNR for eps and min(SNR, gamma) / (SNR + 1) for v.
    np.testing.assert_allclose(weightings.weight("min_snr", "eps", log_snr), np.minimum(snr, 5) / snr, rtol=1e-5)
    np.testing.assert_allclose(weightings.weight("min_snr", "v", log_snr), np.minimum(snr, 5) / (snr + 1), rtol=1e-5)


@pytest.mark.parametrize("stratified", [False, True])
def test_timesteps_are_uniform(stratified):
    draws = jax.vmap(lambda key: schedules.sample_timesteps(key, 16, 10, stratified))(jax.random.split(jax.random.key(0), 2000))
    assert draws.min() == 0 and draws.max() == 9
    for row in (draws, draws[:, :1]):  # over the batch, and in its first place alone
        frequency = np.bincount(np.ravel(row), minlength=10) / row.size
        assert np.abs(frequency - 0.1).max() < 5 * np.sqrt(0.09 / row.size)


def test_stratified_timesteps_fill_every_stratum_once():
    t = schedules.sample_timesteps(jax.random.key(0), 10, 1000, stratified=True)
    gaps = np.diff(np.sort(np.asarray(t)))
    assert np.all(np.abs(gaps - 100) <= 1)


class Constant(nn.Module):
    """Predicts one learned number everywhere."""

    @nn.compact
    def __call__(self, x, t, condition=None, train=False):
        return jnp.broadcast_to(self.param("value", nn.initializers.ones, ()), x.shape)


def constant(schedule, **objective):
    """A diffusion with that network."""
    return diffusion.Diffusion(
        Constant(), (2, 2, 1), schedule, diffusion.Objective(**objective), samplers.Sampler("ddim", 10), base.Training()
    )


def test_loss_is_the_weighted_error_of_the_target():
    """For a network that predicts the constant c, E|c - eps|^2 = c^2 + 1 by hand; v and x0 of a black image likewise."""
    schedule = schedules.Schedule.named("cosine", 100)
    n = 4000
    batch = {"image": np.zeros((n, 2, 2, 1), np.uint8), "index": np.arange(n, dtype=np.int32)}  # x0 = -1
    for name, expected in (("eps", 2.0), ("x0", 4.0), ("v", None)):
        algorithm = constant(schedule, prediction_type=name)
        state = base.TrainState(0, {"unet": {"value": jnp.ones(())}}, {}, {})
        loss = algorithm.eval_step(state, batch, jax.random.key(0))["loss"]
        assert loss.shape == (n,)
        if name == "v":  # v = a eps + s, so E|1 - v|^2 = (1 - s)^2 + a^2, averaged over t
            s = np.sqrt(1 - schedule.alphas_cumprod)
            expected = np.mean((1 - s) ** 2 + schedule.alphas_cumprod)
        np.testing.assert_allclose(np.mean(loss), expected, rtol=0.05)


class Affine(nn.Module):
    """Predicts w x + v t, and shows what it is given in training."""

    show: Callable

    @nn.compact
    def __call__(self, x, t, condition=None, train=False):
        if train:
            self.make_rng("dropout")
            jax.debug.callback(self.show, x, t)
        w, v = (self.param(name, nn.initializers.ones, ()) for name in "wv")
        return w * x + v * t[:, None, None, None]


WEIGHTS = {  # of the error of each target: none, the signal-to-noise ratio for the error of x0, or that up to a bound
    "simple": dict(eps=np.ones_like, x0=np.ones_like, v=np.ones_like),
    "snr": dict(eps=np.ones_like, x0=lambda snr: snr, v=lambda snr: snr / (snr + 1)),
    "min_snr": dict(
        eps=lambda snr: np.minimum(snr, 0.7) / snr,
        x0=lambda snr: np.minimum(snr, 0.7),
        v=lambda snr: np.minimum(snr, 0.7) / (snr + 1),
    ),
}


@pytest.mark.parametrize("weighting", weightings.NAMES)
@pytest.mark.parametrize("prediction_type", prediction_types.NAMES)
def test_a_step_is_the_gradient_of_the_weighted_error(prediction_type, weighting):
    """By hand for w x_t + v t, with the x_t and t that the network was given, by the negative gradient as the update."""
    abar, n, shown = np.linspace(0.9, 0.1, 8), 64, []
    network = Affine(lambda *given: shown.append(map(np.asarray, given)))
    sampler, sgd = samplers.Sampler("ddim", 4), optax.sgd(1.0)
    objective = diffusion.Objective(prediction_type=prediction_type, weighting=weighting, gamma=0.7)
    training = base.Training(optimizer=sgd, ema_decay=lambda step: 0.5 + 0.1 * step)
    algorithm = diffusion.Diffusion(network, (2, 2, 1), schedules.Schedule(abar), objective, sampler, training)
    image = np.random.default_rng(0).integers(0, 256, (n, 2, 2, 1), np.uint8)
    w, v, average = 0.3, -0.2, {"w": 1.0, "v": 2.0}
    params = {"w": jnp.float32(w), "v": jnp.float32(v)}
    before = base.TrainState(jnp.int32(3), {"unet": params}, {"unet": sgd.init(params)}, {"unet": average})
    after, metrics = algorithm.train_step(before, {"image": image}, jax.random.key(0))
    jax.effects_barrier()
    ((x_t, t),) = shown

    a, s = np.sqrt(abar[t])[:, None, None, None], np.sqrt(1 - abar[t])[:, None, None, None]
    x0 = image / 127.5 - 1
    eps = (x_t - a * x0) / s
    assert set(np.unique(t)) == set(range(8)) and len(np.unique(eps)) == eps.size
    assert abs(eps.mean()) < 4 / np.sqrt(eps.size) and abs(eps.std() - 1) < 4 / np.sqrt(2 * eps.size)

    target = {"eps": eps, "x0": x0, "v": a * eps - s * x0}[prediction_type]
    error = w * x_t + v * t[:, None, None, None] - target
    weight = WEIGHTS[weighting][prediction_type](a**2 / s**2)
    gradient = {"w": (2 * weight * error * x_t).mean(), "v": (2 * weight * error * t[:, None, None, None]).mean()}
    assert float(metrics["loss"]) == pytest.approx((weight * error**2).mean(), rel=1e-5)
    assert float(metrics["grad_norm"]) == pytest.approx(np.hypot(gradient["w"], gradient["v"]), rel=1e-5)
    assert float(metrics["param_norm"]) == pytest.approx(np.hypot(w, v), rel=1e-5)
    assert after.step == 4
    for name, value in (("w", w), ("v", v)):
        moved = value - gradient[name]
        assert float(after.params["unet"][name]) == pytest.approx(moved, rel=1e-4)
        assert float(after.ema_params["unet"][name]) == pytest.approx(0.8 * average[name] + 0.2 * moved, rel=1e-4)


def test_eval_depends_on_the_image_and_its_index_alone():
    schedule = schedules.Schedule.named("cosine", 100)
    algorithm = constant(schedule, prediction_type="v", weighting="min_snr")
    state = base.TrainState(0, {"unet": {"value": jnp.ones(())}}, {}, {})
    image = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 1), np.uint8)
    index = np.arange(8, dtype=np.int32)
    whole = algorithm.eval_step(state, {"image": image, "index": index}, jax.random.key(0))["loss"]
    part = algorithm.eval_step(state, {"image": image[5:7], "index": index[5:7]}, jax.random.key(0))["loss"]
    np.testing.assert_allclose(part, whole[5:7], rtol=1e-6)


def test_images_scale_to_the_range_of_the_models():
    np.testing.assert_allclose(images.to_float(jnp.array([0, 255], jnp.uint8)), [-1, 1])


# ------------------------------------------------------------------------------------------------------------------ conditions


class OfLabel(nn.Module):
    """Predicts one number for each label, the last for the null condition."""

    @nn.compact
    def __call__(self, x, t, condition, train=False):
        values = self.param("values", lambda rng: jnp.array([0.2, -0.25, 0.1]))
        return jnp.broadcast_to(values[condition["label"]][:, None, None, None], x.shape)


def of_label(**objective):
    """A conditional diffusion with that network, on two classes; each step of its gradient has the rate 1."""
    schedule = schedules.Schedule.named("cosine", 20)
    game = diffusion.Objective(conditional=True, prediction_type="x0", **objective), samplers.Sampler("ddim", 5)
    training = base.Training(optimizer=optax.sgd(1.0), ema_decay=lambda step: 0.5)
    told = {"label": conditions.Label(2)}
    return diffusion.Diffusion(OfLabel(), (2, 2, 1), schedule, *game, training, conditions=told)


def drawn(algorithm, label, **options):
    state = algorithm.init(jax.random.key(0))
    draw = jax.jit(algorithm.sample, static_argnums=3)
    return draw(state, jax.random.split(jax.random.key(1), 3), {"label": jnp.full(3, label)}, algorithm.Request(**options))


def test_guidance_goes_along_the_line_from_the_null_condition_to_the_label():
    """The last step ends at the predicted image: .1 without the label, .2 with it, .1 + 3 (.2 - .1) at three times the way."""
    algorithm = of_label()
    for label, options, expected in (
        (0, {}, 0.2),
        (0, {"guidance_scale": 1.0}, 0.2),
        (0, {"guidance_scale": 3.0}, 0.4),
        (1, {"guidance_scale": 0.5}, -0.075),
        (1, {"guidance_scale": 0.0}, 0.1),
        (2, {}, 0.1),  # the null condition itself
    ):
        np.testing.assert_allclose(drawn(algorithm, label, **options), expected, atol=1e-6)
    assert algorithm.about_request(algorithm.Request(guidance_scale=3.0))["guidance_scale"] == 3.0


@pytest.mark.parametrize(("dropout", "moved"), [(0.0, [True, True, False]), (1.0, [False, False, True]), (0.5, [True] * 3)])
def test_a_share_of_the_conditions_is_left_out_in_training_and_none_in_evaluation(dropout, moved):
    algorithm = of_label(condition_dropout=dropout)
    state = algorithm.init(jax.random.key(0))
    batch = {
        "image": np.zeros((64, 2, 2, 1), np.uint8),
        "condition": {"label": np.arange(64, dtype=np.int32) % 2},
        "index": np.arange(64, dtype=np.int32),
    }
    after, _ = jax.jit(algorithm.train_step)(state, batch, jax.random.key(2))
    changes = after.params["unet"]["values"] - state.params["unet"]["values"]
    assert (np.abs(changes) > 0).tolist() == moved
    far = state.replace(params={"unet": {"values": jnp.array([0.2, -0.25, 1e3])}})
    for one in (state, far):
        assert algorithm.eval_step(one, batch, jax.random.key(3))["loss"].max() < 100


def test_guidance_without_labels_is_refused():
    with pytest.raises(errors.UserError, match=r"--guidance_scale=2.0: this run is told no labels; .*conditional=True"):
        constant(schedules.Schedule.named("cosine", 20)).check_request(diffusion.Request(guidance_scale=2.0))


def test_guidance_needs_images_without_a_label_in_training():
    config = ddpm_conditional.get_config("smoke")
    config.guidance.scale = 2.0
    config_lib.check(config)
    for key, value in (("condition_dropout", 0.0), ("conditional", False)):
        wrong = config.copy_and_resolve_references()
        wrong.diffusion[key] = value
        with pytest.raises(errors.UserError, match=f"config.guidance.scale is 2.0: it needs .*config.diffusion.{key}"):
            config_lib.check(wrong)
    never = of_label(condition_dropout=0.0)
    never.check_request(never.Request(guidance_scale=1.0))
    with pytest.raises(errors.UserError, match="--guidance_scale=2.0: this run has seen no images without a label"):
        never.check_request(never.Request(guidance_scale=2.0))
