"""Gaussian processes from an image to noise, x_t = alpha(t) x0 + sigma(t) eps, in continuous time.

    vp    alpha = sqrt(sigmoid(lambda)), sigma = sqrt(sigmoid(-lambda))   variance preserving (Song et al. 2021, equation 11)
    ve    alpha = 1, sigma = t                                            variance exploding, as Karras et al. 2022 have it
    flow  alpha = 1 - t, sigma = t                                        rectified flow (Liu et al. 2023, equation 1)
    ddpm  vp at T whole steps t = 0, ..., T - 1                           Ho et al. 2020

lambda(t) = log(alpha^2 / sigma^2) is the log signal-to-noise ratio, which falls as t grows. Times run from the `least` noise,
too little for an 8-bit image to show, to the `most`, which no image shows through.

A process answers for NumPy arrays in float64, with which solvers are prepared, and for JAX arrays in float32.
"""

import abc
import dataclasses
from typing import Any
from typing import ClassVar
from typing import NamedTuple

import jax
from jax import numpy as jnp
import numpy as np
import scipy.special

from imagegen_jax.diffusion import schedules

_LEAST = 0.002  # sigma / alpha, Karras et al. 2022, table 1
_MOST = 1000.0  # where the time's end has an infinite one


class Level(NamedTuple):
    """A noise level: x_t = alpha x0 + sigma eps. Scalars, or arrays that broadcast against images.

    Attributes:
      time: t.
      alpha: of the image.
      sigma: of the noise.
      norm: sqrt(alpha^2 + sigma^2), and exactly 1 where variance is preserved.
    """

    time: Any
    alpha: Any
    sigma: Any
    norm: Any

    @property
    def noise_ratio(self):
        """sigma / alpha, the standard deviation of the noise beside the image as it was: sigma of Karras et al. 2022."""
        return self.sigma / self.alpha

    def for_images(self, ndim):
        """The levels of (n,) images shaped (n, 1, ...) with `ndim` axes."""
        return Level(*(value.reshape(value.shape + (1,) * (ndim - 1)) for value in map(jnp.asarray, self)))


class Process(abc.ABC):
    """A process.

    Attributes:
      least: time of the least noise that a network is trained on.
      most: time of the most, at which drawing begins.
      clean: time of the image itself.
      longest: the most steps that drawing can take.
    """

    least: float
    most: float
    clean: ClassVar[float] = 0.0
    longest: float = float("inf")

    @abc.abstractmethod
    def alpha_sigma(self, t):
        """(alpha, sigma) of times, each shaped as t."""

    @abc.abstractmethod
    def log_snr(self, t):
        """lambda of times."""

    @abc.abstractmethod
    def rates(self, t):
        """(d alpha / dt, d sigma / dt) of times."""

    @abc.abstractmethod
    def time(self, log_snr):
        """The time of a log signal-to-noise ratio."""

    def log_snr_rate(self, t):
        """d lambda / dt, negative."""
        (alpha, sigma), (alpha_rate, sigma_rate) = self.alpha_sigma(t), self.rates(t)
        return 2 * (alpha_rate / alpha - sigma_rate / sigma)

    def level(self, t):
        """The Level of times."""
        alpha, sigma = self.alpha_sigma(t)
        return Level(t, alpha, sigma, _numpy(t).sqrt(alpha**2 + sigma**2))

    def at_fraction(self, u):
        """Time at a fraction u of the way from the least noise to the most."""
        return self.least + u * (self.most - self.least)

    def uniform_times(self, rng, shape):
        """Independent uniform times of training."""
        return self.at_fraction(jax.random.uniform(rng, shape))

    def nearest(self, t):
        """The time of training that is nearest to a JAX array's."""
        return jnp.clip(t, self.least, self.most)

    def trailing(self, steps):
        """(steps,) float64, evenly spaced from the most noise on, without the end ('trailing' of Lin et al. 2024, table 2)."""
        return self.at_fraction(np.arange(steps, 0, -1) / steps)

    def network_time(self, t):
        """What a network is told of a time, on the scale of DDPM's steps."""
        return 1000.0 * t

    def network_input(self, x, level):
        """What a network is shown of x_t: where variance does not explode, x_t itself."""
        return x


def _numpy(x):
    return jnp if isinstance(x, jax.Array) else np


def _sigmoid(x):
    return jax.nn.sigmoid(x) if isinstance(x, jax.Array) else scipy.special.expit(x)


class VariancePreserving(Process):
    """What both vp processes share: alpha^2 + sigma^2 = 1, so that lambda says all."""

    def alpha_sigma(self, t):
        log_snr = self.log_snr(t)
        return _numpy(t).sqrt(_sigmoid(log_snr)), _numpy(t).sqrt(_sigmoid(-log_snr))

    def rates(self, t):
        alpha, sigma = self.alpha_sigma(t)
        rate = self.log_snr_rate(t) / 2
        return alpha * sigma**2 * rate, -sigma * alpha**2 * rate

    def level(self, t):
        return Level(t, *self.alpha_sigma(t), _numpy(t).ones_like(t, dtype=float))


@dataclasses.dataclass(frozen=True)
class Continuous(VariancePreserving):
    """The vp process.

    Attributes:
      curve: of schedules.CURVES.
    """

    curve: schedules.Curve

    @property
    def least(self):
        return float(self.time(-2 * np.log(_LEAST)))

    @property
    def most(self):
        return min(float(self.time(-2 * np.log(_MOST))), 1.0)

    def log_snr(self, t):
        return self.curve.log_snr(t, _numpy(t))

    def log_snr_rate(self, t):
        return self.curve.rate(t, _numpy(t))

    def time(self, log_snr):
        return self.curve.time(log_snr, _numpy(log_snr))


@dataclasses.dataclass(frozen=True)
class VarianceExploding(Process):
    """The ve process.

    Attributes:
      data_std: standard deviation of the pixels, by which a network's input is scaled (Karras et al. 2022, equation 7).
    """

    data_std: float = 0.5
    least: ClassVar[float] = _LEAST
    most: ClassVar[float] = 80.0

    def alpha_sigma(self, t):
        return _numpy(t).ones_like(t), t

    def log_snr(self, t):
        return -2 * _numpy(t).log(t)

    def rates(self, t):
        return _numpy(t).zeros_like(t), _numpy(t).ones_like(t)

    def time(self, log_snr):
        return _numpy(log_snr).exp(-log_snr / 2)

    def network_time(self, t):
        return jnp.log(t) / 4

    def network_input(self, x, level):
        return x * jax.lax.rsqrt(jnp.square(level.sigma) + self.data_std**2)


@dataclasses.dataclass(frozen=True)
class RectifiedFlow(Process):
    """The flow process."""

    least: ClassVar[float] = _LEAST / (1 + _LEAST)
    most: ClassVar[float] = _MOST / (1 + _MOST)

    def alpha_sigma(self, t):
        return 1 - t, t

    def log_snr(self, t):
        return 2 * (_numpy(t).log1p(-t) - _numpy(t).log(t))

    def rates(self, t):
        return -_numpy(t).ones_like(t), _numpy(t).ones_like(t)

    def time(self, log_snr):
        return _sigmoid(-log_snr / 2)


@dataclasses.dataclass(frozen=True, eq=False)
class Discrete(VariancePreserving):
    """The ddpm process. Between whole steps lambda is interpolated linearly.

    Attributes:
      alphas_cumprod: (T,) float64, abar_t = alpha(t)^2, falling from almost 1 to almost 0.
    """

    alphas_cumprod: np.ndarray
    least: ClassVar[float] = 0.0
    clean: ClassVar[float] = -1.0

    @property
    def longest(self):
        return len(self.alphas_cumprod)

    @property
    def most(self):
        return self.longest - 1.0

    @property
    def _log_snrs(self):
        return np.log(self.alphas_cumprod) - np.log1p(-self.alphas_cumprod)

    def log_snr(self, t):
        return self._at(t, self._log_snrs)

    def log_snr_rate(self, t):
        return self._at(t, np.gradient(self._log_snrs))

    def alpha_sigma(self, t):
        if not _whole(t):
            return super().alpha_sigma(t)
        # Both roots are taken in float64: near t = 0 a float32 abar has lost what 1 - abar needs.
        return self._at(t, np.sqrt(self.alphas_cumprod)), self._at(t, np.sqrt(1 - self.alphas_cumprod))

    def time(self, log_snr):
        """The time, not always a whole step."""
        return _numpy(log_snr).interp(log_snr, self._log_snrs[::-1], np.arange(self.longest - 1.0, -1, -1))

    def at_fraction(self, u):
        """The step of which u is a part, all being equally long: a whole number."""
        return jnp.minimum((u * self.longest).astype(jnp.int32), self.longest - 1)

    def uniform_times(self, rng, shape):
        return jax.random.randint(rng, shape, 0, self.longest)

    def nearest(self, t):
        return jnp.clip(jnp.round(t).astype(jnp.int32), 0, self.longest - 1)

    def trailing(self, steps):
        return np.round(np.arange(steps, 0, -1) * (self.longest / steps)) - 1

    def network_time(self, t):
        return t

    def _at(self, t, values):
        if _whole(t):
            return jnp.asarray(values, jnp.float32)[t]
        return _numpy(t).interp(t, np.arange(self.longest, dtype=np.float64), values)


def _whole(t):
    return isinstance(t, jax.Array) and jnp.issubdtype(t.dtype, jnp.integer)


# {name: (the keys schedule, length and data_std) -> Process}
PROCESSES = {
    "ddpm": lambda keys: Discrete(schedules.DISCRETE[keys.schedule](keys.length)),
    "vp": lambda keys: Continuous(schedules.CURVES[keys.schedule]),
    "ve": lambda keys: VarianceExploding(keys.data_std),
    "flow": lambda keys: RectifiedFlow(),
}
