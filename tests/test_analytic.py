"""Samplers on Gaussian data, where the exact denoiser and the exact result are known."""

import dataclasses

import chex
from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax import rng
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import diffusion
from imagegen_jax.diffusion import prediction_types
from imagegen_jax.diffusion import samplers
from imagegen_jax.diffusion import schedules

MEAN, STD = 0.3, 0.5
SHAPE = (2, 2, 1)


def exact_denoiser(schedule):
    """E[x0 | x_t] for x0 ~ N(MEAN, STD^2): the posterior mean of two Gaussians."""

    def denoise(x, t):
        a, s = schedule.signal_and_noise(t, x.ndim)
        return MEAN + STD**2 * a / (a**2 * STD**2 + s**2) * (x - a * MEAN)

    return denoise


def draw(schedule, sampler, n, denoise=None):
    keys = jax.random.split(jax.random.key(0), n)
    denoise = denoise or exact_denoiser(schedule)
    return jax.jit(lambda keys: samplers.sample(denoise, keys, SHAPE, schedule, sampler))(keys)


# Over 4 n values the mean has a standard error of STD / sqrt(4 n), the standard deviation of STD / sqrt(8 n): 4 of them.
@pytest.mark.parametrize("curve", schedules.CURVES)
@pytest.mark.parametrize(
    "sampler",
    [
        samplers.Sampler("ddpm", 1000, "fixed_small", clip=False),
        samplers.Sampler("ddpm", 1000, "fixed_large", clip=False),
        samplers.Sampler("ddpm", 250, "fixed_small", clip=False),
        samplers.Sampler("ddim", 250, eta=0.0, clip=False),
        samplers.Sampler("ddim", 250, eta=1.0, clip=False),
    ],
    ids=lambda s: f"{s.name}-{s.steps}-{s.variance}-{s.eta}",
)
def test_samplers_reproduce_mean_and_deviation(curve, sampler):
    n = 1024
    x = np.asarray(draw(schedules.Schedule.named(curve, 1000), sampler, n))
    # The discretisation adds an error of its own, of first order in the number of steps.
    slack = 4.0 / sampler.steps
    assert abs(x.mean() - MEAN) < 4 * STD / np.sqrt(4 * n) + slack
    assert abs(x.std() - STD) < 4 * STD / np.sqrt(8 * n) + slack


def exact_flow(schedule, x_start):
    """Where the probability-flow ODE carries x_T: it keeps the standardised value (Song et al. 2021, appendix D)."""
    a, s = np.sqrt(schedule.alphas_cumprod[-1]), np.sqrt(1 - schedule.alphas_cumprod[-1])
    return MEAN + STD * (x_start - a * MEAN) / np.sqrt(a**2 * STD**2 + s**2)


def start_noise(schedule, n):
    """x_T, drawn out of the sampler by one step of a 'denoiser' that returns its input."""
    return np.asarray(draw(schedule, samplers.Sampler("ddim", 1, clip=False), n, denoise=lambda x, t: x))


def test_ddim_converges_at_first_order():
    schedule = schedules.Schedule.named("cosine", 4096)
    truth = exact_flow(schedule, start_noise(schedule, 64))
    errors = [
        np.abs(np.asarray(draw(schedule, samplers.Sampler("ddim", steps, clip=False), 64)) - truth).max()
        for steps in (32, 64, 128, 256)
    ]
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    np.testing.assert_allclose(ratios, 2.0, atol=0.3)


def test_start_noise_is_standard_normal_and_the_same_for_any_number_of_steps():
    schedule = schedules.Schedule.named("cosine", 1000)
    noise = start_noise(schedule, 4096)
    assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
    assert abs(noise.std() - 1) < 4 / np.sqrt(2 * noise.size)
    few, many = (np.asarray(draw(schedule, samplers.Sampler("ddim", s, clip=False), 32)) for s in (50, 1000))
    np.testing.assert_allclose(few, many, atol=0.1)


def test_clipping_keeps_every_image_within_range():
    schedule = schedules.Schedule.named("linear", 100)
    for name in samplers.CONSTANTS:
        x = np.asarray(draw(schedule, samplers.Sampler(name, 20), 64, denoise=lambda x, t: 3 * x))
        assert np.abs(x).max() <= 1.0


@pytest.mark.parametrize("variance", ("fixed_small", "fixed_large"))
def test_ddpm_step_is_the_posterior_of_ho_et_al(variance):
    """Equations 6 and 7, with the betas of section 4 themselves."""
    beta = np.linspace(1e-4, 0.02, 1000)
    abar = np.cumprod(1 - beta)
    schedule = schedules.Schedule.named("linear", 1000)
    np.testing.assert_allclose(schedule.alphas_cumprod, abar, rtol=1e-12)
    c = samplers.step_coefficients(samplers.Sampler("ddpm", 1000, variance), schedule)
    t = np.arange(999, 0, -1)
    np.testing.assert_array_equal(c["t"], np.append(t, 0))
    np.testing.assert_allclose(c["on_x0"][:-1], np.sqrt(abar[t - 1]) * beta[t] / (1 - abar[t]), rtol=1e-5)
    np.testing.assert_allclose(c["on_x"][:-1], np.sqrt(1 - beta[t]) * (1 - abar[t - 1]) / (1 - abar[t]), rtol=1e-5)
    small = (1 - abar[t - 1]) / (1 - abar[t]) * beta[t]
    np.testing.assert_allclose(c["on_noise"][:-1] ** 2, small if variance == "fixed_small" else beta[t], rtol=1e-5)
    np.testing.assert_allclose([c["on_x0"][-1], c["on_x"][-1], c["on_noise"][-1]], [1, 0, 0], atol=1e-6)


def test_ddim_with_eta_one_has_the_moments_of_ddpm():
    """Song et al. 2021, section 4.1: sigma(eta = 1) makes the generative process that of DDPM."""
    schedule = schedules.Schedule.named("cosine", 1000)
    ddim = samplers.step_coefficients(samplers.Sampler("ddim", 100, eta=1.0), schedule)
    ddpm = samplers.step_coefficients(samplers.Sampler("ddpm", 100, "fixed_small"), schedule)
    # Substituting eps = (x - a x0) / s turns the one form into the other.
    np.testing.assert_allclose(ddim["on_noise"], ddpm["on_noise"], rtol=1e-5)
    np.testing.assert_allclose(ddim["on_eps"] / ddim["noise"], ddpm["on_x"], rtol=1e-4, atol=1e-6)
    on_x0 = ddim["on_x0"] - ddim["on_eps"] * ddim["signal"] / ddim["noise"]
    np.testing.assert_allclose(on_x0, ddpm["on_x0"], rtol=1e-3, atol=1e-5)


class ExactNetwork(nn.Module):
    """What a perfectly trained network of each prediction type would say of Gaussian data."""

    schedule: schedules.Schedule
    prediction_type: str

    def __call__(self, x, t, condition=None, train=False):
        signal, noise = self.schedule.signal_and_noise(t, x.ndim)
        x0 = exact_denoiser(self.schedule)(x, t)
        eps = prediction_types.implied_eps(x0, x, signal, noise)
        return prediction_types.target(self.prediction_type, x0, eps, signal, noise)


@pytest.mark.parametrize("sampler", [samplers.Sampler("ddpm", 50), samplers.Sampler("ddim", 50, eta=0.5)], ids=lambda s: s.name)
def test_every_prediction_type_draws_the_same_images_with_every_sampler(sampler):
    schedule = schedules.Schedule.named("linear", 1000)
    drawn = []
    for name in prediction_types.NAMES:
        algorithm = diffusion.Diffusion(
            network=ExactNetwork(schedule, name),
            image_shape=SHAPE,
            schedule=schedule,
            objective=diffusion.Objective(prediction_type=name),
            sampler=dataclasses.replace(sampler, clip=False),
            training=base.Training(),
        )
        state = base.TrainState(step=0, params={"unet": {}}, opt_state={}, ema_params={})
        keys = rng.per_index(jax.random.key(0), jnp.arange(16))
        drawn.append(jax.jit(algorithm.sample, static_argnums=3)(state, keys, {}, algorithm.Request()))
    chex.assert_trees_all_close(*drawn, atol=2e-3)
    assert np.std(drawn[0]) > 0.1
