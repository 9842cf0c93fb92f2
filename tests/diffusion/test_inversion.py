"""The probability-flow ODE there and back, of a Gaussian whose exact flow is known."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax.diffusion import inversion
from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import schedules
from imagegen_jax.diffusion import solvers

MEAN, STD = 0.3, np.array([0.2, 0.5, 0.9]).astype(np.float32)  # of each channel
PROCESSES = {
    "ddpm": processes.Discrete(schedules.DISCRETE["cosine"](1000)),
    "vp": processes.Continuous(schedules.CURVES["linear"]),
    "ve": processes.VarianceExploding(),
    "flow": processes.RectifiedFlow(),
}


def gaussian(x, level, condition=()):
    a, s = level.alpha, level.sigma
    return solvers.Estimate(MEAN + STD**2 * a / (a**2 * STD**2 + s**2) * (x - a * MEAN))


@pytest.mark.parametrize("name", PROCESSES)
def test_there_and_back(name):
    process = PROCESSES[name]
    x = jnp.clip(MEAN + STD * jax.random.normal(jax.random.key(0), (8, 2, 2, 3)), -1, 1)
    for steps, tolerance in ((100, 1e-2), (500, 1e-3)):
        noise = jax.jit(lambda x: inversion.to_noise(gaussian, x, (), process, steps))(x)  # noqa: B023
        again = jax.jit(lambda noise: inversion.to_image(gaussian, noise, (), process, steps))(noise)  # noqa: B023
        np.testing.assert_allclose(again, x, atol=tolerance)
    # The flow keeps the standardised value (Song et al. 2021b, appendix D).
    least, most = (process.level(np.float64(t)) for t in (process.least, process.most))
    ratios = [np.sqrt(STD**2 + level.noise_ratio**2) for level in (least, most)]
    exact = (MEAN + (np.asarray(x, np.float64) - MEAN) * ratios[1] / ratios[0]) * most.alpha / most.norm
    np.testing.assert_allclose(noise, exact, atol=5e-3)
