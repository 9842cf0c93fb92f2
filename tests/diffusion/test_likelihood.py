"""Likelihoods of data whose own is known: a correlated Gaussian, and independent pixels of 256 values."""

import functools
import types

import jax
from jax import numpy as jnp
import numpy as np
import pytest
from scipy import stats

from imagegen_jax.diffusion import likelihood
from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import solvers


def process(name, schedule="cosine", length=1000):
    return processes.PROCESSES[name](types.SimpleNamespace(schedule=schedule, length=length, data_std=0.5))


CONTINUOUS = {"vp": process("vp", "linear"), "ve": process("ve"), "flow": process("flow")}
SHAPE, D = (2, 2, 1), 4
LN2 = np.log(2)


def bits(nats):
    return np.asarray(nats, np.float64) / D / LN2


def assert_mean(drawn, expected, bias=0.0):
    """Within 4 standard errors, and above by no more than a known bias."""
    error = 4 * drawn.std(ddof=1) / np.sqrt(len(drawn))
    assert expected - error < drawn.mean() < expected + bias + error


# ------------------------------------------------------------------------------------------------- probability-flow ODE

MEAN = np.array([0.3, -0.2, 0.1, 0.0])
CORRELATIONS = np.array([[1, 0.4, 0.1, 0], [0.4, 1, 0.3, 0.1], [0.1, 0.3, 1, -0.2], [0, 0.1, -0.2, 1]])
STDS = np.array([0.2, 0.5, 0.3, 0.4])
COVARIANCE = STDS[:, None] * CORRELATIONS * STDS
VARIANCES, AXES = map(jnp.float32, np.linalg.eigh(COVARIANCE))


def gaussian(x, level, condition=()):
    """E[x0 | x_t] of the correlated Gaussian: its axes shrink one by one."""
    shrink = level.alpha * VARIANCES / (level.alpha**2 * VARIANCES + level.sigma**2)
    gap = (x.reshape(-1, D) - level.alpha * MEAN) @ AXES
    return solvers.Estimate((MEAN + shrink * gap @ AXES.T).reshape(x.shape))


UNIT_VECTORS = np.sqrt(D) * np.eye(D, dtype=np.float32).reshape(D, *SHAPE)


def log_density(one, x, probes):
    def find(x, probes):
        return likelihood.log_density(gaussian, one, x, probes, (), rtol=1e-5, atol=1e-5)

    return np.asarray(jax.jit(find)(x, probes), np.float64)


@pytest.mark.parametrize("name", ["ddpm", *CONTINUOUS])
def test_the_density_of_the_ode_is_that_of_the_data(name):
    """To 1e-3 bits/dim. A process whose most noise is 80 or 150 keeps a trace of each image, which the mean over them loses."""
    n, one = 128, CONTINUOUS.get(name) or process("ddpm")
    x = np.random.default_rng(1).multivariate_normal(MEAN, COVARIANCE, n)
    truth = stats.multivariate_normal(MEAN, COVARIANCE).logpdf(x)
    found = log_density(one, x.reshape(n, *SHAPE).astype(np.float32), np.broadcast_to(UNIT_VECTORS, (n, *UNIT_VECTORS.shape)))
    assert np.mean(bits(found - truth)) == pytest.approx(0, abs=1e-3)
    assert np.abs(bits(found - truth)).max() < (0.02 if name in ("vp", "ve") else 2e-3)


def test_random_signs_estimate_the_trace_without_bias():
    n, one = 512, CONTINUOUS["flow"]
    x = np.broadcast_to(np.float32(0.4), (n, *SHAPE))
    truth = stats.multivariate_normal(MEAN, COVARIANCE).logpdf(np.full(D, 0.4))
    drawn = log_density(one, x, jax.random.rademacher(jax.random.key(0), (n, 2, *SHAPE), jnp.float32))
    assert np.std(drawn) > 0.1
    assert_mean(drawn, truth)


# ---------------------------------------------------------------------------------------------------------- 8-bit pixels

LEVELS = np.arange(256) / 127.5 - 1
SHARES = stats.norm.pdf(LEVELS, 0.2, 0.3) + 0.2 * stats.norm.pdf(LEVELS, -0.7, 0.05)
SHARES /= SHARES.sum()


def of_pixels(x, level, condition=()):
    """E[x0 | x_t] of independent pixels of these shares."""
    log_shares = jnp.log(jnp.asarray(SHARES, jnp.float32)) - jnp.square((x[..., None] - level.alpha * LEVELS) / level.sigma) / 2
    return solvers.Estimate((jax.nn.softmax(log_shares, -1) * LEVELS).sum(-1))


def pixels(n):
    """(x0, their negative log likelihood in bits/dim)."""
    value = np.random.default_rng(0).choice(256, (n, *SHAPE), p=SHARES)
    return jnp.asarray(LEVELS[value], jnp.float32), bits(-np.log(SHARES[value]).sum((1, 2, 3)))


def keys(n):
    return jax.random.split(jax.random.key(0), n)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_continuous_bound_of_the_exact_denoiser_is_tight(name):
    """But for the reconstruction, which does not know which values are frequent."""
    n = 256
    x0, truth = pixels(n)
    find = jax.jit(lambda *given: likelihood.continuous_bound(of_pixels, CONTINUOUS[name], *given, (), samples=64))
    found = find(keys(n), x0)
    assert_mean(bits(sum(found.values())) - truth, 0.0, bias=0.01)
    assert 0 <= bits(found["prior"]).mean() < 1e-3


def test_other_bounds_of_the_exact_denoiser():
    """They are above the truth. The ODE's is near: it is of pixels with the least noise, and values are spread wider."""
    n = 64
    x0, truth = pixels(n)
    ode = jax.jit(lambda: likelihood.ode_bound(of_pixels, CONTINUOUS["flow"], keys(n), x0, (), samples=2))()
    assert_mean(bits(ode["density"]) - truth, 0.0, bias=0.5)
    few = process("ddpm", length=50)
    discrete = jax.jit(lambda: likelihood.discrete_bound(of_pixels, few, keys(n), x0, (), variance="fixed_small", samples=49))()
    assert 0.5 < np.mean(bits(sum(discrete.values())) - truth) < 2


T = 5
FRACTION = 0.2 + 0.15 * np.arange(T)


def by_step(x, level, condition=()):
    """.2 x_t + .05 t, but at t = 0 a constant, so that every term's expectation over the noise is in closed form."""
    t = level.time
    return solvers.Estimate(0.05 * t + jnp.where(t == 0, 0.1, 0.2 * x), jnp.full_like(x, jnp.asarray(FRACTION)[t]))


def terms_by_hand(one, x0, variance):
    """{part: nats} of one image, by Ho et al. 2020, equations 4 to 7 and 13, and Nichol & Dhariwal 2021, equation 15."""
    abar = one.alphas_cumprod
    alpha = abar / np.append(1, abar[:-1])
    beta = 1 - alpha
    prior = stats.norm(np.sqrt(abar[-1]) * x0, np.sqrt(1 - abar[-1]))
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    z = prior.mean()[..., None] + prior.std()[..., None] * nodes
    parts = {"prior": ((stats.norm.logpdf(z, *(v[..., None] for v in prior.args)) - stats.norm.logpdf(z)) * weights).sum()}
    parts["prior"] /= weights.sum()
    small = np.append(0, (1 - abar[:-1]) / (1 - abar[1:]) * beta[1:])
    small[0] = small[1]
    variances = {
        "fixed_small": small,
        "fixed_large": np.append(small[1], beta[1:]),
        "learned": np.exp(FRACTION * np.log(beta) + (1 - FRACTION) * np.log(small)),
    }[variance]
    total = 0.0
    for t in range(1, T):
        on_x0 = np.sqrt(abar[t - 1]) * beta[t] / (1 - abar[t])
        error = (x0 - 0.05 * t - 0.2 * np.sqrt(abar[t]) * x0) ** 2 + 0.04 * (1 - abar[t])
        ratio = small[t] / variances[t]
        total += (0.5 * (ratio - 1 - np.log(ratio) + on_x0**2 * error / variances[t])).sum()
    borders = np.array([-1, 1])[:, None, None, None] / 255 + x0
    borders[0][x0 < -0.999], borders[1][x0 > 0.999] = -np.inf, np.inf
    mass = np.diff(stats.norm.cdf(borders, 0.1, np.sqrt(variances[0])), axis=0)
    return parts | {"diffusion": total, "reconstruction": -np.log(mass).sum()}


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned"])
def test_the_discrete_bound_is_the_sum_over_all_steps(variance):
    one, n = process("ddpm", length=T), 2000
    x0 = LEVELS[np.array([0, 120, 150, 255])].reshape(SHAPE)
    wanted = terms_by_hand(one, x0, variance)
    many = jnp.broadcast_to(jnp.asarray(x0, jnp.float32), (n, *SHAPE))
    for samples in (2, T) if variance == "learned" else (T,):
        find = jax.jit(
            lambda samples=samples: likelihood.discrete_bound(
                by_step, one, keys(n), many, (), variance=variance, samples=samples
            )
        )
        found = {part: np.asarray(value, np.float64) for part, value in find().items()}
        for part in ("prior", "reconstruction"):
            np.testing.assert_allclose(found[part], wanted[part], rtol=2e-4)
        assert_mean(found["diffusion"], wanted["diffusion"])


def test_fractions_of_a_learned_variance():
    """0 is the small variance and 1 the large one (Nichol & Dhariwal 2021, equation 15); one term stands for all T."""
    one, t = process("ddpm", length=T), jnp.arange(T).reshape(T, 1, 1, 1)
    x0 = jnp.broadcast_to(jnp.asarray(LEVELS[[0, 9, 99, 255]].reshape(SHAPE), jnp.float32), (T, *SHAPE))

    @functools.partial(jax.jit, static_argnums=0)
    def cost(variance, fraction):
        return likelihood.step_cost(one, t, x0, solvers.Estimate(x0 / 2, jnp.full_like(x0, fraction)), variance)

    np.testing.assert_allclose(cost("learned", 0.0), cost("fixed_small", 0.0), rtol=1e-5)
    np.testing.assert_allclose(cost("learned", 1.0)[1:], cost("fixed_large", 0.0)[1:], rtol=1e-5)
    one_term = likelihood.one_term(one, t, x0, solvers.Estimate(x0 / 2, jnp.ones_like(x0)))
    np.testing.assert_allclose(one_term, T * bits(cost("learned", 1.0).sum((1, 2, 3))), rtol=1e-5)
