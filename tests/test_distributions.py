"""Distributions against scipy, numerical integrals and float64; every likelihood is one of 8-bit images."""

import math

import jax
from jax import numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from scipy import special
from scipy import stats

from imagegen_jax import distributions
from imagegen_jax import images

WIDTH = 2 / 255
VALUES = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)


def observed(likelihood, image, noise=0.5):
    return likelihood.observe(jnp.asarray(image), jnp.full(image.shape, noise))


def log_masses(likelihood, mean, log_scale=None):
    """(256,) log probability of each value of one pixel."""
    output = jnp.full((256, 1, 1, 1), mean)
    if log_scale is not None:
        output = jnp.concatenate([output, jnp.full_like(output, log_scale - math.log(likelihood.sigma))], -1)
    return likelihood.log_prob(likelihood.init(), output, observed(likelihood, VALUES))


def exact_logistic(mean, scale):
    """(256,) masses between the borders of the values, in float64."""
    borders = (np.arange(257) - 0.5) * WIDTH - 1
    borders[[0, -1]] = -np.inf, np.inf
    logits = (borders - mean) / scale
    # Above the mean, the difference of what lies above is the one without cancellation.
    lower, upper = logits[:-1], logits[1:]
    return np.where(lower > 0, special.expit(-lower) - special.expit(-upper), special.expit(upper) - special.expit(lower))


# ------------------------------------------------------------------------------------------------------------------ Gaussian


def random_gaussian(seed, n=8):
    drawn = np.random.default_rng(seed)
    return distributions.Gaussian(drawn.normal(0, 2, n), drawn.normal(0, 0.7, n))


def test_log_density_is_scipys():
    gaussian = random_gaussian(0, 1000)
    value = np.random.default_rng(1).normal(0, 5, 1000)
    wanted = stats.norm.logpdf(value, gaussian.mean, np.exp(gaussian.log_std))
    np.testing.assert_allclose(gaussian.log_density(value), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("std", [1e-3, 0.02, 1.0])
@pytest.mark.parametrize("mean", [-1.3, 0.1, 1.0])
def test_log_masses_are_scipys_and_those_of_all_values_add_up_to_one(mean, std):
    x = np.float32(np.arange(256) / 127.5 - 1)
    found = np.asarray(distributions.Gaussian(jnp.full(256, mean), jnp.log(std)).log_mass(x), np.float64)
    assert special.logsumexp(found) == pytest.approx(0, abs=1e-4)
    borders = (np.arange(257) - 0.5) * WIDTH - 1
    borders[[0, -1]] = -np.inf, np.inf
    borders = (borders - mean) / std
    wanted = np.where(
        borders[:-1] > 0, stats.norm.sf(borders[:-1]) - stats.norm.sf(borders[1:]), np.diff(stats.norm.cdf(borders))
    )
    seen = wanted > 1e-30
    np.testing.assert_allclose(found[seen], np.log(wanted[seen]), rtol=1e-3, atol=2e-4)
    assert np.isfinite(found).all() and (found[~seen] < -60).all()


def test_kl_is_the_integral():
    p, q = random_gaussian(2), random_gaussian(3)
    wanted = []
    for mean, log_std, other_mean, other_log_std in zip(*p, *q):
        ours, theirs = stats.norm(mean, np.exp(log_std)), stats.norm(other_mean, np.exp(other_log_std))

        def integrand(x, ours=ours, theirs=theirs):
            return ours.pdf(x) * (ours.logpdf(x) - theirs.logpdf(x))

        reach = 12 * ours.std()
        wanted.append(integrate.quad(integrand, mean - reach, mean + reach)[0])
    assert min(wanted) > 0.01
    np.testing.assert_allclose(p.kl(q), wanted, rtol=1e-4)
    np.testing.assert_allclose(p.kl(p), 0, atol=1e-6)


def test_temperature_multiplies_the_deviation():
    gaussian = random_gaussian(4)
    noise = np.linspace(-2, 2, 8)
    np.testing.assert_allclose(gaussian.at(noise, 0.0), gaussian.mean, rtol=1e-6)
    np.testing.assert_allclose(
        gaussian.at(noise, 0.5) - gaussian.mean, 0.5 * np.exp(gaussian.log_std) * noise, rtol=1e-4, atol=1e-5
    )
    standard = distributions.Gaussian.standard((3,))
    np.testing.assert_array_equal(standard.at(noise[:3]), noise[:3].astype(np.float32))


# ------------------------------------------------------------------------------------------------------ logistic, bin by bin


@pytest.mark.parametrize("scale", [1e-4, 9e-4, 0.01, 0.1, 1.0, 50.0, 1e6])
def test_logistic_masses_are_those_between_the_borders(scale):
    likelihood = distributions.Likelihood("logistic", "fixed", scale)
    for mean in (-30.0, -1.0, -1 + WIDTH / 2, -0.3, 0.0, 0.777, 1.0, 1.5, 30.0):
        ours = np.asarray(log_masses(likelihood, mean), np.float64)
        # A border is rounded by 1e-7, which a scale of 1e-4 makes 1e-3.
        assert abs(np.exp(ours).sum() - 1) < 1e-6 + 4e-7 / scale, (mean, scale)
        with np.errstate(divide="ignore"):
            wanted = np.log(exact_logistic(mean, scale))
        assert np.isfinite(ours).all()
        seen = wanted > -600  # the rest underflows in the float64 formula, and not in ours
        np.testing.assert_allclose(ours[seen], wanted[seen], rtol=2e-6, atol=2e-6 + 4e-7 / scale)


@pytest.mark.parametrize("name", ["gaussian", "logistic"])
@pytest.mark.parametrize("log_scale", [-200.0, -7.0, -2.3, 3.0, 200.0])
def test_gradients_are_finite(name, log_scale):
    likelihood = distributions.Likelihood(name)
    for mean in (-20.0, -1.0, 0.1, 1.0, 20.0):
        assert np.isfinite(log_masses(likelihood, mean, log_scale)).all()
        gradients = jax.grad(lambda m, s: log_masses(likelihood, m, s).sum(), (0, 1))(mean, log_scale)
        assert np.isfinite(gradients).all(), (mean, gradients)


def test_a_logistic_far_from_the_value_is_pulled_towards_it():
    """Where a difference of two sigmoids would be 0 in float32, and its gradient nothing or not a number."""
    likelihood = distributions.Likelihood("logistic", "fixed", 1e-3)
    gradient = jax.grad(lambda mean: log_masses(likelihood, mean)[200])(-0.9)
    np.testing.assert_allclose(gradient, 1e3, rtol=1e-3)  # of log e^(-|x - mean| / scale)


@pytest.mark.parametrize("scale", ("fixed", "shared", "pixel"))
@pytest.mark.parametrize("name", ["gaussian", "logistic"])
def test_scale_comes_from_where_it_should(name, scale):
    likelihood = distributions.Likelihood(name, scale, sigma=0.2)
    params = likelihood.init()
    assert (likelihood.outputs(3) == 6) == (scale == "pixel")
    assert bool(params) == (scale == "shared")
    drawn = np.random.default_rng(5)
    image = drawn.integers(0, 256, (2, 4, 4, 3), np.uint8)
    mean = drawn.uniform(-1, 1, image.shape).astype(np.float32)
    log_scale = np.full(image.shape, np.log(0.2), np.float32)
    output = mean
    if scale == "pixel":
        change = drawn.normal(0, 0.3, image.shape).astype(np.float32)
        output, log_scale = np.concatenate([mean, change], -1), log_scale + change
    if scale == "shared":
        params, log_scale = {"log_scale": jnp.log(0.3)}, np.full(image.shape, np.log(0.3), np.float32)
    x = observed(likelihood, image)
    if name == "gaussian":
        wanted = stats.norm.logpdf(x, mean, np.exp(log_scale)) + np.log(WIDTH)
    else:
        masses = [exact_logistic(m, s)[v] for m, s, v in zip(mean.flat, np.exp(log_scale).flat, image.flat)]
        wanted = np.log(masses).reshape(image.shape)
    np.testing.assert_allclose(likelihood.log_prob(params, output, x), wanted.sum((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(likelihood.mean(output), mean, atol=1e-6)


# --------------------------------------------------------------------------------------------------------- the other two


def log_normal_mass(lower, upper):
    """log(Phi(upper) - Phi(lower)), on the side of 0 where it does not cancel."""
    if lower > 0:
        lower, upper = -upper, -lower
    return special.log_ndtr(upper) + np.log1p(-np.exp(special.log_ndtr(lower) - special.log_ndtr(upper)))


@pytest.mark.parametrize("scale", [0.004, 0.02, 0.1, 1.0])
def test_gaussian_bounds_the_mass_of_a_value(scale):
    """On average over the noise; the rest, about width^2 / 24 of the variance of the gradient, is nothing where it is wide."""
    likelihood = distributions.Likelihood("gaussian", "fixed", scale)
    levels = 1000
    noise = ((np.arange(levels) + 0.5) / levels).astype(np.float32).reshape(-1, 1, 1, 1)
    for value, mean in ((0, -1.0), (3, -0.99), (127, 0.05), (200, 0.5), (255, 0.98)):
        image = np.full(noise.shape, value, np.uint8)
        x = likelihood.observe(jnp.asarray(image), noise)
        bound = likelihood.log_prob({}, jnp.full(noise.shape, mean), x).mean()
        centre = value * WIDTH - 1
        assert abs(x.mean() - centre) < 1e-5 and x.max() - x.min() == pytest.approx(WIDTH, rel=2e-3)
        exact = log_normal_mass(*((centre + side * WIDTH / 2 - mean) / scale for side in (-1, 1)))
        distance = (centre - mean) / scale
        gap = (WIDTH / scale) ** 2 * (1 + distance**2) / 24
        assert bound <= exact + 1e-4 * (1 + abs(exact))
        assert bound >= exact - 1.5 * gap - 1e-4 * (1 + abs(exact))


def test_bernoulli_is_scipys_of_pixels_drawn_by_their_grey():
    likelihood = distributions.Likelihood("bernoulli")
    assert likelihood.outputs(3) == 3 and likelihood.init() == {}
    drawn = np.random.default_rng(6)
    image = drawn.integers(0, 256, (4, 8, 8, 3), np.uint8)
    x = np.asarray(likelihood.observe(jnp.asarray(image), drawn.random(image.shape, np.float32)))
    assert set(np.unique(x)) == {-1.0, 1.0}
    logits = drawn.normal(0, 4, image.shape).astype(np.float32)
    p = special.expit(logits.astype(np.float64))
    wanted = stats.bernoulli.logpmf((x + 1) / 2, p).sum((1, 2, 3))
    np.testing.assert_allclose(likelihood.log_prob({}, logits, x), wanted, rtol=1e-5)
    np.testing.assert_allclose(likelihood.mean(logits), 2 * p - 1, atol=1e-6)
    assert np.isfinite(likelihood.log_prob({}, jnp.full(x.shape, 1e4), x)).all()

    grey = np.broadcast_to(VALUES, (256, 20, 20, 1))
    share = (likelihood.observe(jnp.asarray(grey), drawn.random(grey.shape, np.float32)) > 0).mean((1, 2, 3))
    np.testing.assert_allclose(share, np.arange(256) / 255, atol=4 * 0.5 / 20)
    assert share[0] == 0 and share[255] == 1


def test_logistic_observes_the_image_itself():
    image = np.random.default_rng(7).integers(0, 256, (2, 4, 4, 1), np.uint8)
    likelihood = distributions.Likelihood("logistic")
    np.testing.assert_array_equal(images.to_uint8(likelihood.observe(jnp.asarray(image), 0.123)), image)


def test_a_uniform_image_has_eight_bits_a_value():
    shape = (7, 5, 3)
    assert distributions.bits_per_dimension(-math.log(256) * math.prod(shape), shape) == pytest.approx(8)
