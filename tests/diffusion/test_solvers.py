"""Solvers on data whose exact denoiser, and so the exact result, is known: Gaussians and mixtures of two."""

import dataclasses
import types

import chex
from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax import rng
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import diffusion
from imagegen_jax.algorithms import diffusion_config
from imagegen_jax.diffusion import guidance
from imagegen_jax.diffusion import prediction_types
from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import samplers
from imagegen_jax.diffusion import solvers
from imagegen_jax.diffusion import time_grids

MEAN, STD = 0.3, 0.5
SHAPE = (2, 2, 1)
WEIGHTS, MEANS, STDS = np.array([0.3, 0.7]), np.array([-0.6, 0.4]), np.array([0.2, 0.1])  # of the mixture, of each pixel


def process(name, schedule="cosine", length=1000, data_std=0.5):
    return processes.PROCESSES[name](types.SimpleNamespace(schedule=schedule, length=length, data_std=data_std))


ALL = {"ddpm": process("ddpm"), "vp": process("vp", "linear"), "ve": process("ve"), "flow": process("flow")}


def gaussian(x, level, condition=(), mean=MEAN, std=STD):
    """E[x0 | x_t] for x0 ~ N(mean, std^2): the posterior mean of two Gaussians."""
    a, s = level.alpha, level.sigma
    return solvers.Estimate(mean + std**2 * a / (a**2 * std**2 + s**2) * (x - a * mean))


def log_likelihoods(x, level):
    """log N(x; alpha mean, alpha^2 std^2 + sigma^2) of each component, on a new last axis."""
    variance = (level.alpha * STDS) ** 2 + level.sigma**2
    return -jnp.square(x[..., None] - level.alpha * MEANS) / (2 * variance) - jnp.log(variance) / 2


def mixture(x, level, condition=()):
    """E[x0 | x_t] of the mixture: the components' posterior means, weighted by the posterior of the component."""
    share = jax.nn.softmax(log_likelihoods(x, level) + jnp.log(WEIGHTS), axis=-1)
    means = jnp.stack([gaussian(x, level, mean=mean, std=std).x0 for mean, std in zip(MEANS, STDS)], axis=-1)
    return solvers.Estimate((share * means).sum(-1))


def draw(one, sampler, n, denoise=gaussian, **hooks):
    keys = jax.random.split(jax.random.key(0), n)
    return np.asarray(jax.jit(lambda keys: samplers.sample(denoise, keys, SHAPE, one, sampler, **hooks))(keys), np.float64)


SAMPLERS = {
    "ddpm fixed_small": samplers.Sampler("ddpm", 250, "karras"),
    "ddpm fixed_large": samplers.Sampler("ddpm", 1000, "log_snr", variance="fixed_large"),
    "ddim": samplers.Sampler("ddim", 100, "log_snr"),
    "ddim eta": samplers.Sampler("ddim", 250, "karras", eta=0.7),
    "euler": samplers.Sampler("euler", 250, "karras"),
    "heun": samplers.Sampler("heun", 40, "karras"),
    "heun churn": samplers.Sampler("heun", 100, "karras", churn=20.0, churn_min=0.01, churn_max=50.0),
    "dpmpp_2m": samplers.Sampler("dpmpp_2m", 40, "log_snr"),
    "dpmpp_2m_sde": samplers.Sampler("dpmpp_2m_sde", 100, "karras"),
    "ode": samplers.Sampler("ode", rtol=1e-3, atol=1e-3),
}


PAIRS = [
    # diffrax takes seconds to compile
    pytest.param(name, sampler, marks=pytest.mark.recipes if sampler == "ode" and name in ("ddpm", "ve") else ())
    for name in ALL
    for sampler in SAMPLERS
]


@pytest.mark.parametrize(("name", "sampler"), PAIRS)
def test_every_solver_on_every_process_reaches_the_mixture(name, sampler):
    """Of 4 n values; each statistic within 4 standard errors and an error of discretisation of first order."""
    n = 1024
    x = draw(ALL[name], dataclasses.replace(SAMPLERS[sampler], clip=False), n, mixture).ravel()
    mean = (WEIGHTS * MEANS).sum()
    std = np.sqrt((WEIGHTS * (MEANS**2 + STDS**2)).sum() - mean**2)
    error = 4 / np.sqrt(x.size)
    assert x.mean() == pytest.approx(mean, abs=error * std + 0.01)
    assert x.std() == pytest.approx(std, abs=error * std + 0.01)
    assert np.mean(x < 0) == pytest.approx(WEIGHTS[0], abs=error * np.sqrt(WEIGHTS.prod()) + 0.01)
    assert x[x < 0].std() == pytest.approx(STDS[0], rel=error * 2 + 0.05)
    assert x[x > 0].std() == pytest.approx(STDS[1], rel=error + 0.05)


@pytest.mark.parametrize("solver", ["ddpm fixed_small", "ddim eta"])
def test_steps_that_are_repeated_draw_the_same_distribution(solver):
    n = 1024
    sampler = dataclasses.replace(SAMPLERS[solver], steps=100, clip=False)
    x = draw(ALL["ve"], sampler, n, mixture, repeats=lambda t: np.where(t.noise_ratio > 0.1, 3, 1)).ravel()
    assert np.mean(x < 0) == pytest.approx(WEIGHTS[0], abs=4 * np.sqrt(WEIGHTS.prod() / x.size) + 0.02)
    assert x[x < 0].std() == pytest.approx(STDS[0], rel=0.12) and x[x > 0].std() == pytest.approx(STDS[1], rel=0.12)
    plain, once = (draw(ALL["ve"], sampler, 2, repeats=repeats) for repeats in (None, lambda t: np.ones(100, int)))
    np.testing.assert_array_equal(plain, once)


def exact_flow(one, start):
    """Where the probability-flow ODE carries x_T: it keeps the standardised value (Song et al. 2021b, appendix D)."""
    first, last = (one.level(np.float64(t)) for t in (one.most, one.least))

    def deviation(level):
        return np.sqrt(level.alpha**2 * STD**2 + level.sigma**2)

    x = last.alpha * MEAN + deviation(last) * (start - first.alpha * MEAN) / deviation(first)
    return gaussian(x, last).x0  # the last step of all solvers


def start_noise(one, n):
    """x_T, by a denoiser of one step that returns its input."""
    return draw(one, samplers.Sampler("ddim", 1, clip=False), n, denoise=lambda x, level, condition: solvers.Estimate(x))


@pytest.mark.parametrize(
    ("name", "solver", "grid", "order"),
    [
        ("flow", "ddim", "uniform", 1),
        ("ve", "ddim", "karras", 1),
        ("vp", "euler", "uniform", 1),
        ("ve", "euler", "karras", 1),
        ("flow", "heun", "uniform", 2),
        ("ve", "heun", "karras", 2),
        ("vp", "dpmpp_2m", "log_snr", 2),
        ("flow", "dpmpp_2m", "log_snr", 2),
    ],
)
def test_orders_of_convergence(name, solver, grid, order):
    """Twice the steps are 1 / 2^order of the error."""
    one, n = ALL[name], 16
    truth = exact_flow(one, start_noise(one, n))
    steps = (64, 128, 256) if order == 1 else (32, 64, 128)
    errors = [np.abs(draw(one, samplers.Sampler(solver, count, grid, clip=False), n) - truth).max() for count in steps]
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    np.testing.assert_allclose(orders, order, atol=0.25)
    assert errors[-1] < 0.02


def test_deterministic_solvers_agree_in_the_limit():
    for name, one in ALL.items():
        truth = exact_flow(one, start_noise(one, 16))
        for solver in ("ddim", "heun", "dpmpp_2m"):
            found = draw(one, samplers.Sampler(solver, 900, "log_snr", clip=False), 16)
            np.testing.assert_allclose(found, truth, atol=1e-2, err_msg=f"{name} {solver}")


def test_without_churn_the_stochastic_sampler_is_the_ode():
    one = ALL["ve"]
    plain = draw(one, samplers.Sampler("heun", 18, "karras", clip=False), 16)
    outside = samplers.Sampler("heun", 18, "karras", churn=40.0, churn_min=100.0, clip=False)
    np.testing.assert_array_equal(plain, draw(one, outside, 16))
    assert np.abs(plain - draw(one, dataclasses.replace(outside, churn_min=0.0), 16)).max() > 0.01


def test_heun_is_algorithm_2_of_karras_et_al():
    """By hand in NumPy, with the churn of step i, for a denoiser that is no Gaussian's."""
    one, n, steps, churn = ALL["ve"], 3, 5, 3.0
    sampler = samplers.Sampler("heun", steps, "karras", churn=churn, churn_max=30.0, churn_noise=1.1, clip=False)
    keys = jax.random.split(jax.random.key(0), n)
    found = draw(one, sampler, n, lambda x, level, condition: solvers.Estimate(jnp.tanh(x / (1 + level.sigma))))
    sigma = np.append(time_grids.times("karras", one, steps), 0.0)

    def noise(i):
        return np.stack([np.asarray(jax.random.normal(jax.random.fold_in(key, i), SHAPE), np.float64) for key in keys])

    def d(x, s):
        return (x - np.tanh(x / (1 + s))) / s

    x = np.hypot(1, sigma[0]) * noise(0)
    for i in range(steps):
        gamma = min(churn / steps, np.sqrt(2) - 1) if sigma[i] <= 30 else 0.0
        hat = sigma[i] * (1 + gamma)
        x = x + np.sqrt(hat**2 - sigma[i] ** 2) * 1.1 * noise(i + 1)
        slope = d(x, hat)
        after = x + (sigma[i + 1] - hat) * slope
        if i < steps - 1:
            after = x + (sigma[i + 1] - hat) * (slope + d(after, sigma[i + 1])) / 2
        x = after
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-4)


def test_start_noise_is_standard_normal_and_the_same_for_any_number_of_steps():
    one = ALL["ddpm"]
    noise = start_noise(one, 4096)
    assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
    assert abs(noise.std() - 1) < 4 / np.sqrt(2 * noise.size)
    few, many = (draw(one, samplers.Sampler("ddim", s, clip=False), 32) for s in (50, 1000))
    np.testing.assert_allclose(few, many, atol=0.1)


def test_an_image_of_the_adaptive_solver_depends_on_its_key_and_its_condition_alone():
    """Though each image has steps of its own, and a batch as many as its longest."""

    def denoise(x, level, condition):
        return gaussian(x, level, mean=condition.reshape(-1, 1, 1, 1))

    keys, means = jax.random.split(jax.random.key(0), 6), jnp.linspace(-0.5, 0.5, 6)

    @jax.jit
    def drawn(keys, means):
        return samplers.sample(denoise, keys, SHAPE, ALL["flow"], samplers.Sampler("ode", clip=False), means)

    others = keys.at[:3].set(jax.random.split(jax.random.key(1), 3)), means.at[:3].set(0.9)
    np.testing.assert_allclose(drawn(keys, means)[3:], drawn(*others)[3:], atol=1e-5)


def test_limits_keep_every_image_within_range():
    one = process("ddpm", "linear", 100)
    for name in ("ddpm", "heun", "dpmpp_2m"):
        for limit in ({"clip": True}, {"clip": False, "threshold": 0.9}):
            x = draw(one, samplers.Sampler(name, 10, **limit), 16, denoise=lambda x, level, condition: solvers.Estimate(3 * x))
            assert np.abs(x).max() <= 1.0


def test_dynamic_thresholding():
    """Saharia et al. 2022: divided by the quantile of |x0|, where that is above 1."""
    x0 = jnp.array([np.linspace(-3, 1, 101), np.linspace(-0.5, 0.5, 101)])
    sampler = samplers.Sampler(threshold=0.95)
    large, small = samplers.limited(sampler, x0)
    quantile = np.quantile(np.abs(x0[0]), 0.95)
    np.testing.assert_allclose(large, np.clip(x0[0], -quantile, quantile) / quantile, rtol=1e-6)
    np.testing.assert_array_equal(small, x0[1])


def test_hooks_see_each_estimate_and_each_step():
    """Half of each image held at what it should be, as a repair does: by x0, and by x_t made of it."""
    one, target = ALL["flow"], jnp.full(SHAPE, 0.25)
    known = jnp.array([[1.0], [0.0]])[:, :, None]

    def on_x0(x0, x, level):
        return known * target + (1 - known) * x0

    found = draw(one, samplers.Sampler("heun", 9, clip=False), 8, on_x0=on_x0)
    np.testing.assert_allclose(found[:, :1], 0.25, atol=1e-6)
    assert found[:, 1:].std() > 0.2

    def on_x(x, level, i):
        return jnp.where(i < 8, x, jnp.zeros_like(x) + level.alpha * target)

    for solver in ("ddim", "euler", "dpmpp_2m", "ddpm"):
        x = draw(one, samplers.Sampler(solver, 9, clip=False), 8, on_x=on_x)
        np.testing.assert_allclose(x, 0.25, atol=1e-6)


@pytest.mark.parametrize("variance", ("fixed_small", "fixed_large"))
def test_a_ddpm_step_is_the_posterior_of_ho_et_al(variance):
    """Equations 6 and 7, with the betas of section 4 themselves."""
    beta = np.linspace(1e-4, 0.02, 1000)
    abar = np.cumprod(1 - beta)
    one = process("ddpm", "linear")
    levels = solvers.levels(one, time_grids.times("trailing", one, 1000))
    c = solvers.ddpm(levels, one, variance=variance)
    t = np.arange(999, 0, -1)
    np.testing.assert_array_equal(levels.time, np.append(t, (0, -1)))
    np.testing.assert_allclose(c["on_x0"][:-1], np.sqrt(abar[t - 1]) * beta[t] / (1 - abar[t]), rtol=1e-7)
    np.testing.assert_allclose(c["on_x"][:-1], np.sqrt(1 - beta[t]) * (1 - abar[t - 1]) / (1 - abar[t]), rtol=1e-7)
    small = (1 - abar[t - 1]) / (1 - abar[t]) * beta[t]
    np.testing.assert_allclose(c["on_noise"][:-1] ** 2, small if variance == "fixed_small" else beta[t], rtol=1e-7)
    np.testing.assert_allclose([c["on_x0"][-1], c["on_x"][-1], c["on_noise"][-1]], [1, 0, 0], atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_ddim_with_eta_one_has_the_moments_of_ddpm(name):
    """Song et al. 2021, section 4.1: sigma(eta = 1) makes the generative process that of DDPM, on any process."""
    one = ALL[name]
    levels = solvers.levels(one, time_grids.times("log_snr", one, 50))
    ddim, ddpm = solvers.ddim(levels, one, eta=1.0), solvers.ddpm(levels, one, variance="fixed_small")
    # Substituting eps = (x - a x0) / s turns the one form into the other.
    np.testing.assert_allclose(ddim["on_noise"], ddpm["on_noise"], rtol=1e-9)
    np.testing.assert_allclose(ddim["on_eps"] / levels.sigma[:-1], ddpm["on_x"], rtol=1e-6, atol=1e-12)
    on_x0 = ddim["on_x0"] - ddim["on_eps"] * (levels.alpha / np.maximum(levels.sigma, 1e-30))[:-1]
    np.testing.assert_allclose(on_x0, ddpm["on_x0"], rtol=1e-6, atol=1e-9)


def test_classifier_guidance_by_bayes_rule_draws_one_component():
    """The mixture's denoiser and log p(component | x_t) together are the component's own denoiser, exactly."""
    one = ALL["vp"]

    def log_prob(x, level, condition):
        return (jax.nn.log_softmax(log_likelihoods(x, level) + jnp.log(WEIGHTS))[..., 0]).sum((1, 2, 3))

    level = one.level(jnp.float32(0.3))
    x = jax.random.normal(jax.random.key(0), (64, *SHAPE))
    guided = guidance.by_classifier(mixture, log_prob, 1.0)
    np.testing.assert_allclose(guided(x, level, ()).x0, gaussian(x, level, mean=MEANS[0], std=STDS[0]).x0, rtol=1e-3, atol=1e-3)


def test_autoguidance_goes_away_from_the_weaker_network_within_its_interval():
    one = ALL["ve"]
    x = jax.random.normal(jax.random.key(0), (8, *SHAPE))
    strength = guidance.Guidance(scale=2.5, low=0.5, high=2.0)

    def weaker(x, level, condition):
        return gaussian(x, level, std=1.0)

    guided = guidance.by_weaker(gaussian, weaker, strength)
    for sigma, scale in ((0.4, 1.0), (1.0, 2.5), (3.0, 1.0)):
        level = one.level(jnp.float32(sigma))
        good, bad = gaussian(x, level).x0, weaker(x, level, ()).x0
        np.testing.assert_allclose(guided(x, level, ()).x0, bad + scale * (good - bad), rtol=1e-5)


def test_rescaling_gives_guided_images_their_contrast_back():
    """Lin et al. 2024, equations 15 and 16."""
    one = ALL["ve"]
    x, level = jax.random.normal(jax.random.key(0), (8, *SHAPE)), one.level(jnp.float32(0.7))

    def weaker(x, level, condition):
        return gaussian(x, level, std=1.0)

    def guided(rescale):
        denoise = guidance.by_weaker(gaussian, weaker, guidance.Guidance(scale=3.0, rescale=rescale))
        return np.asarray(denoise(x, level, ()).x0)

    plain = np.asarray(gaussian(x, level).x0)
    np.testing.assert_allclose(guided(1.0).std((1, 2, 3)), plain.std((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(guided(0.25), 0.25 * guided(1.0) + 0.75 * guided(0.0), rtol=1e-5, atol=1e-6)


class ExactNetwork(nn.Module):
    """What a perfectly trained network of each prediction type would say of Gaussian data."""

    process: processes.Process
    prediction_type: str

    def __call__(self, shown, told, condition=None, train=False):
        t = told * 1.0 if isinstance(self.process, processes.Discrete) else told / 1000
        if isinstance(self.process, processes.VarianceExploding):
            t = jnp.exp(4 * told)
        level = self.process.level(t).for_images(shown.ndim)
        x = shown / self.process.network_input(jnp.ones_like(shown), level)
        x0 = gaussian(x, level).x0
        return prediction_types.target(self.prediction_type, x0, prediction_types.implied_eps(x0, x, level), level)


@pytest.mark.parametrize(("name", "solver"), [("ddpm", "ddpm"), ("ve", "heun")])
def test_every_prediction_type_draws_the_same_images(name, solver):
    drawn = []
    for prediction_type in prediction_types.NAMES:
        algorithm = diffusion.Diffusion(
            network=ExactNetwork(ALL[name], prediction_type),
            image_shape=SHAPE,
            process=ALL[name],
            objective=diffusion_config.Objective(prediction_type=prediction_type),
            sampler=samplers.Sampler(solver, 20, "karras", clip=False),
            training=base.Training(),
        )
        state = base.TrainState(step=0, params={"unet": {}}, opt_state={}, ema_params={})
        keys = rng.per_index(jax.random.key(0), jnp.arange(16))
        drawn.append(jax.jit(algorithm.sample, static_argnums=3)(state, keys, {}, algorithm.Request()))
    chex.assert_trees_all_close(*drawn, atol=5e-3)
    assert np.std(drawn[0]) > 0.1
