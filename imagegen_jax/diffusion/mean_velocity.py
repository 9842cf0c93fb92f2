"""Average velocities of a flow, and drawing with them in few steps (MeanFlow).

On z_t = (1 - t) x0 + t eps, the flow process, a point moves by dz/dt = v(z_t, t) = E[eps - x0 | z_t]. Between two times r <= t
its average velocity is (MF: Geng et al. 2025, "Mean Flows for One-step Generative Modeling", equation 3)

    u(z_t, r, t) = (z_t - z_r) / (t - r),    u(z_t, t, t) = v(z_t, t),

and obeys u = v - (t - r) du/dt, with d/dt along the flow, by the tangent (v, 0, 1) of (z, r, t) (MF, equations 6 and 8).
"""

import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import solvers

_FLOW = processes.RectifiedFlow()


def compound(velocity, z, r, t, tangent):
    """V = u + (t - r) du/dt, which is v where u is the average velocity (iMF: Geng et al. 2025, "Improved Mean Flows").

    Its gradient is that of u: du/dt is held fixed.

    Args:
      velocity: (z, r, t) -> (u, anything else).
      z: (n, ...) points.
      r: (n,) times before t, or t itself.
      t: (n,) times of the points.
      tangent: (n, ...) v(z, t), along which the points move.

    Returns:
      (V, anything else)
    """
    u, change, other = jax.jvp(velocity, (z, r, t), (tangent, jnp.zeros_like(r), jnp.ones_like(t)), has_aux=True)
    return u + _of_images(t - r, z) * jax.lax.stop_gradient(change), other


def guided(velocity, conditional, unconditional, scale):
    """A velocity eps - x0 of training that makes classifier-free guidance a property of the network (iMF, algorithm 1).

    Where the network fits it, c = scale v(z | condition) + (1 - scale) v(z), the guided velocity of MF, equation 13.

    Args:
      velocity: (n, ...) eps - x0.
      conditional: (n, ...) c, as the network has it so far.
      unconditional: (n, ...) v(z), likewise.
      scale: (n,), at least 1.
    """
    return velocity + _of_images(1 - 1 / scale, velocity) * (conditional - unconditional)


def of_denoiser(denoise: solvers.Denoiser, process: processes.Process):
    """v(z, t) = (z - x0) / t by a denoiser of any process: (z, t, condition) -> (n, ...).

    z is a point of that process at the time of the same signal-to-noise ratio, up to its norm. Beyond the process's first and
    last times it is taken to be one of those.
    """
    most, least = (float(process.log_snr(np.float64(t))) for t in (process.least, process.most))

    def velocity(z, t, condition):
        here = _FLOW.level(t).for_images(z.ndim)
        there = process.level(process.time(jnp.clip(_FLOW.log_snr(t), least, most))).for_images(z.ndim)
        return (z - denoise(z * there.norm / here.norm, there, condition).x0) / here.time

    return velocity


def adaptive_weight(squared_error, p, eps):
    """1 / (|error|^2 + eps)^p, held fixed (MF, equation 22; Geng et al. 2024, section 4.1)."""
    return jax.lax.stop_gradient((squared_error + eps) ** -p)


def draw(velocity, noise, steps):
    """z_0 of z_1 = noise by z_r = z_t - (t - r) u(z_t, r, t) (MF, equation 12), over an even grid of times.

    Args:
      velocity: (z, r, t) -> u, of (n, ...) and two (n,).
      noise: (n, ...) standard normal.
      steps: evaluations of the velocity, at least 1.
    """

    def step(i, z):
        r, t = (jnp.full(len(z), (steps - j) / steps) for j in (i + 1, i))
        return z - velocity(z, r, t) / steps

    return jax.lax.fori_loop(0, steps, step, noise)


def _of_images(values, images):
    """(n,) values that broadcast against (n, ...) images."""
    return values.reshape(-1, *[1] * (images.ndim - 1))
