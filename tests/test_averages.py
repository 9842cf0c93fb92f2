"""Power-function averages beside their definitions: sums and integrals in float64."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax import averages
from imagegen_jax import errors
from imagegen_jax import keys


def profile(width, step, tau):
    """p(tau) of equation 121."""
    gamma = averages.gamma(width)
    return np.where(tau <= step, (gamma + 1) / step * (tau / step) ** gamma, 0.0)


def weights(width, step):
    """(step,), what the parameters of the steps 1, 2, ... count for: the profile's integral over each."""
    edges = np.arange(step + 1) / step
    return np.diff(edges ** (averages.gamma(width) + 1))


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.10, 6.94)])  # Karras et al. 2024, section 3.1
def test_published_exponents(width, gamma):
    assert averages.gamma(width) == pytest.approx(gamma, abs=5e-3)


@pytest.mark.parametrize("width", [0.003, 0.03, 0.15, averages.WIDEST])
def test_a_width_is_the_standard_deviation_of_its_profile(width):
    gamma = averages.gamma(width)
    assert gamma > 0
    assert np.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2) == pytest.approx(width, rel=1e-9)
    tau = (np.arange(10**6) + 0.5) / 10**6
    p = profile(width, 1.0, tau) / 10**6
    assert np.sqrt(p @ tau**2 - (p @ tau) ** 2) == pytest.approx(width, rel=1e-3)


@pytest.mark.parametrize("width", [0.05, 0.1, 0.25])
def test_an_average_kept_step_by_step_is_the_sum_over_its_profile(width):
    theta = 3.0 - 0.1 * np.arange(1, 201) + 1e-3 * np.arange(1, 201) ** 2

    def follow(average, now):
        step, value = now
        weight = averages.newest_weight(width, step)
        return (1 - weight) * average + weight * value, None

    steps = jnp.arange(1, 201, dtype=jnp.int32)
    average, _ = jax.lax.scan(follow, jnp.float32(7e4), (steps, theta.astype(np.float32)))  # what was before has no weight
    assert float(average) == pytest.approx(weights(width, 200) @ theta, rel=2e-6)


@pytest.mark.parametrize("step", [1, 2, 1000, 10**7])
def test_the_weight_of_the_newest_is_precise_at_all_steps(step):
    expected = -np.expm1(17.972 * np.log1p(-1 / step)) if step > 1 else 1.0
    assert float(averages.newest_weight(0.05, jnp.int32(step))) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("pair", [(0.05, 100, 0.1, 70), (0.1, 70, 0.05, 100), (0.2, 40, 0.2, 90), (0.07, 50, 0.07, 50)])
def test_inner_products_are_integrals(pair):
    tau = (np.arange(10**6) + 0.5) / 10**4
    integral = (profile(*pair[:2], tau) * profile(*pair[2:], tau)).sum() / 10**4
    assert averages.inner_product(*pair) == pytest.approx(integral, rel=1e-3)


@pytest.mark.parametrize(("width", "step"), [(0.04, 400), (0.07, 400), (0.15, 400), (0.07, 300)])
def test_averages_of_several_steps_combine_to_another(width, step):
    """As far apart as is said: the profiles, and by the Cauchy-Schwarz inequality all averages by them."""
    steps = np.repeat([100, 200, 250, 300, 350, 400], 2)
    widths = np.tile([0.05, 0.1], 6)
    widths, steps = widths[steps <= step], steps[steps <= step]
    x, error = averages.combination(widths, steps, width, step)
    assert x.sum() == pytest.approx(1.0) and 1e-3 < error < 0.06

    tau = (np.arange(10**6) + 0.5) / 10**6 * step
    wanted = profile(width, step, tau)
    left = sum(weight * profile(*one, tau) for weight, *one in zip(x, widths, steps)) - wanted
    assert error == pytest.approx(np.linalg.norm(left) / np.linalg.norm(wanted), rel=1e-3)

    theta = np.sqrt(np.arange(1, step + 1.0))
    made = sum(weight * weights(*one) @ theta[: one[1]] for weight, *one in zip(x, widths, steps))
    norm = np.sqrt(averages.inner_product(width, step, width, step))
    assert abs(made - weights(width, step) @ theta) <= error * norm * np.linalg.norm(theta - theta.mean())


def test_no_other_weights_that_add_up_to_one_come_nearer():
    widths, steps = [0.05, 0.1, 0.05, 0.1], [50, 50, 60, 60]
    x, error = averages.combination(widths, steps, 0.2, 60)
    tau = (np.arange(10**5) + 0.5) / 10**5 * 60
    wanted, kept = profile(0.2, 60, tau), np.stack([profile(*one, tau) for one in zip(widths, steps)])
    for change in np.random.default_rng(0).normal(size=(20, 4)):
        other = x + 0.01 * (change - change.mean())
        assert np.linalg.norm(other @ kept - wanted) / np.linalg.norm(wanted) > error


def test_what_is_kept_is_itself_however_many_there_are():
    steps = np.repeat(np.arange(5, 1001, 5), 2)
    x, error = averages.combination(np.tile([0.05, 0.1], 200), steps, 0.1, 1000)
    np.testing.assert_allclose(x, np.arange(400) == 399, atol=1e-6)
    assert error < 1e-6


@pytest.mark.parametrize(
    ("widths", "words"),
    [((0.0,), "each must be more than 0"), ((0.05, 0.3), "each can be at most 0.28"), ((0.1, 0.1), "there once")],
)
def test_widths_that_cannot_be_are_refused(widths, words):
    (objection,) = keys.objections(averages.Config(widths=widths), "config.ema.")
    assert objection.startswith(f"config.ema.widths is {widths}: ") and words in objection


@pytest.mark.parametrize("width", [0, -0.05, 0.3, 5, np.inf, np.nan, "0.05", None])
def test_a_width_that_cannot_be_asked_for_is_refused(width):
    with pytest.raises(errors.UserError, match=f"--ema={width}: "):
        averages.check_width(width)
