"""Samplers: from noise to an image along a decreasing sequence of steps, each one `lax.scan` over them.

A step goes from x_t to x_s, s < t, given the network's view of the clean image x0 and of the noise eps at t. With abar the
cumulative signal levels and b = 1 - abar_t / abar_s:

    DDPM  x_s = sqrt(abar_s) b / (1 - abar_t) x0 + sqrt(abar_t / abar_s) (1 - abar_s) / (1 - abar_t) x_t + sigma z
          sigma^2 = b (1 - abar_s) / (1 - abar_t)  fixed-small, or  b  fixed-large
          (Ho et al. 2020, equations 6 and 7 and section 3.2; between non-adjacent steps Nichol & Dhariwal 2021, equation 19)
    DDIM  x_s = sqrt(abar_s) x0 + sqrt(1 - abar_s - sigma^2) eps + sigma z
          sigma^2 = eta^2 b (1 - abar_s) / (1 - abar_t)   (Song et al. 2021, equations 12 and 16)

The last step ends at the clean image, abar_s = 1, and adds no noise.
"""

from collections.abc import Callable
import dataclasses
from typing import Annotated

import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax import keys
from imagegen_jax.diffusion import prediction_types

CONSTANTS = {"ddpm": {"variance": "fixed_small"}, "ddim": {"eta": 0.0}}  # of each sampler alone, with their defaults
Name = Annotated[str, keys.OneOf(CONSTANTS)]
Steps = Annotated[int, keys.AtLeast(1)]
Variance = Annotated[str, keys.OneOf(("fixed_small", "fixed_large"))]
Eta = Annotated[float, keys.AtLeast(0), keys.AtMost(1)]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A way of drawing images; the section `sampler`.

    Attributes:
      name: 'ddpm' or 'ddim'.
      steps: network evaluations, 1 to the schedule's length; below it the steps are spaced evenly.
      variance: of ddpm, 'fixed_small' or 'fixed_large'.
      eta: of ddim, 0 (deterministic) to 1 (as noisy as ddpm with fixed_small).
      clip: hold each step's x0 within [-1, 1], with eps recomputed to match.
    """

    name: Name = "ddpm"
    steps: Steps = 1000
    variance: Variance = CONSTANTS["ddpm"]["variance"]
    eta: Eta = CONSTANTS["ddim"]["eta"]
    clip: bool = True

    def changed(self, name=None, **constants):
        """This sampler with what is given in place of its own; None is not given.

        One that is named, even this one, has the defaults of CONSTANTS: its constants here were chosen for something else.
        """
        given = {key: value for key, value in constants.items() if value is not None}
        return dataclasses.replace(self, **(CONSTANTS[name] | {"name": name} if name else {}) | given)

    def about(self):
        """All that it draws with, as JSON: its own constants, and not those of others."""
        return {key: getattr(self, key) for key in ("name", "steps", *CONSTANTS[self.name], "clip")}


def spaced_timesteps(length, steps):
    """(steps,) int32, evenly spaced and decreasing from length - 1, so that sampling starts where the noise is pure.

    The 'trailing' rule of Lin et al. 2024, table 2.
    """
    return np.round(np.arange(steps, 0, -1) * (length / steps)).astype(np.int32) - 1


def step_coefficients(sampler, schedule):
    """The linear map of each step, x_s = on_x0 x0 + on_eps eps + on_x x_t + on_noise z.

    Returns:
      A dict of (steps,) arrays: 't' int32, 'signal' and 'noise' (of x_t) and the four coefficients, float32 after float64.
    """
    t = spaced_timesteps(schedule.length, sampler.steps)
    abar_t = schedule.alphas_cumprod[t]
    abar_s = np.append(schedule.alphas_cumprod[t[1:]], 1.0)
    b = 1 - abar_t / abar_s
    small = b * (1 - abar_s) / (1 - abar_t)
    if sampler.name == "ddpm":
        variance = small if sampler.variance == "fixed_small" else b
        on_x0 = np.sqrt(abar_s) * b / (1 - abar_t)
        on_x = np.sqrt(abar_t / abar_s) * (1 - abar_s) / (1 - abar_t)
        on_eps = np.zeros_like(b)
    else:
        variance = sampler.eta**2 * small
        on_x0 = np.sqrt(abar_s)
        on_x = np.zeros_like(b)
        on_eps = np.sqrt(np.maximum(1 - abar_s - variance, 0))
    variance[-1] = 0.0
    coefficients = dict(
        signal=np.sqrt(abar_t),
        noise=np.sqrt(1 - abar_t),
        on_x0=on_x0,
        on_eps=on_eps,
        on_x=on_x,
        on_noise=np.sqrt(variance),
    )
    return dict(t=t, **{name: values.astype(np.float32) for name, values in coefficients.items()})


def sample(
    denoise: Callable[[jax.Array, jax.Array], jax.Array],
    keys: jax.Array,
    shape: tuple[int, ...],
    schedule,
    sampler: Sampler,
):
    """Draws one image per key.

    Args:
      denoise: (x_t, t) -> x0, with x_t and x0 (n, *shape) float32 and t (n,) int32.
      keys: (n,) random keys; image i depends on keys[i] alone, and starts from the same noise for any sampler and steps.
      shape: of one image.
      schedule: the `schedules.Schedule` that the network was trained with.
      sampler: which sampler, and its constants.

    Returns:
      (n, *shape) float32.
    """

    def normal(i):
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape))(keys)

    def step(x, at):
        i, c = at
        x0 = denoise(x, jnp.full(len(keys), c["t"]))
        if sampler.clip:
            x0 = jnp.clip(x0, -1.0, 1.0)
        eps = prediction_types.implied_eps(x0, x, c["signal"], c["noise"])
        x = c["on_x0"] * x0 + c["on_eps"] * eps + c["on_x"] * x
        return (x + c["on_noise"] * normal(i + 1) if noisy else x), None

    coefficients = step_coefficients(sampler, schedule)
    noisy = bool(np.any(coefficients["on_noise"]))
    x, _ = jax.lax.scan(step, normal(0), (jnp.arange(sampler.steps), coefficients))
    return x
