"""Noise schedules of variance-preserving processes: the discrete ones of DDPM, and their limits of infinitely many steps.

A discrete one is abar_t = alpha(t)^2 at t = 0, ..., T - 1; a continuous one lambda(t) = log(alpha^2 / sigma^2) for t in (0, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_OFFSET = 0.008  # of the discrete cosine schedule
_START, _END = -3.0, 3.0  # of the sigmoid schedule
_BETAS = 0.1, 20.0  # of the linear schedule, of a thousand steps together


def _discrete_linear(length):
    """Betas evenly from 1e-4 to 0.02 (Ho et al. 2020, section 4), scaled for other lengths to the same total noise."""
    scale = 1000 / length
    betas = np.linspace(1e-4 * scale, 0.02 * scale, length, dtype=np.float64)
    return np.cumprod(1 - np.minimum(betas, 0.999))


def _discrete(curve, length):
    """abar_t = curve((t + 1) / T) / curve(0), with no beta above 0.999 (Nichol & Dhariwal 2021, section 3.2)."""
    values = curve(np.arange(length + 1, dtype=np.float64) / length)
    betas = np.minimum(1 - values[1:] / values[:-1], 0.999)
    return np.cumprod(1 - betas)


def _discrete_cosine(length):
    """Nichol & Dhariwal 2021, equation 17."""
    return _discrete(lambda u: np.cos((u + _OFFSET) / (1 + _OFFSET) * np.pi / 2) ** 2, length)


def _discrete_sigmoid(length):
    """Jabri et al. 2022, as Chen 2023 (algorithm 1) states it."""
    return _discrete(lambda u: (_logistic(1.0, np) - _logistic(u, np)) / (_logistic(1.0, np) - _logistic(0.0, np)), length)


DISCRETE = {"linear": _discrete_linear, "cosine": _discrete_cosine, "sigmoid": _discrete_sigmoid}  # {name: T -> (T,) float64}


class Curve(NamedTuple):
    """A continuous schedule; each function takes an array and the module, numpy or jax.numpy, that it belongs to.

    Attributes:
      log_snr: t -> lambda.
      time: lambda -> t.
      rate: t -> d lambda / dt.
    """

    log_snr: Callable
    time: Callable
    rate: Callable


def _exponent(t):
    """B(t) of abar = exp(-B): the integral of beta(s) = .1 + 19.9 s (Song et al. 2021, appendix C)."""
    first, last = _BETAS
    return first * t + (last - first) / 2 * t**2


def _linear_time(log_snr, xp):
    first, last = _BETAS
    exponent = xp.logaddexp(0.0, -log_snr)
    return (xp.sqrt(first**2 + 2 * (last - first) * exponent) - first) / (last - first)


def _linear_rate(t, xp):
    first, last = _BETAS
    return (first + (last - first) * t) / xp.expm1(-_exponent(t))


def _logistic(u, xp):
    return 1 / (1 + xp.exp(-(u * (_END - _START) + _START)))


def _sigmoid_log_snr(t, xp):
    # sigmoid(a) - sigmoid(b) = sinh((a - b) / 2) / (2 cosh(a / 2) cosh(b / 2)), without cancellation near either end
    signal = xp.sinh((1 - t) * (_END - _START) / 2) * np.cosh(_START / 2)
    noise = xp.sinh(t * (_END - _START) / 2) * np.cosh(_END / 2)
    return xp.log(signal) - xp.log(noise)


def _sigmoid_time(log_snr, xp):
    low, high = _logistic(0.0, np), _logistic(1.0, np)
    level = low + (high - low) / (1 + xp.exp(log_snr))
    return (xp.log(level) - xp.log1p(-level) - _START) / (_END - _START)


def _sigmoid_rate(t, xp):
    width = (_END - _START) / 2
    return -width * (1 / xp.tanh(t * width) + 1 / xp.tanh((1 - t) * width))


CURVES = {
    "linear": Curve(lambda t, xp: -xp.log(xp.expm1(_exponent(t))), _linear_time, _linear_rate),
    "cosine": Curve(
        lambda t, xp: -2 * xp.log(xp.tan(np.pi / 2 * t)),
        lambda log_snr, xp: 2 / np.pi * xp.arctan(xp.exp(-log_snr / 2)),
        lambda t, xp: -2 * np.pi / xp.sin(np.pi * t),
    ),
    "sigmoid": Curve(_sigmoid_log_snr, _sigmoid_time, _sigmoid_rate),
}
