"""Solvers: from noise to an image along decreasing noise levels.

A step goes from x_t to x_s, s < t, given the network's estimate of the clean image x0 at t and the noise that it implies, eps =
(x_t - alpha_t x0) / sigma_t. Levels are a processes.Level of (steps + 1,) float64 arrays, of which the last is the image, with
alpha = 1 and sigma = 0: whatever the solver, the last step ends at x0 itself.

Most solvers evaluate the network once a step and are linear,

    x_s = on_x x_t + on_x0 x0 + on_change (x0 - x0 one step before) + on_eps eps + on_noise z,

with z standard normal. Each is a function of the levels and their process that returns these factors, a dict of (steps,)
float64 arrays; those left out are 0. `multistep` runs them. The variance of x_s given x_t and x0 is

    small = sigma_{t|s}^2 sigma_s^2 / sigma_t^2   with   sigma_{t|s}^2 = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2

(Kingma et al. 2021, equation 26; Ho et al. 2020, equation 7).
"""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax.diffusion import prediction_types
from imagegen_jax.diffusion import processes


class Estimate(NamedTuple):
    """What a network makes of x_t.

    Attributes:
      x0: (n, ...) the clean image.
      variance: (n, ...) where the logarithm of a step's variance is from small (0) to sigma_{t|s}^2 (1), of networks that learn
        it (Nichol & Dhariwal 2021, equation 15), whose training alone holds it between these; None for others.
    """

    x0: jax.Array
    variance: Any = None


# (x_t (n, ...), processes.Level of scalars, condition of n images) -> Estimate
Denoiser = Callable[[jax.Array, processes.Level, Any], Estimate]


def levels(process, times):
    """The levels of a solver: those of decreasing `times`, (steps,) float64, and the image."""
    of_times = process.level(times)
    clean = processes.Level(process.clean, 1.0, 0.0, 1.0)
    return processes.Level(*(np.append(values, end) for values, end in zip(of_times, clean)))


def _steps(levels):
    """(levels at the beginning of each step, levels at its end)."""
    return processes.Level(*(values[:-1] for values in levels)), processes.Level(*(values[1:] for values in levels))


def _variances(levels):
    """(small, sigma_{t|s}^2) of each step."""
    t, s = _steps(levels)
    between = t.sigma**2 - (t.alpha / s.alpha) ** 2 * s.sigma**2
    return between * s.sigma**2 / t.sigma**2, between


def ddpm(levels, process, *, variance):
    """Ancestral sampling (Ho et al. 2020, algorithm 2; between any two levels Kingma et al. 2021, equations 25 to 28).

    `variance` is 'fixed_small', 'fixed_large' (Ho et al. 2020, section 3.2) or 'learned' (Nichol & Dhariwal 2021, equation 15).
    """
    t, s = _steps(levels)
    small, between = _variances(levels)
    noise = np.sqrt(small if variance == "fixed_small" else between)
    noise[-1] = 0.0
    factors = dict(on_x=t.alpha / s.alpha * s.sigma**2 / t.sigma**2, on_x0=s.alpha * between / t.sigma**2, on_noise=noise)
    if variance == "learned":  # relative to the larger one
        factors["log_smallest"] = np.log(np.maximum(small, 1e-20)) - np.log(between)
    return factors


def ddim(levels, process, *, eta):
    """Song et al. 2021, equations 12 and 16: deterministic with eta = 0, as noisy as ddpm with fixed_small with eta = 1."""
    _, s = _steps(levels)
    variance = eta**2 * _variances(levels)[0]
    return dict(on_x0=s.alpha, on_eps=np.sqrt(np.maximum(s.sigma**2 - variance, 0)), on_noise=np.sqrt(variance))


def euler(levels, process):
    """Euler's method for dx/dt = alpha' x0 + sigma' eps (Song et al. 2021b, equation 13; Karras et al. 2022, equation 4)."""
    t, s = _steps(levels)
    alpha_rate, sigma_rate = process.rates(t.time)
    length = s.time - t.time
    factors = dict(on_x=np.ones_like(length), on_x0=length * alpha_rate, on_eps=length * sigma_rate)
    for name, last in (("on_x", 0.0), ("on_x0", 1.0), ("on_eps", 0.0)):
        factors[name][-1] = last
    return factors


def dpmpp_2m(levels, process):
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2). Its first step, and the last, to the image, are of first order."""
    h, half_ratio = _log_steps(levels)
    t, s = _steps(levels)
    on_x0 = s.alpha * -np.expm1(-h)
    return dict(on_x=s.sigma / t.sigma, on_x0=on_x0, on_change=on_x0 * half_ratio)


def dpmpp_2m_sde(levels, process):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b, section 5): of the diffusion SDE instead of the ODE."""
    h, half_ratio = _log_steps(levels)
    t, s = _steps(levels)
    on_x0 = s.alpha * -np.expm1(-2 * h)
    noise = s.sigma * np.sqrt(-np.expm1(-2 * h))
    return dict(on_x=s.sigma / t.sigma * np.exp(-h), on_x0=on_x0, on_change=on_x0 * half_ratio, on_noise=noise)


def _log_steps(levels):
    """(h, 1 / (2 r)): steps of log(alpha / sigma), and half of each one's ratio to the one before, 0 for the first and last."""
    h = np.append(np.diff(np.log(levels.alpha[:-1] / levels.sigma[:-1])), np.inf)
    half_ratio = np.zeros_like(h)
    half_ratio[1:-1] = h[1:-1] / h[:-2] / 2
    return h, half_ratio


LINEAR = {"ddpm": ddpm, "ddim": ddim, "euler": euler, "dpmpp_2m": dpmpp_2m, "dpmpp_2m_sde": dpmpp_2m_sde}


def repeated(levels, factors, times):
    """Levels and factors that take steps several times, going back between them (Lugmayr et al. 2022, algorithm 1).

    A step from t to s and the diffusion back to t, x_t = r x_s + sqrt(sigma_t^2 - r^2 sigma_s^2) z with r = alpha_t / alpha_s,
    are one linear step from t to t.

    Args:
      levels: of the solver.
      factors: its factors, without on_change.
      times: (steps,) how often each is taken.
    """
    t, s = _steps(levels)
    r = t.alpha / s.alpha
    there = {"on_noise": np.zeros_like(r)} | factors
    back = {name: r * values for name, values in there.items()}
    back["on_noise"] = np.sqrt(np.maximum(back["on_noise"] ** 2 + t.sigma**2 - (r * s.sigma) ** 2, 0))
    order = np.repeat(np.arange(len(r)), times)
    last = np.append(np.diff(order) > 0, True)
    along = processes.Level(*(np.append(values[order], values[-1]) for values in levels))
    return along, {name: np.where(last, there[name][order], back[name][order]) for name in there}


def multistep(denoise: Denoiser, x, condition, levels, factors, normal, on_x=None):
    """Runs a linear solver.

    Args:
      denoise: the network's estimate.
      x: (n, ...) the noise to begin with.
      condition: of the images.
      levels: of the solver.
      factors: its factors.
      normal: i -> (n, ...) standard normal; 0 is what x is made of.
      on_x: None, or (x_s, processes.Level of s, i) -> x_s at the end of step i.

    Returns:
      (n, ...) the images.
    """
    steps = len(levels.time) - 1
    table = {name: np.zeros(steps) for name in ("on_x", "on_x0", "on_change", "on_eps", "on_noise")} | factors
    noisy = bool(np.any(table["on_noise"]))

    def step(carry, at):
        x, before = carry
        i, t, s, c = at
        x0, variance = denoise(x, t, condition)
        eps = prediction_types.implied_eps(x0, x, t)
        x = c["on_x0"] * x0 + c["on_eps"] * eps + c["on_x"] * x + c["on_change"] * (x0 - before)
        if noisy:
            spread = jnp.exp((1 - variance) * c["log_smallest"] / 2) if "log_smallest" in c else 1.0
            x += c["on_noise"] * spread * normal(i + 1)
        return (x if on_x is None else on_x(x, s, i), x0), None

    at = jnp.arange(steps), *map(_float32, _steps(levels)), _float32(table)
    (x, _), _ = jax.lax.scan(step, (x, jnp.zeros_like(x)), at)
    return x


def heun(denoise: Denoiser, x, condition, levels, normal, on_x=None, *, process, churn, churn_min, churn_max, churn_noise):
    """Karras et al. 2022, algorithm 2, in the time of any process; without churn algorithm 1, which is Heun's method.

    Args:
      denoise: see multistep.
      x: see multistep.
      condition: see multistep.
      levels: see multistep.
      normal: see multistep.
      on_x: see multistep.
      process: of the levels.
      churn: noise that is added before the steps, S_churn.
      churn_min: from which sigma / alpha on, S_tmin.
      churn_max: up to which, S_tmax.
      churn_noise: its deviation, S_noise.
    """
    t, s = _steps(levels)
    steps = len(t.time)
    wanted = (t.noise_ratio >= churn_min) & (t.noise_ratio <= churn_max)
    more = 1 + np.where(wanted, min(churn / steps, np.sqrt(2) - 1), 0.0)
    noisy = bool(np.any(more > 1))
    hat = process.level(np.where(more > 1, process.time(-2 * np.log(t.noise_ratio * more)), t.time))
    rescale = hat.alpha / t.alpha
    added = churn_noise * np.sqrt(np.maximum(hat.sigma**2 - (rescale * t.sigma) ** 2, 0)) * (more > 1)

    def slope(x, level, rates):
        x0 = denoise(x, level, condition).x0
        return rates[0] * x0 + rates[1] * prediction_types.implied_eps(x0, x, level)

    def churned(x, i, rescale, added):
        return rescale * x + added * normal(i + 1) if noisy else x

    def step(x, at):
        i, rescale, added, hat, hat_rates, s, s_rates = at
        x = churned(x, i, rescale, added)
        first = slope(x, hat, hat_rates)
        second = slope(x + (s.time - hat.time) * first, s, s_rates)
        x = x + (s.time - hat.time) * (first + second) / 2
        return x if on_x is None else on_x(x, s, i), None

    def part(tree, chosen):
        return _float32(jax.tree.map(lambda values: values[chosen], tree))

    but_last = slice(0, steps - 1)
    at_ends = part((rescale, added, hat, process.rates(hat.time), s), but_last), _float32(process.rates(s.time[but_last]))
    x, _ = jax.lax.scan(step, x, (jnp.arange(steps - 1), *at_ends[0], at_ends[1]))
    x = churned(x, steps - 1, *part((rescale, added), -1))
    return denoise(x, part(hat, -1), condition).x0


def ode(denoise: Denoiser, x, condition, process, *, rtol, atol):
    """The probability-flow ODE dx/dt = alpha' x0 + sigma' eps (Song et al. 2021b, section 4.3), adaptive.

    Dormand and Prince's method of fifth order, from diffrax, with steps that adapt to each image.

    Args:
      denoise: see multistep.
      x: see multistep.
      condition: see multistep.
      process: a continuous one, or Discrete.
      rtol: tolerated error of a step, relative to x.
      atol: the same, absolute.

    Returns:
      (n, ...) the images: x0 at the process's least noise.
    """
    import diffrax  # here, since it takes half a second

    def velocity(t, x, condition):
        level = process.level(t)
        x0 = denoise(x[None], level, condition).x0[0]
        alpha_rate, sigma_rate = process.rates(t)
        return alpha_rate * x0 + sigma_rate * prediction_types.implied_eps(x0, x, level)

    def solved(x, condition):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity),
            diffrax.Dopri5(),
            jnp.float32(process.most),
            jnp.float32(process.least),
            dt0=None,
            y0=x,
            args=condition,
            stepsize_controller=diffrax.PIDController(rtol, atol),
        )
        return solution.ys[0]

    each = jax.tree.map(lambda values: values[:, None], condition)
    x = jax.vmap(solved)(x, each)
    return denoise(x, _float32(process.level(np.float64(process.least))), condition).x0


def _float32(tree):
    return jax.tree.map(lambda values: jnp.asarray(values, jnp.float32), tree)
