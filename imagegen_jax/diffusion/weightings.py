"""Weights of the squared error at each noise level, as functions of lambda = log(alpha^2 / sigma^2).

`simple` leaves the network's own prediction unweighted (Ho et al. 2020, equation 14, for eps). The others weight the error of
x0, and so mean the same whatever the network predicts:

    snr      SNR = exp(lambda)                      the unweighted error of eps
    min_snr  min(SNR, gamma)                        Hang et al. 2023, equation 8 and section 3.4 (gamma = 5)
    edm      SNR + 1 / d^2                          Karras et al. 2022, table 1; the unweighted error of a prediction 'edm'
    velocity 1 / max(s, .05)^2                      Li & He 2025 (JiT), where s = 1 / (1 + sqrt(SNR)) is sigma of the flow
                                                    process; but for the bound the unweighted error of a velocity
    sigmoid  sigmoid(b - lambda) SNR / p(lambda)    Kingma & Gao 2023, section 5 (b = 2), where p is the density of lambda in
                                                    training: weights the integral over lambda of the error of eps
"""

import jax
import jax.numpy as jnp

from imagegen_jax.diffusion import prediction_types

NAMES = ("simple", "snr", "min_snr", "edm", "velocity", "sigmoid")
_LEAST_SIGMA = 0.05  # of velocity


def weight(name, prediction_type, log_snr, *, gamma=5.0, data_std=0.5, bias=2.0, density=None):
    """The factor on the squared error of the prediction.

    Args:
      name: one of NAMES.
      prediction_type: what the network predicts, one of prediction_types.NAMES.
      log_snr: lambda.
      gamma: of min_snr.
      data_std: d, of edm and of the prediction of that name.
      bias: b, of sigmoid.
      density: () -> p(lambda), of sigmoid.

    Returns:
      Shaped as log_snr.
    """
    if name == "simple":
        return jnp.ones_like(log_snr)
    snr = jnp.exp(log_snr)
    if name == "edm":
        of_x0 = snr + data_std**-2
    elif name == "velocity":
        of_x0 = jnp.maximum(jax.nn.sigmoid(-log_snr / 2), _LEAST_SIGMA) ** -2
    elif name == "sigmoid":
        of_x0 = jax.nn.sigmoid(bias - log_snr) * snr / density()
    else:
        of_x0 = jnp.minimum(snr, gamma if name == "min_snr" else jnp.inf)
    return of_x0 * prediction_types.x0_error_ratio(prediction_type, log_snr, data_std)
