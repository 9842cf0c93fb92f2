"""What a denoising network may predict, and the way from each to every other.

With a = sqrt(abar_t), s = sqrt(1 - abar_t) and x_t = a x0 + s eps, each of these determines the others given x_t:

    target   from x0 and eps     x0                    eps                   |x0 error|^2 / |target error|^2
    x0       x0                  x0                    (x_t - a x0) / s      1
    eps      eps                 (x_t - s eps) / a     eps                   s^2 / a^2
    v        a eps - s x0        a x_t - s v           s x_t + a v           s^2

v is from Salimans & Ho 2022, appendix D. The last column turns a weight on the error of x0 into one on the target's.
"""

import jax.numpy as jnp

NAMES = ("eps", "x0", "v")


def target(name, x0, eps, signal, noise):
    """What the network called `name` should predict. Images (n, ...); signal and noise broadcast against them."""
    if name == "eps":
        return eps
    if name == "x0":
        return x0
    return signal * eps - noise * x0


def to_x0(name, prediction, x_t, signal, noise):
    """The clean image that a prediction implies."""
    if name == "eps":
        return (x_t - noise * prediction) / signal
    if name == "x0":
        return prediction
    return signal * x_t - noise * prediction


def implied_eps(x0, x_t, signal, noise):
    """The noise that x_t holds if x0 is its clean image: the third column for any prediction, by way of its x0."""
    return (x_t - signal * x0) / noise


def x0_error_ratio(name, log_snr):
    """|x0 error|^2 / |target error|^2, the table's last column; shaped as log_snr = log(a^2 / s^2)."""
    if name == "eps":
        return jnp.exp(-log_snr)
    if name == "x0":
        return jnp.ones_like(log_snr)
    return 1 / (1 + jnp.exp(log_snr))
