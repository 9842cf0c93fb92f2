"""Time grids: at which times a solver evaluates the network, from the most noise to the least.

The names are:

trailing   evenly spaced from the most noise on; the step after the last ends at the image (Lin et al. 2024, table 2)
uniform    evenly spaced from the most noise to the least
quadratic  squares of evenly spaced roots, so that steps get shorter towards the image (Song et al. 2021, appendix D.2)
karras     sigma / alpha to the power 1 / rho evenly spaced (Karras et al. 2022, equation 5)
log_snr    log(alpha^2 / sigma^2) evenly spaced (Lu et al. 2022, section 3.4)
"""

import numpy as np

NAMES = ("trailing", "uniform", "quadratic", "karras", "log_snr")


def times(name, process, steps, rho=7.0):
    """(steps,) float64, decreasing.

    Args:
      name: one of NAMES.
      process: a processes.Process.
      steps: how many, at least 1. A single one is the time of the most noise.
      rho: of karras.
    """
    if name == "trailing":
        return process.trailing(steps)
    fraction = np.linspace(1.0, 0.0, steps) if steps > 1 else np.ones(1)
    if name == "uniform":
        return process.least + (process.most - process.least) * fraction
    if name == "quadratic":
        return process.least + (process.most - process.least) * fraction**2
    least, most = (process.log_snr(np.float64(t)) for t in (process.least, process.most))
    if name == "karras":
        low, high = np.exp(-least / 2), np.exp(-most / 2)
        log_snr = -2 * rho * np.log(low ** (1 / rho) + fraction * (high ** (1 / rho) - low ** (1 / rho)))
    else:
        log_snr = least + (most - least) * fraction
    found = process.time(log_snr)
    found[0] = process.most  # which its logarithm would miss by its rounding
    return found
