"""Samplers: a solver, its time grid and its constants, and drawing with them."""

from collections.abc import Callable
import dataclasses
from typing import Annotated

import jax
from jax import numpy as jnp

from imagegen_jax import keys
from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import solvers
from imagegen_jax.diffusion import time_grids

# {sampler: which fields of Sampler it heeds beside `name` and `clip`}
_GRID = ("steps", "grid", "rho")
CONSTANTS = {
    "ddpm": (*_GRID, "variance"),
    "ddim": (*_GRID, "eta"),
    "euler": _GRID,
    "heun": (*_GRID, "churn", "churn_min", "churn_max", "churn_noise"),
    "dpmpp_2m": _GRID,
    "dpmpp_2m_sde": _GRID,
    "ode": ("rtol", "atol"),
}


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A way of drawing images; the section `sampler`, and options of drawing."""

    name: Annotated[
        str,
        keys.OneOf(CONSTANTS),
        f"Diffusion: {', '.join(CONSTANTS)}, with its own constants in place of the recipe's.",
    ] = "ddpm"
    steps: Annotated[
        int,
        keys.AtLeast(1),
        "Diffusion: steps of the solver, instead of what the recipe says: network evaluations, of heun two each but the last.",
    ] = 1000
    grid: Annotated[
        str, keys.OneOf(time_grids.NAMES), f"Diffusion: how the steps are spaced, {', '.join(time_grids.NAMES)}."
    ] = "trailing"
    rho: Annotated[float, keys.Above(0), "Diffusion by --grid=karras: the more, the shorter are steps of little noise."] = 7.0
    variance: Annotated[
        str, keys.OneOf(("fixed_small", "fixed_large", "learned")), "Diffusion by ddpm: fixed_small, fixed_large or learned."
    ] = "fixed_small"
    eta: Annotated[
        float, keys.AtLeast(0), keys.AtMost(1), "Diffusion by ddim: noise of a step, 0 (none, the default) to 1 (as ddpm)."
    ] = 0.0
    churn: Annotated[
        float, keys.AtLeast(0), "Diffusion by heun: noise that is added on the way, 0 (none, the default) to steps."
    ] = 0.0
    churn_min: Annotated[float, keys.AtLeast(0), "Diffusion by heun: sigma / alpha from which on it is added."] = 0.0
    churn_max: Annotated[float, keys.AtLeast(0), "Diffusion by heun: sigma / alpha up to which it is added."] = 1e6
    churn_noise: Annotated[float, keys.AtLeast(0), "Diffusion by heun: deviation of the noise that is added."] = 1.0
    rtol: Annotated[float, keys.Above(0), "Diffusion by ode: relative error of a step."] = 1e-3
    atol: Annotated[float, keys.Above(0), "Diffusion by ode: absolute error of a step."] = 1e-3
    clip: Annotated[bool, "Diffusion: hold the image that each step predicts within the range of pixels."] = True
    threshold: Annotated[
        float,
        keys.AtLeast(0),
        keys.AtMost(1),
        "Diffusion: scale that image down until this share of its pixels is within the range (0: none).",
    ] = 0.0

    def changed(self, name=None, **constants):
        """This sampler with what is given in place of its own; None is not given.

        One that is named, even this one, has its defaults: its constants here were chosen for something else. The length and
        the limits of pixels stay as they are.
        """
        given = {key: value for key, value in constants.items() if value is not None}
        if name:
            own = {key: getattr(Sampler(), key) for key in CONSTANTS[name] if key not in _GRID}
            given = own | {"name": name} | given
        return dataclasses.replace(self, **given)

    def about(self):
        """All that it draws with, as JSON: its own constants, and not those of others."""
        own = [*CONSTANTS[self.name], "threshold" if self.threshold else "clip"]
        if self.grid != "karras":
            own = [key for key in own if key != "rho"]
        if not self.churn:
            own = [key for key in own if not key.startswith("churn_")]
        return {key: getattr(self, key) for key in ("name", *own)}

    def foreign(self, asked):
        """Yields (a key of `asked` that it does not heed, what would, what there is instead), as a person says it."""
        for key in asked:
            owners = [name for name, own in CONSTANTS.items() if key in own]
            if owners and self.name not in owners:
                yield key, f"--sampler={' or '.join(owners)}", f"the sampler is {self.name}"
            elif key == "rho" and self.grid != "karras":
                yield key, "--grid=karras", f"the grid is {self.grid}"
            elif key.startswith("churn_") and not self.churn:
                yield key, "--churn above 0", "churn is 0"


def limited(sampler, x0):
    """x0 within [-1, 1] as the sampler has it.

    With a threshold each image is divided by that quantile of its absolute values, where it is above 1 (Saharia et al. 2022,
    section 2.3).
    """
    if sampler.threshold:
        most = jnp.quantile(jnp.abs(x0.reshape(len(x0), -1)), sampler.threshold, axis=1)
        most = jnp.maximum(most, 1.0).reshape(-1, *[1] * (x0.ndim - 1))
        return jnp.clip(x0, -most, most) / most
    return jnp.clip(x0, -1.0, 1.0) if sampler.clip else x0


def levels(process: processes.Process, sampler: Sampler) -> processes.Level:
    """The solvers.levels of a sampler other than ode: (steps + 1,) float64 arrays."""
    return solvers.levels(process, time_grids.times(sampler.grid, process, sampler.steps, sampler.rho))


def normal(keys, shape):
    """i -> (n, *shape) standard normal, row j of keys[j] alone: 0 is the noise to begin with, the others those of the steps."""
    return lambda i: jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape))(keys)


def sample(
    denoise: solvers.Denoiser,
    keys: jax.Array,
    shape: tuple[int, ...],
    process: processes.Process,
    sampler: Sampler,
    condition=(),
    on_x0: Callable | None = None,
    on_x: Callable | None = None,
    begin: tuple[int, jax.Array] | None = None,
    repeats: Callable | None = None,
):
    """Draws one image per key.

    Args:
      denoise: the network's estimate.
      keys: (n,) random keys; image i depends on keys[i] alone, and starts from the same noise for any sampler and steps.
      shape: of one image.
      process: that the network was trained with.
      sampler: which sampler, and its constants.
      condition: of the images, a pytree of arrays with n rows.
      on_x0: None, or (x0, x_t, processes.Level) -> x0, of each estimate after it is limited.
      on_x: None, or (x_s, processes.Level, i) -> x_s at the end of each step but those of ode.
      begin: None, or (k, x_t): begin before step k with this x_t, (n, *shape), instead of with noise. Not of ode.
      repeats: None, or (processes.Level at the beginning of each step) -> how often each is taken, see solvers.repeated; of
        ddpm, ddim and euler.

    Returns:
      (n, *shape) float32.
    """
    noise = normal(keys, shape)

    def estimate(x, level, condition):
        x0, variance = denoise(x, level, condition)
        x0 = limited(sampler, x0)
        return solvers.Estimate(x0 if on_x0 is None else on_x0(x0, x, level), variance)

    if sampler.name == "ode":
        start = process.level(jnp.float32(process.most)).norm
        return solvers.ode(estimate, start * noise(0), condition, process, rtol=sampler.rtol, atol=sampler.atol)
    along = levels(process, sampler)
    skipped, start = begin or (0, jnp.float32(along.norm[0]) * noise(0))
    along = processes.Level(*(values[skipped:] for values in along))
    own = {name: getattr(sampler, name) for name in CONSTANTS[sampler.name] if name not in _GRID}
    if sampler.name == "heun":
        return solvers.heun(estimate, start, condition, along, noise, on_x, process=process, **own)
    factors = solvers.LINEAR[sampler.name](along, process, **own)
    if repeats is not None:
        along, factors = solvers.repeated(along, factors, repeats(processes.Level(*(values[:-1] for values in along))))
    return solvers.multistep(estimate, start, condition, along, factors, noise, on_x)
