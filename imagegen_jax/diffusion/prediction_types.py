"""What a denoising network may predict, and the way from each to the image.

With x_t = alpha x0 + sigma eps, r^2 = alpha^2 + sigma^2 and q^2 = alpha^2 d^2 + sigma^2, where d is the standard deviation of
the data, each of these determines the others given x_t:

    prediction  from x0 and eps                          x0                                |x0 error| / |prediction error|
    x0          x0                                       F                                 1
    eps         eps                                      (x_t - sigma F) / alpha           sigma / alpha
    v           (alpha eps - sigma x0) / r               (alpha x_t - sigma r F) / r^2     sigma / r
    velocity    eps - x0                                 (x_t - sigma F) / (alpha + sigma) sigma / (alpha + sigma)
    edm         (sigma x0 - alpha d^2 eps) / (q d)       alpha d^2 / q^2 x_t + sigma d / q F    sigma d / q

v is from Salimans & Ho 2022, appendix D, where r = 1; velocity is that of the straight line from x0 to eps (Liu et al. 2023,
equation 1); edm is the F of Karras et al. 2022, equation 7, here of x_t / alpha, whose noise is sigma / alpha. With d = 1 it is
-v. The last column squared turns a weight on the error of x0 into one on that of the prediction.
"""

import jax.numpy as jnp

NAMES = ("eps", "x0", "v", "velocity", "edm")


def target(name, x0, eps, level, data_std=0.5):
    """What the network called `name` should predict.

    Args:
      name: one of NAMES.
      x0: (n, ...) images.
      eps: their noise.
      level: the processes.Level of each, which broadcasts against the images.
      data_std: d, of edm.
    """
    _, alpha, sigma, norm = level
    if name == "eps":
        return eps
    if name == "x0":
        return x0
    if name == "v":
        return (alpha * eps - sigma * x0) / norm
    if name == "velocity":
        return eps - x0
    return (sigma * x0 - alpha * data_std**2 * eps) / (data_std * _edm_norm(level, data_std))


def to_x0(name, prediction, x_t, level, data_std=0.5):
    """The image that a prediction implies."""
    _, alpha, sigma, norm = level
    if name == "eps":
        return (x_t - sigma * prediction) / alpha
    if name == "x0":
        return prediction
    if name == "v":
        return (alpha * x_t - sigma * norm * prediction) / norm**2
    if name == "velocity":
        return (x_t - sigma * prediction) / (alpha + sigma)
    q = _edm_norm(level, data_std)
    return alpha * (data_std / q) ** 2 * x_t + sigma * data_std / q * prediction


def implied_eps(x0, x_t, level):
    """The noise that x_t holds if x0 is its image."""
    return (x_t - level.alpha * x0) / level.sigma


def x0_error_ratio(name, log_snr, data_std=0.5):
    """|x0 error|^2 / |prediction error|^2, the square of the table's last column, in terms of log(alpha^2 / sigma^2)."""
    if name == "eps":
        return jnp.exp(-log_snr)
    if name == "x0":
        return jnp.ones_like(log_snr)
    if name == "v":
        return 1 / (1 + jnp.exp(log_snr))
    if name == "velocity":
        return 1 / jnp.square(1 + jnp.exp(log_snr / 2))
    return data_std**2 / (1 + data_std**2 * jnp.exp(log_snr))


def _edm_norm(level, data_std):
    return jnp.sqrt(jnp.square(level.alpha * data_std) + jnp.square(level.sigma))
