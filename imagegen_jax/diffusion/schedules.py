"""Noise schedules of a discrete diffusion: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, t in {0, ..., T - 1}.

t = 0 is the least noisy step of training; the clean image itself is step -1, with abar_{-1} = 1.
"""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np


def _linear(length):
    """Betas evenly from 1e-4 to 0.02 (Ho et al. 2020, section 4), scaled for other lengths to the same total noise."""
    scale = 1000 / length
    betas = np.linspace(1e-4 * scale, 0.02 * scale, length, dtype=np.float64)
    return np.cumprod(1 - np.minimum(betas, 0.999))


def _from_curve(curve, length):
    """abar_t = curve((t + 1) / T) / curve(0), with no beta above 0.999 (Nichol & Dhariwal 2021, section 3.2)."""
    values = curve(np.arange(length + 1, dtype=np.float64) / length)
    betas = np.minimum(1 - values[1:] / values[:-1], 0.999)
    return np.cumprod(1 - betas)


def _cosine(length, offset=0.008):
    """Nichol & Dhariwal 2021, equation 17."""
    return _from_curve(lambda u: np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2, length)


def _sigmoid(length, start=-3.0, end=3.0, temperature=1.0):
    """Jabri et al. 2022, as Chen 2023 (algorithm 1) states it."""

    def logistic(u):
        return 1 / (1 + np.exp(-(u * (end - start) + start) / temperature))

    return _from_curve(lambda u: (logistic(1.0) - logistic(u)) / (logistic(1.0) - logistic(0.0)), length)


CURVES = {"linear": _linear, "cosine": _cosine, "sigmoid": _sigmoid}


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """The cumulative signal levels of a diffusion of `length` steps.

    Attributes:
      alphas_cumprod: (length,) float64, abar_t, falling from almost 1 to almost 0.
    """

    alphas_cumprod: np.ndarray

    @classmethod
    def named(cls, name, length):
        """The schedule called `name`, a key of CURVES, with `length` steps."""
        return cls(CURVES[name](length))

    @property
    def length(self):
        return len(self.alphas_cumprod)

    def signal_and_noise(self, t, ndim=1):
        """sqrt(abar_t) and sqrt(1 - abar_t) of (n,) integer steps, float32, shaped (n, 1, ...) with `ndim` axes.

        Both roots are taken in float64: near t = 0 a float32 abar has lost what 1 - abar needs.
        """
        return tuple(
            self._gather(values, t, ndim) for values in (np.sqrt(self.alphas_cumprod), np.sqrt(1 - self.alphas_cumprod))
        )

    def log_snr(self, t, ndim=1):
        """log(abar_t / (1 - abar_t)) of (n,) integer steps, float32, shaped as in signal_and_noise."""
        return self._gather(np.log(self.alphas_cumprod) - np.log1p(-self.alphas_cumprod), t, ndim)

    def _gather(self, values, t, ndim):
        return jnp.asarray(values, jnp.float32)[t].reshape(t.shape + (1,) * (ndim - 1))

    def add_noise(self, x0, eps, t):
        """Draws from q(x_t | x_0) with eps its noise (Ho et al. 2020, equation 4). x0, eps: (n, ...); t: (n,) int."""
        signal, noise = self.signal_and_noise(t, x0.ndim)
        return signal * x0 + noise * eps


def sample_timesteps(rng, n, length, stratified):
    """(n,) int32 training steps, each uniform on {0, ..., length - 1}.

    Stratified, one uniform draw shifts an even grid over the batch (Kingma et al. 2021, appendix I.1): every step is as
    likely as before, while the mean over the batch varies less. A permutation keeps a step from clinging to a row.
    """
    if not stratified:
        return jax.random.randint(rng, (n,), 0, length)
    shift, order = jax.random.split(rng)
    u = (jax.random.uniform(shift) + jax.random.permutation(order, n) / n) % 1.0
    return jnp.minimum((u * length).astype(jnp.int32), length - 1)
