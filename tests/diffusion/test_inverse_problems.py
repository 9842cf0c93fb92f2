"""Methods on a Gaussian whose exact denoiser, and so the posterior given y = A x + noise, is known."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax.diffusion import inverse_problems
from imagegen_jax.diffusion import linear_operators
from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import samplers
from imagegen_jax.diffusion import schedules
from imagegen_jax.diffusion import solvers

method_of = inverse_problems.Method
SHAPE, SIZE, DRAWN = (4, 4, 1), 16, 1500
PROCESSES = {
    "ve": (processes.VarianceExploding(), "karras"),
    "ddpm": (processes.Discrete(schedules.DISCRETE["cosine"](1000)), "log_snr"),
    "flow": (processes.RectifiedFlow(), "karras"),
}
RNG = np.random.default_rng(0)
PLACES = np.stack(np.meshgrid(range(4), range(4)), -1).reshape(-1, 2)
COVARIANCE = 0.25 * np.exp(-np.abs(PLACES[:, None] - PLACES).sum(-1) / 3.0)  # of neighbours
MEAN = 0.2 * RNG.standard_normal(SIZE)
KEPT = np.arange(4)[None, None] < np.full((1, 4, 1), 2)  # the left half
OPERATORS = {
    "masking": linear_operators.masking(KEPT, 1),
    "averaging": linear_operators.averaging(SHAPE, 2),
    "blurring": linear_operators.blurring(SHAPE, 0.7),
}


def denoiser(covariance):
    """E[x0 | x_t] = m + alpha C (alpha^2 C + sigma^2)^-1 (x_t - alpha m)."""
    variances, axes = (jnp.asarray(array, jnp.float32) for array in np.linalg.eigh(covariance))

    def denoise(x, level, condition=()):
        components = (x.reshape(len(x), SIZE) - level.alpha * jnp.float32(MEAN)) @ axes
        shrunk = components * level.alpha * variances / (level.alpha**2 * variances + level.sigma**2)
        return solvers.Estimate((jnp.float32(MEAN) + shrunk @ axes.T).reshape(x.shape))

    return denoise


def posterior(a, noise, covariance):
    """(y, mean, covariance) of x given y = A x + noise, for an x of the prior."""
    columns = linear_operators.apply(a, jnp.eye(SIZE).reshape(SIZE, *SHAPE))
    matrix = np.asarray(columns, np.float64).reshape(SIZE, -1).T
    y = matrix @ np.random.default_rng(1).multivariate_normal(MEAN, covariance)
    y += noise * np.random.default_rng(2).standard_normal(len(y))
    gain = covariance @ matrix.T @ np.linalg.pinv(matrix @ covariance @ matrix.T + noise**2 * np.eye(len(y)), rcond=1e-6)
    return matrix, y, MEAN + gain @ (y - matrix @ MEAN), covariance - gain @ matrix @ covariance


def drawn(method, a, y, noise, covariance=COVARIANCE, process="ve", steps=150, num=DRAWN):
    """(num, SIZE) float64."""
    process, grid = PROCESSES[process]
    seen = np.broadcast_to(y.reshape(a.observed_shape(SHAPE)), (num, *a.observed_shape(SHAPE))).astype(np.float32)

    def draw(keys):
        sampler = samplers.Sampler("ddpm", steps, grid, clip=False)
        given = inverse_problems.Drawing(denoiser(covariance), process, sampler, keys, SHAPE)
        return method.draw(given, inverse_problems.Observation(a, jnp.asarray(seen), noise))

    return np.asarray(jax.jit(draw)(jax.random.split(jax.random.key(0), num)), np.float64).reshape(num, SIZE)


def check_posterior(x, mean, covariance, more=0.0):
    """Within 4 standard errors and an error of discretisation, which makes steps of fixed_small narrower by a few per cent."""
    std = np.sqrt(np.diag(covariance).max())
    np.testing.assert_allclose(x.mean(0), mean, atol=4 * std / np.sqrt(len(x)) + 0.01 + more)
    wanted = 4 * np.sqrt(2 / len(x)) * std**2 + 0.08 * std**2 + 0.002 + more
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=wanted)


@pytest.mark.parametrize(
    ("process", "name", "noise"),
    [
        ("ve", "masking", 0.0),
        ("ddpm", "masking", 0.3),
        ("flow", "averaging", 0.3),
        ("ve", "averaging", 0.0),
        ("ve", "blurring", 0.3),
    ],
)
def test_moment_matching_samples_the_posterior(process, name, noise):
    """Which ddnm does not, of neighbouring pixels that depend on each other."""
    _, y, mean, covariance = posterior(OPERATORS[name], noise, COVARIANCE)
    check_posterior(drawn(method_of("mmps", iterations=SIZE), OPERATORS[name], y, noise, process=process), mean, covariance)


@pytest.mark.parametrize(("name", "noise"), [("masking", 0.0), ("masking", 0.3), ("averaging", 0.3), ("averaging", 0.0)])
def test_null_space_samples_the_posterior_of_independent_pixels(name, noise):
    covariance = inverse_problems.DATA_STD**2 * np.eye(SIZE)
    _, y, mean, wanted = posterior(OPERATORS[name], noise, covariance)
    check_posterior(drawn(method_of("ddnm", repeats=1), OPERATORS[name], y, noise, covariance), mean, wanted)


def test_null_space_is_biased_as_it_says():
    """The hidden half follows the seen one too little, and repeated steps make it follow."""
    a = OPERATORS["masking"]
    _, y, mean, covariance = posterior(a, 0.0, COVARIANCE)
    moved = mean - MEAN

    def share(method, steps):
        x = drawn(method, a, y, 0.0, steps=steps)
        return (x.mean(0) - MEAN) @ moved / (moved @ moved), np.trace(np.cov(x.T)) / np.trace(covariance)

    ddnm, repainted = share(method_of("ddnm", repeats=1), 150), share(method_of("repaint", repeats=15), 50)
    assert ddnm[0] < 0.97 and ddnm[1] > 1.1
    assert repainted[0] == pytest.approx(1, abs=0.02) and 0.7 < repainted[1] < 1.05


def test_repainting_comes_near_the_posterior():
    for name, noise, repeats in (("masking", 0.0, 15), ("averaging", 0.0, 15), ("averaging", 0.3, 4)):
        _, y, mean, covariance = posterior(OPERATORS[name], noise, COVARIANCE)
        x = drawn(method_of("repaint", repeats=repeats), OPERATORS[name], y, noise, steps=60)
        check_posterior(x, mean, covariance, more=0.05)


@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_observed_without_noise_is_kept(name):
    a = OPERATORS[name]
    matrix, y, _, _ = posterior(a, 0.0, COVARIANCE)
    for method in (method_of("ddnm"), method_of("repaint"), method_of("mmps", iterations=SIZE)):
        np.testing.assert_allclose(drawn(method, a, y, 0.0, steps=8, num=2) @ matrix.T, np.stack([y, y]), atol=1e-4)
    guided = drawn(method_of("reconstruction"), a, y, 0.0, num=2) @ matrix.T
    free = drawn(method_of("reconstruction", weight=1e-6), a, y, 0.0, num=2) @ matrix.T
    assert np.abs(guided - y).max() < 0.4 * np.abs(free - y).max()  # near it


def test_an_image_is_a_function_of_its_own_key():
    a = OPERATORS["masking"]
    _, y, _, _ = posterior(a, 0.1, COVARIANCE)
    for name in ("ddnm", "repaint", "reconstruction", "mmps"):
        many, few = (drawn(method_of(name), a, y, 0.1, steps=4, num=num) for num in (4, 2))
        # jax.random.split(key, 2) begins as split(key, 4) does
        np.testing.assert_allclose(many[:2], few, atol=1e-5)
        assert np.abs(many[0] - many[1]).max() > 0.05


def test_noise_is_given_and_taken_away():
    """Of the prior, SDEdit makes the prior at any strength; and the less strength, the nearer it stays."""
    process, grid = PROCESSES["ve"]
    x0 = np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, DRAWN).reshape(-1, *SHAPE).astype(np.float32)
    far = []
    for strength in (0.3, 0.6, 1.0):
        keys = jax.random.split(jax.random.key(0), DRAWN)
        sampler = samplers.Sampler("ddpm", 150, grid, clip=False)
        drawing = inverse_problems.Drawing(denoiser(COVARIANCE), process, sampler, keys, SHAPE)
        x = np.asarray(jax.jit(lambda x0: inverse_problems.noised(drawing, x0, strength))(x0), np.float64)  # noqa: B023
        check_posterior(x.reshape(-1, SIZE), MEAN, COVARIANCE)
        far.append(np.abs(x - x0).mean())
    assert far[0] < far[1] < far[2]
    levels = samplers.levels(process, sampler)
    begun = [inverse_problems.begins(levels, strength) for strength in (0.5, 1.0, 1e-4)]
    assert levels.noise_ratio[begun[0]] <= 1 < levels.noise_ratio[begun[0] - 1] and begun[1:] == [0, 149]
