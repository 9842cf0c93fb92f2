"""Weights of the error, beside those of a whole step in tests/test_diffusion.py."""

import numpy as np

from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import weightings


def test_the_weight_of_a_velocity_is_bounded():
    """Li & He 2025: the error of x0 over the square of sigma, which is .05 at least; beyond, the error of a velocity itself."""
    sigma = np.float32([0.001, 0.05, 0.1, 0.5, 0.999])
    log_snr = processes.RectifiedFlow().log_snr(sigma)
    np.testing.assert_allclose(weightings.weight("velocity", "x0", log_snr), np.maximum(sigma, 0.05) ** -2.0, rtol=1e-4)
    np.testing.assert_allclose(weightings.weight("velocity", "velocity", log_snr)[1:], np.ones(4), rtol=1e-4)
