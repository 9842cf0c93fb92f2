"""Average velocities on Gaussian data, where they and the flow are known in closed form."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax.diffusion import mean_velocity

MEAN, STD = 0.1, 0.2
SHAPE = (2, 3, 1)


def deviation(t):
    """Of z_t = (1 - t) x0 + t eps for x0 ~ N(MEAN, STD^2)."""
    return np.sqrt((1 - t) ** 2 * STD**2 + t**2)


def moved(z, t, r):
    """z_r of z_t: the flow keeps the standardised value (Song et al. 2021b, appendix D)."""
    return (1 - r) * MEAN + deviation(r) / deviation(t) * (z - (1 - t) * MEAN)


def velocity(z, t):
    """E[eps - x0 | z_t], by the posterior mean of two Gaussians."""
    x0 = MEAN + STD**2 * (1 - t) / deviation(t) ** 2 * (z - (1 - t) * MEAN)
    return (z - (1 - t) * x0) / t - x0


def average(z, r, t):
    """u by JAX, also where r = t: the quotient (D(t) - D(r)) / (t - r) is one of polynomials over D(t) + D(r)."""
    r, t = (x.reshape(-1, 1, 1, 1) for x in (r, t))
    of_r, of_t = (jnp.sqrt(jnp.square((1 - x) * STD) + jnp.square(x)) for x in (r, t))
    quotient = ((1 + STD**2) * (t + r) - 2 * STD**2) / (of_t + of_r)
    return (z - (1 - t) * MEAN) / of_t * quotient - MEAN


def points(n):
    drawn = np.random.default_rng(0)
    r, t = np.sort(drawn.uniform(0.02, 1, (2, n)), axis=0)
    return drawn.normal(size=(n, *SHAPE)), r, t


def test_what_these_tests_hold_to_be_true():
    """The average velocity of the flow obeys the MeanFlow identity, in float64 and by finite differences."""
    z, r, t = points(50)
    r, t = (x.reshape(-1, 1, 1, 1) for x in (r, t))

    def exact(z, t):
        return (z - moved(z, t, r)) / (t - r)

    h, v = 1e-6, velocity(z, t)
    change = (exact(moved(z, t, t + h), t + h) - exact(moved(z, t, t - h), t - h)) / (2 * h)
    np.testing.assert_allclose((moved(z, t, t + h) - moved(z, t, t - h)) / (2 * h), v, atol=1e-6)
    np.testing.assert_allclose(exact(z, t), v - (t - r) * change, atol=1e-5)
    np.testing.assert_allclose(average(*(np.float32(x) for x in (z, r.ravel(), t.ravel()))), exact(z, t), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("same", [False, True])
def test_the_compound_of_the_average_velocity_is_the_velocity(same):
    """At r = t it is u itself."""
    z, r, t = points(200)
    r = t if same else r
    v = velocity(z, t.reshape(-1, 1, 1, 1))
    found, other = mean_velocity.compound(lambda z, r, t: (average(z, r, t), "other"), *(jnp.float32(x) for x in (z, r, t, v)))
    assert other == "other"
    np.testing.assert_allclose(found, v, atol=1e-4)


def test_the_gradient_of_the_compound_is_that_of_the_average_velocity_alone():
    z, r, t = (jnp.float32(x) for x in points(5))

    def compound(w):
        return mean_velocity.compound(lambda z, r, t: (w * average(z, r, t), None), z, r, t, z)[0].sum()

    np.testing.assert_allclose(jax.grad(compound)(0.3), average(z, r, t).sum(), rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_any_number_of_steps_ends_where_the_flow_does(steps):
    noise = np.random.default_rng(1).normal(size=(500, *SHAPE))
    found = jax.jit(lambda noise: mean_velocity.draw(average, noise, steps))(np.float32(noise))
    np.testing.assert_allclose(found, moved(noise, 1, 0), atol=1e-5)
    np.testing.assert_allclose((found.mean(), found.std()), (MEAN, STD), atol=4 * STD / np.sqrt(noise.size))


def test_a_network_that_fits_the_guided_target_has_the_guided_velocity():
    """With v(z | c) as the mean of eps - x0, and c = scale v(z | c) + (1 - scale) v(z)."""
    conditional, unconditional, scale = np.array([[0.3], [2.0]]), np.array([[-0.5], [0.4]]), np.array([4.0, 1.0])
    own = scale[:, None] * conditional + (1 - scale[:, None]) * unconditional
    np.testing.assert_allclose(mean_velocity.guided(conditional, own, unconditional, scale), own)


def test_the_weight_is_fixed_and_of_the_whole_error():
    error = jnp.array([0.5, 30.0])
    np.testing.assert_allclose(mean_velocity.adaptive_weight(error, 0.75, 1e-3), (np.array(error) + 1e-3) ** -0.75, rtol=1e-5)
    grad = jax.grad(lambda e: (mean_velocity.adaptive_weight(e, 1.0, 0.01) * e).sum())(error)
    np.testing.assert_allclose(grad, 1 / (np.array(error) + 0.01), rtol=1e-5)
