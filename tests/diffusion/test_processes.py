"""Processes, schedules, prediction types, weightings and times against their formulas."""

import itertools
import types

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax.diffusion import coupling
from imagegen_jax.diffusion import prediction_types
from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import schedules
from imagegen_jax.diffusion import time_grids
from imagegen_jax.diffusion import times as times_lib
from imagegen_jax.diffusion import weightings


def process(name, schedule="cosine", length=1000):
    return processes.PROCESSES[name](types.SimpleNamespace(schedule=schedule, length=length, data_std=0.5))


ALL = [("ddpm", "cosine"), ("vp", "linear"), ("vp", "cosine"), ("vp", "sigmoid"), ("ve", ""), ("flow", "")]
CONTINUOUS = ALL[1:]


@pytest.mark.parametrize("name", schedules.DISCRETE)
@pytest.mark.parametrize("length", [10, 1000])
def test_discrete_schedules_fall_from_almost_one_to_almost_zero(name, length):
    abar = schedules.DISCRETE[name](length)
    assert abar.shape == (length,) and abar.dtype == np.float64
    assert np.all(np.diff(abar) < 0) and 0 < abar[-1] < abar[0] < 1
    assert abar[-1] < 1e-3


def test_the_discrete_cosine_schedule_is_equation_17():
    length, s = 1000, 0.008
    abar = schedules.DISCRETE["cosine"](length)
    t = np.arange(length + 1)
    f = np.cos((t / length + s) / (1 + s) * np.pi / 2) ** 2
    unclipped = (1 - f[1:] / f[:-1]) < 0.999
    np.testing.assert_allclose(abar[unclipped], (f[1:] / f[0])[unclipped], rtol=1e-9)


def test_the_discrete_sigmoid_schedule_is_chens_algorithm_1():
    """alpha(t) of Chen 2023 with start -3, end 3, tau 1, by jax.nn's sigmoid."""
    length = 1000
    abar = schedules.DISCRETE["sigmoid"](length)
    t = np.arange(1, length) / length
    top, bottom = jax.nn.sigmoid(3.0), jax.nn.sigmoid(-3.0)
    expected = (top - jax.nn.sigmoid(jnp.asarray(t * 6 - 3))) / (top - bottom)
    np.testing.assert_allclose(abar[: length - 1], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("schedule", schedules.CURVES)
def test_many_discrete_steps_are_the_continuous_schedule(schedule):
    """Step t of T ends at (t + 1) / T. The cosine's offset and the first of few betas are what is left of the difference."""
    length = 100_000
    t = np.linspace(0.02, 0.98, 49)
    alpha, _ = process("vp", schedule).alpha_sigma(t)
    abar = schedules.DISCRETE[schedule](length)[np.round(t * length).astype(int) - 1]
    np.testing.assert_allclose(alpha**2, abar, atol=1e-2 if schedule == "cosine" else 1e-4)


@pytest.mark.parametrize(("name", "schedule"), ALL)
def test_a_process_in_float32_is_that_in_float64(name, schedule):
    one = process(name, schedule)
    t = one.at_fraction(jnp.linspace(0.01, 0.95, 33))
    exact = one.level(np.asarray(t, np.float64))
    np.testing.assert_allclose(np.hypot(exact.alpha, exact.sigma), exact.norm, rtol=1e-12)
    for found, expected in zip(one.level(t)[1:], exact[1:]):
        np.testing.assert_allclose(found, expected, rtol=2e-4)
    np.testing.assert_allclose(one.log_snr(t), 2 * np.log(exact.alpha / exact.sigma), rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(one.time(one.log_snr(exact.time)), exact.time, rtol=1e-9, atol=1e-9)
    assert one.level(t[:5]).for_images(4).alpha.shape == (5, 1, 1, 1)


@pytest.mark.parametrize(("name", "schedule"), CONTINUOUS)
def test_rates_are_derivatives(name, schedule):
    one = process(name, schedule)
    t = one.least + (one.most - one.least) * np.linspace(0.01, 0.99, 33)
    h = 1e-6 * np.minimum(t, abs(one.most - t))
    (after, before), middle = (one.alpha_sigma(t + h), one.alpha_sigma(t - h)), one.rates(t)
    for late, early, rate in zip(after, before, middle):
        np.testing.assert_allclose(rate, (late - early) / (2 * h), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(one.log_snr_rate(t), (one.log_snr(t + h) - one.log_snr(t - h)) / (2 * h), rtol=1e-4)


def test_the_betas_of_ddpm_are_the_grid_bit_for_bit():
    """Ho et al. 2020, section 4, in float64, and its roots rounded once."""
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    one = process("ddpm", "linear")
    np.testing.assert_array_equal(one.alphas_cumprod, abar)
    level = one.level(jnp.arange(1000))
    np.testing.assert_array_equal(level.alpha, np.sqrt(abar).astype(np.float32))
    np.testing.assert_array_equal(level.sigma, np.sqrt(1 - abar).astype(np.float32))
    np.testing.assert_array_equal(level.norm, 1)


def test_a_network_sees_unit_variance_of_an_exploding_process():
    """Karras et al. 2022, table 1: c_in = 1 / sqrt(sigma^2 + sd^2), c_noise = ln(sigma) / 4."""
    one = process("ve")
    t = jnp.array([0.1, 1.0, 80.0])
    shown = one.network_input(jnp.ones(3), one.level(t))
    np.testing.assert_allclose(shown, 1 / np.sqrt(np.array([0.1, 1.0, 80.0]) ** 2 + 0.25), rtol=1e-6)
    np.testing.assert_allclose(one.network_time(t), np.log([0.1, 1.0, 80.0]) / 4, rtol=1e-5, atol=1e-7)


def test_time_grids():
    """Karras et al. 2022, equation 5 with N = 18; the others' first and last, and their spacing."""
    i = np.arange(18)
    edm = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(time_grids.times("karras", process("ve"), 18), edm, rtol=1e-9)
    np.testing.assert_allclose(
        np.diff(np.log(time_grids.times("log_snr", process("ve"), 9))), np.log(0.002 / 80) / 8, rtol=1e-9
    )
    one = process("ddpm")
    np.testing.assert_array_equal(time_grids.times("trailing", one, 10), np.arange(999, -1, -100))
    np.testing.assert_allclose(time_grids.times("uniform", one, 10), np.arange(999, -1, -111))
    np.testing.assert_allclose(time_grids.times("quadratic", one, 4), [999, 444, 111, 0])
    for grid, (name, schedule) in itertools.product(time_grids.NAMES, ALL):
        one = process(name, schedule)
        found = time_grids.times(grid, one, 7)
        assert np.all(np.diff(found) < 0) and found[0] == pytest.approx(one.most, rel=1e-9) and found[-1] >= one.least * 0.999
        np.testing.assert_array_equal(time_grids.times(grid, one, 1), one.most)


@pytest.mark.parametrize("name", prediction_types.NAMES)
@pytest.mark.parametrize(("process_name", "schedule"), ALL)
def test_prediction_types_round_trip(process_name, schedule, name):
    one = process(process_name, schedule)
    t = one.at_fraction(jnp.linspace(0.02, 0.6, 64))
    level = one.level(t).for_images(2)
    x0, eps = jax.random.normal(jax.random.key(0), (2, 64, 4))
    x_t = level.alpha * x0 + level.sigma * eps
    prediction = prediction_types.target(name, x0, eps, level)
    back = prediction_types.to_x0(name, prediction, x_t, level)
    np.testing.assert_allclose(back, x0, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(prediction_types.implied_eps(x0, x_t, level), eps, rtol=1e-3, atol=1e-2)
    # The table's last column: an error d of the prediction is an error sqrt(ratio) d of x0.
    moved = prediction_types.to_x0(name, prediction + 10, x_t, level)
    ratio = prediction_types.x0_error_ratio(name, one.log_snr(t))[:, None]
    np.testing.assert_allclose(jnp.abs(moved - back), jnp.broadcast_to(10 * jnp.sqrt(ratio), back.shape), rtol=2e-2)


def test_predictions_are_those_of_the_papers():
    """v of Salimans & Ho 2022; F of Karras et al. 2022, D = c_skip x + c_out F; the velocity of flow matching, dx / dt."""
    x0, eps = np.random.default_rng(0).normal(size=(2, 5))
    vp, ve, flow = (process(name).level(np.float64(t)) for name, t in (("vp", 0.3), ("ve", 1.7), ("flow", 0.3)))
    np.testing.assert_allclose(prediction_types.target("v", x0, eps, vp), vp.alpha * eps - vp.sigma * x0)
    sigma, sd = 1.7, 0.5
    c_skip, c_out = sd**2 / (sigma**2 + sd**2), sigma * sd / np.sqrt(sigma**2 + sd**2)
    expected = (x0 - c_skip * (x0 + sigma * eps)) / c_out
    np.testing.assert_allclose(prediction_types.target("edm", x0, eps, ve, sd), expected, rtol=1e-6)
    np.testing.assert_allclose(prediction_types.to_x0("edm", 0.3, x0, ve, sd), c_skip * x0 + c_out * 0.3, rtol=1e-6)
    alpha_rate, sigma_rate = process("flow").rates(np.float64(0.3))
    np.testing.assert_allclose(prediction_types.target("velocity", x0, eps, flow), alpha_rate * x0 + sigma_rate * eps)


def test_weights_mean_the_same_for_every_prediction_type():
    log_snr = jnp.linspace(-8, 8, 17)
    snr = np.exp(log_snr)
    on_x0 = {"snr": snr, "min_snr": np.minimum(snr, 5), "edm": (1 / snr + 0.25) / (1 / snr * 0.25)}
    on_x0["sigmoid"] = snr / (1 + np.exp(log_snr - 2)) / 0.1
    for name in prediction_types.NAMES:
        ratio = prediction_types.x0_error_ratio(name, log_snr)
        for weighting, expected in on_x0.items():
            found = weightings.weight(weighting, name, log_snr, density=lambda: 0.1)
            np.testing.assert_allclose(found / ratio, expected, rtol=1e-5)
        np.testing.assert_array_equal(weightings.weight("simple", name, log_snr), 1)
    # Hang et al. 2023, section 3.4: min(SNR, gamma) / SNR for eps and min(SNR, gamma) / (SNR + 1) for v.
    np.testing.assert_allclose(weightings.weight("min_snr", "eps", log_snr), np.minimum(snr, 5) / snr, rtol=1e-5)
    np.testing.assert_allclose(weightings.weight("min_snr", "v", log_snr), np.minimum(snr, 5) / (snr + 1), rtol=1e-5)
    # Karras et al. 2022: lambda(sigma) c_out(sigma)^2 = 1, so that the error of F is unweighted.
    np.testing.assert_allclose(weightings.weight("edm", "edm", log_snr), 1, rtol=1e-5)


@pytest.mark.parametrize("stratified", [False, True])
def test_discrete_times_are_uniform(stratified):
    times = times_lib.Times(process("ddpm", length=10))
    draw = (lambda key: times.spread(key, 16)) if stratified else lambda key: times.draw(key, (16,))
    draws = jax.vmap(draw)(jax.random.split(jax.random.key(0), 2000))
    assert draws.min() == 0 and draws.max() == 9
    for row in (draws, draws[:, :1]):  # over the batch, and in its first place alone
        frequency = np.bincount(np.ravel(row), minlength=10) / row.size
        assert np.abs(frequency - 0.1).max() < 5 * np.sqrt(0.09 / row.size)


def test_stratified_times_fill_every_stratum_once():
    t = times_lib.Times(process("ddpm")).spread(jax.random.key(0), 10)
    gaps = np.diff(np.sort(np.asarray(t)))
    assert np.all(np.abs(gaps - 100) <= 1)


@pytest.mark.parametrize(
    ("name", "schedule", "times", "shift"),
    [
        *((*one, *times) for one in ALL for times in (("uniform", 1.0), ("log_normal", 2.0))),
        ("flow", "", "uniform", 3.0),  # of a wide range, so that few times are beyond its end, where they stay at it
        ("vp", "cosine", "uniform", 3.0),
    ],
)
def test_the_density_of_log_snr_is_that_of_the_times(name, schedule, times, shift):
    """By a histogram of draws; and log(sigma / alpha) of log_normal has the mean and deviation of table 1, shifted."""
    one = times_lib.Times(process(name, schedule), times, shift=shift)
    drawn = np.asarray(one.process.log_snr(one.spread(jax.random.key(0), 40_000)), np.float64)
    edges = np.quantile(drawn, np.linspace(0.1, 0.9, 9))
    for low, high in itertools.pairwise(edges):
        inside = np.linspace(low, high, 65)
        expected = np.trapezoid(np.asarray(one.log_snr_density(jnp.asarray(inside, jnp.float32))), inside)
        assert expected == pytest.approx(np.mean((drawn >= low) & (drawn < high)), rel=0.03 if name == "ddpm" else 0.01)
    if times == "log_normal" and name != "ddpm":
        assert np.mean(-drawn / 2) == pytest.approx(-1.2 + np.log(shift), abs=0.02)
        assert np.std(-drawn / 2) == pytest.approx(1.2, abs=0.03)


def test_log_normal_noise_is_logit_normal_time_in_a_flow():
    """FM's CIFAR-10 recipe: t = 1 / (1 + sigma) of the image, with the sigmas of Karras et al."""
    t = times_lib.Times(process("flow"), "log_normal").spread(jax.random.key(0), 20_000)
    logit = np.log(t) - np.log1p(-t)
    assert np.mean(logit) == pytest.approx(-1.2, abs=0.02) and np.std(logit) == pytest.approx(1.2, abs=0.02)


def test_optimal_coupling_is_the_best_of_all_orders():
    x0, eps = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    cost = {order: np.square(x0 - eps[list(order)]).sum() for order in itertools.permutations(range(5))}
    np.testing.assert_array_equal(jax.jit(coupling.optimal)(x0, eps), eps[list(min(cost, key=cost.get))])
