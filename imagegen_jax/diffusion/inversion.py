"""From an image to the noise that it is drawn from, and back, along the probability-flow ODE.

With z = x_t / alpha and r = sigma / alpha, the ODE of any process is dz / dr = (z - x0) / r (Karras et al. 2022, eq. 1). It
is the same in both directions, so that an image comes back, as nearly as the steps are small (Song et al. 2021, section 4.3).
An image is taken for the z of the least noise, which no 8-bit image shows, and estimates are not held within the range of
pixels: what that cut off would not come back.
"""

import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import solvers
from imagegen_jax.diffusion import time_grids

_RHO = 7.0  # of the karras grid


def to_noise(denoise: solvers.Denoiser, x0, condition, process, steps):
    """The noise (n, ...), about standard normal, of images (n, ...) in [-1, 1], by 2 evaluations a step."""
    levels = _levels(process, steps)
    most = levels.alpha[-1] / levels.norm[-1]
    return jnp.float32(most) * _heun(denoise, x0, condition, levels)


def to_image(denoise: solvers.Denoiser, noise, condition, process, steps):
    """The images of noise; the inverse of `to_noise`."""
    levels = processes.Level(*(values[::-1] for values in _levels(process, steps)))
    return _heun(denoise, jnp.float32(levels.norm[0] / levels.alpha[0]) * noise, condition, levels)


def _levels(process, steps):
    """Levels from the least noise to the most, (steps + 1,) float64 each."""
    return process.level(time_grids.times("karras", process, steps + 1, _RHO)[::-1])


def _heun(denoise, z, condition, levels):
    """Heun's method for z through levels of any order (Karras et al. 2022, algorithm 1)."""

    def slope(z, level):
        return (z - denoise(level.alpha * z, level, condition).x0) / level.noise_ratio

    def step(z, ends):
        here, there = ends
        length = there.noise_ratio - here.noise_ratio
        first = slope(z, here)
        second = slope(z + length * first, there)
        return z + length * (first + second) / 2, None

    ends = (processes.Level(*(jnp.asarray(values[part], jnp.float32) for values in levels)) for part in (np.s_[:-1], np.s_[1:]))
    return jax.lax.scan(step, z, tuple(ends))[0]
