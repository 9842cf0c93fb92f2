"""How likely a diffusion holds images to be, in nats: its variational bounds, and the density of its probability-flow ODE.

    discrete_bound     of ancestral sampling in T steps (Ho et al. 2020, equation 5)
    continuous_bound   of infinitely many steps (Kingma et al. 2021, equations 11 to 18)
    ode_bound          of the ODE's density, at images that are spread over the widths of their values

Each is a dict of parts, (n,) float32, which add up to minus a lower bound of the log probability of an 8-bit image. They take

    denoise     solvers.Denoiser
    process     processes.Process
    keys        (n,) random keys: a bound is a function of the image, its condition and its key alone
    x0          (n, ...) float32, 8-bit images in [-1, 1]
    condition   of the images, a pytree of arrays with n rows
    samples     how many terms of a sum, times or probes are drawn for each image; the expectation is the same for any number
"""

import math
from typing import NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax import distributions
from imagegen_jax.diffusion import solvers


def _for_each(of_image, denoise, keys, x0, condition):
    """of_image(denoise x_t at a level -> Estimate, key, x0) of each image."""

    def one(key, x0, condition):
        return of_image(lambda x, level: jax.tree.map(lambda y: y[0], denoise(x[None], level, condition)), key, x0)

    return jax.vmap(one)(keys, x0, jax.tree.map(lambda values: values[:, None], condition))


def _mean(sample, samples):
    """The mean of sample(i) over i = 0, ..., samples - 1, one at a time."""
    total, _ = jax.lax.scan(lambda total, i: (total + sample(i), None), jnp.zeros(()), jnp.arange(samples))
    return total / samples


def _prior(process, x0):
    """KL(q(x_most | x0) || N(0, norm^2)): from what drawing begins with."""
    most = jax.tree.map(jnp.float32, process.level(np.float64(process.most)))
    start = distributions.Gaussian(0.0, jnp.log(most.norm))
    return distributions.Gaussian(most.alpha * x0, jnp.log(most.sigma)).kl(start).sum()


# --------------------------------------------------------------------------------------------------------------- T steps


class _Posterior(NamedTuple):
    """q(x_{t-1} | x_t, x0) and the variances that p may have, (T,) float32 (Ho et al. 2020, equations 6 and 7).

    Attributes:
      on_x0: factor of x0 in the mean, and of its estimate in p's.
      log_small: log of beta tilde_t; of its first, which is 0, the second, as Ho et al.'s code has it.
      log_large: log of beta_t.
    """

    on_x0: jax.Array
    log_small: jax.Array
    log_large: jax.Array

    @classmethod
    def of(cls, process):
        """That of a processes.Discrete."""
        abar = process.alphas_cumprod
        before = np.append(1.0, abar[:-1])
        beta = 1 - abar / before
        small = beta * (1 - before) / (1 - abar)
        small[0] = small[1]
        found = np.sqrt(before) * beta / (1 - abar), np.log(small), np.log(beta)
        return cls(*(jnp.asarray(values, jnp.float32) for values in found))


def step_cost(process, t, x0, estimate: solvers.Estimate, variance):
    """The term of step t of the bound, elementwise in nats (Nichol & Dhariwal 2021, equations 4 to 6).

    KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)), and of the last step, t = 0, -log p(x0 | x_t) with the discretised Gaussian of
    Ho et al. 2020, equation 13. What both means have of x_t is left out.

    Args:
      process: processes.Discrete.
      t: int32 steps of x_t, which broadcast against x0.
      x0: images, of 8-bit values.
      estimate: of the network.
      variance: of p, 'fixed_small', 'fixed_large' or 'learned'; see solvers.ddpm.
    """
    on_x0, log_small, log_large = (values[t] for values in _Posterior.of(process))
    if variance == "learned":
        log_variance = log_small + estimate.variance * (log_large - log_small)
    else:  # the last step's is small in any case, as in Ho et al.'s code
        log_variance = jnp.where(t == 0, log_small, log_large) if variance == "fixed_large" else log_small
    p = distributions.Gaussian(on_x0 * estimate.x0, log_variance / 2)
    q = distributions.Gaussian(on_x0 * x0, log_small / 2)
    return jnp.where(t == 0, -p.log_mass(x0), q.kl(p))


def one_term(process, t, x0, estimate):
    """(n,) bits/dim, whose mean over uniform steps t is L_vlb with a learned variance (Nichol & Dhariwal 2021, equation 4).

    L_T, which nothing trains, is left out. For the arguments see step_cost; t is (n, 1, ...).
    """
    costs = step_cost(process, t, x0, estimate, "learned")
    return process.longest / math.log(2) * costs.reshape(len(x0), -1).mean(1)


def discrete_bound(denoise, process, keys, x0, condition, *, variance, samples):
    """L_T + sum_t L_{t-1} + L_0 (Ho et al. 2020, equation 5).

    Terms of the sum are drawn evenly in log(1 + SNR), which is twice what a pixel of unit variance loses in nats, so that the
    large ones are drawn more often: one in each of `samples` parts. With T - 1 or more the sum has every term.

    Returns:
      {'prior': L_T, 'diffusion': the sum, 'reconstruction': L_0}, of a processes.Discrete; for `variance` see step_cost.
    """
    every = samples >= process.longest - 1
    samples = min(samples, process.longest - 1)
    losses = np.diff(np.log1p(-process.alphas_cumprod))  # of log(1 + SNR) = -log(1 - abar)
    shares = jnp.asarray(losses / losses.sum(), jnp.float32)

    def of_image(denoise, key, x0):
        def cost(t, key):
            level = process.level(t)
            x_t = level.alpha * x0 + level.sigma * jax.random.normal(key, x0.shape)
            return step_cost(process, t, x0, denoise(x_t, level), variance).sum()

        def drawn(part):
            t_key, eps_key = jax.random.split(jax.random.fold_in(key, part))
            if every:
                return samples * cost(1 + part, eps_key)
            place = jnp.searchsorted(jnp.cumsum(shares), (part + jax.random.uniform(t_key)) / samples)
            place = jnp.minimum(place, len(shares) - 1)  # where rounding has left the sum below 1
            return cost(1 + place, eps_key) / shares[place]

        last = cost(jnp.int32(0), jax.random.fold_in(key, samples))
        return {"prior": _prior(process, x0), "diffusion": _mean(drawn, samples), "reconstruction": last}

    return _for_each(of_image, denoise, keys, x0, condition)


# ------------------------------------------------------------------------------------------------------- continuous time


def continuous_bound(denoise, process, keys, x0, condition, *, samples):
    """Prior, diffusion and reconstruction loss of a variational diffusion model (Kingma et al. 2021, equation 11).

    The diffusion loss, 1/2 int |eps - eps_hat|^2 dlambda, depends on the ends of lambda alone (equation 18), so that any times
    may be drawn: evenly in s = log(1 + SNR), one in each of `samples` parts, of which 1/2 (1 + SNR) |x0 - x0_hat|^2 ds are
    alike where data have unit variance.

    Returns:
      {'prior', 'diffusion', 'reconstruction'}
    """
    low, high = (float(np.logaddexp(0, process.log_snr(np.float64(t)))) for t in (process.most, process.least))

    def of_image(denoise, key, x0):
        def noisy(level, key):
            return level.alpha * x0 + level.sigma * jax.random.normal(key, x0.shape)

        def loss(part):
            t_key, eps_key = jax.random.split(jax.random.fold_in(key, part))
            s = low + (high - low) * (part + jax.random.uniform(t_key)) / samples
            level = process.level(process.time(jnp.log(jnp.expm1(s))))
            found = denoise(noisy(level, eps_key), level).x0
            return (high - low) / 2 * (1 + level.noise_ratio**-2) * jnp.square(x0 - found).sum()

        least = jax.tree.map(jnp.float32, process.level(np.float64(process.least)))
        shown = noisy(least, jax.random.fold_in(key, samples)) / least.alpha
        reconstruction = -_log_value(shown, x0, least.noise_ratio).sum()
        return {"prior": _prior(process, x0), "diffusion": _mean(loss, samples), "reconstruction": reconstruction}

    return _for_each(of_image, denoise, keys, x0, condition)


def _log_value(shown, x0, std):
    """log of the share of N(shown; x0, std^2) in its sum over all 256 values of x0, elementwise (Kingma et al. 2021, eq. 8)."""

    def log_density(value):
        return -jnp.square((shown - value) / std) / 2

    values = jnp.arange(256) * distributions.WIDTH - 1  # one at a time: an image's memory is not multiplied by them
    total, _ = jax.lax.scan(
        lambda total, value: (jnp.logaddexp(total, log_density(value)), None), jnp.full_like(shown, -jnp.inf), values
    )
    return log_density(x0) - total


# ------------------------------------------------------------------------------------------------- probability-flow ODE


def log_density(denoise, process, x, probes, condition, *, rtol=1e-4, atol=1e-4):
    """log p(x) of continuous images, by the change of variables along the ODE (Song et al. 2021b, section 4.3).

    With z = x_t / alpha and r = sigma / alpha, the ODE of any process is dz / dlog r = z - x0_hat (Karras et al. 2022, equation
    1, and 3, with their sigma = r), along which

        dlog p / dlog r = -tr(J)    with    J = I - d x0_hat / dz    (Song et al. 2021b, equation 39)

    and log p = log N(z; 0, norm^2 / alpha^2) at the most noise. The trace is estimated by the mean of v' J v over probes v, the
    same all the way, whose mean of v v' is the identity (equation 40). x is taken to have the process's least noise, too little
    for an 8-bit image to show. Steps of Dormand and Prince's method, from diffrax, adapt to each image.

    Args:
      denoise: solvers.Denoiser.
      process: processes.Process.
      x: (n, ...) images.
      probes: (n, k, ...) v, k for each image: random signs, or sqrt(d) times the d unit vectors for the trace itself.
      condition: of the images.
      rtol: tolerated error of a step, relative to z and to log p. 1e-4 is .001 bits/dim of a Gaussian.
      atol: the same, absolute.

    Returns:
      (n,) float32 nats.
    """
    import diffrax  # here, since it takes half a second

    first, last = (process.level(np.float64(t)) for t in (process.least, process.most))
    spread = float(np.log(last.norm / last.alpha))

    def rates(log_ratio, carried, given):
        probes, condition = given
        level = process.level(process.time(-2 * log_ratio))

        def rate(z):
            return z - denoise(level.alpha * z[None], level, condition).x0[0]

        change, derivative = jax.linearize(rate, carried[0])
        traces = jax.vmap(lambda v: jnp.vdot(v, derivative(v)))(probes)
        return change, traces.mean()

    def solved(x, probes, condition):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(rates),
            diffrax.Dopri5(),
            jnp.float32(np.log(first.noise_ratio)),
            jnp.float32(np.log(last.noise_ratio)),
            dt0=None,
            y0=(x, jnp.zeros(())),
            args=(probes, condition),
            stepsize_controller=diffrax.PIDController(rtol, atol),
        )
        z, divergence = (value[0] for value in solution.ys)
        return distributions.Gaussian(0.0, spread).log_density(z).sum() + divergence

    return jax.vmap(solved)(x, probes, jax.tree.map(lambda values: values[:, None], condition))


def ode_bound(denoise, process, keys, x0, condition, *, samples):
    """Of the density of images with uniform noise, by the width of a value in each dimension (Theis et al. 2016, section 3.1).

    Returns:
      {'density': (n,)}, by random signs (Hutchinson 1990) as probes, `samples` of them.
    """

    def drawn(key):
        noise_key, probe_key = jax.random.split(key)
        probes = jax.random.rademacher(probe_key, (samples, *x0.shape[1:]), jnp.float32)
        return jax.random.uniform(noise_key, x0.shape[1:]), probes

    uniform, probes = jax.vmap(drawn)(keys)
    log_p = log_density(denoise, process, distributions.dequantised(x0, uniform), probes, condition)
    return {"density": -log_p - math.prod(x0.shape[1:]) * math.log(distributions.WIDTH)}
