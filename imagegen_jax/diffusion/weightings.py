"""Weights of the squared error at each noise level.

`simple` leaves the network's own target unweighted (Ho et al. 2020, equation 14, for eps). The others weight the error of
x0, as a function of the signal-to-noise ratio, and so mean the same whatever the network predicts:

    snr      SNR(t)                the unweighted error of eps
    min_snr  min(SNR(t), gamma)    Hang et al. 2023, equation 8 and section 3.4 (gamma = 5)
"""

import jax.numpy as jnp

from imagegen_jax.diffusion import prediction_types

NAMES = ("simple", "snr", "min_snr")


def weight(name, prediction_type, log_snr, gamma=5.0):
    """The factor on the squared error of the target called `prediction_type`, shaped as log_snr."""
    if name == "simple":
        return jnp.ones_like(log_snr)
    limit = gamma if name == "min_snr" else jnp.inf
    return jnp.minimum(jnp.exp(log_snr), limit) * prediction_types.x0_error_ratio(prediction_type, log_snr)
