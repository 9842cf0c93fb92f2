"""Moving averages of the parameters: the decay of the ordinary one, and the mathematics of power-function averages.

Those are of Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models" (EDM2), section 3 and
appendix C, whose equations are cited here. At step t, parameters of step tau have the weight

    p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1)    for 0 <= tau <= t                                            equation 121

in the average, whose width sigma_rel is the standard deviation of this profile, divided by t. Averages of a few widths at
several steps combine to that of any width at any of the steps ("post-hoc EMA"), as far as their profiles do.
"""

import dataclasses
import math
from typing import Annotated

from jax import numpy as jnp
import numpy as np

from imagegen_jax import errors
from imagegen_jax import keys

WIDEST = 0.28  # towards 12 ** -0.5, all steps count alike
WRITE = "write true, false, or the width of an average, such as 0.05"
_WIDTH_BOUNDS = (keys.Above(0), keys.AtMost(WIDEST))


@dataclasses.dataclass(frozen=True)
class Config:
    """The section `ema`."""

    decay: Annotated[float, keys.AtLeast(0), keys.AtMost(1)] = 0.9999  # of the moving average of the parameters
    warmup: bool = True  # decay at step t at most (1 + t) / (10 + t)
    # sigma_rel of power-function averages that are kept beside it, such as (0.05, 0.1): a copy of the parameters each, of which
    # --ema=SIGMA_REL makes any other width when the run is used.
    widths: Annotated[tuple[float, ...], *map(keys.Each, _WIDTH_BOUNDS)] = ()

    def objections(self):
        """See keys.objections."""
        if len(set(self.widths)) < len(self.widths):
            yield "widths", "each can be there once"


def decay_schedule(config):
    """step -> decay.

    With warm-up it is min(decay, (1 + step) / (10 + step)), the rule of tf.train.ExponentialMovingAverage: an average over
    a tenth of the steps so far, so that the untrained parameters are soon forgotten.
    """
    if not config.warmup:
        return lambda step: config.decay
    return lambda step: jnp.minimum(config.decay, (1.0 + step) / (10.0 + step))


def check_width(width):
    """Raises errors.UserError where no power-function average has this width."""
    if isinstance(width, bool) or not isinstance(width, int | float) or math.isnan(width):
        raise errors.UserError(f"--ema={width}: {WRITE}")
    for bound in _WIDTH_BOUNDS:
        if text := bound.objection(width):
            raise errors.UserError(f"--ema={width:g}: as the width of an average {text}")


def gamma(width):
    """The exponent of the profile with this width, sigma_rel = (gamma + 1)^(1/2) (gamma + 2)^-1 (gamma + 3)^(-1/2).

    Equations 123 and 126 and algorithm 2. A width of 0.05 has 16.97, and one of 0.10 has 6.94.

    Args:
      width: sigma_rel in (0, WIDEST].

    Returns:
      A float above 0.
    """
    t = width**-2.0
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def newest_weight(width, step):
    """1 - beta of equation 127, beta = (1 - 1/t)^(gamma + 1): the weight of the newest parameters in the average at step t.

    The average then weighs those of step tau by the profile's integral from tau - 1 to tau, exactly; what it was before step 1
    has no weight.

    Args:
      width: sigma_rel.
      step: () int32, t >= 1.

    Returns:
      () float32 in (0, 1], as precise for millions of steps, where beta itself rounds to 1.
    """
    return -jnp.expm1((gamma(width) + 1) * jnp.log1p(-1.0 / step))


def inner_product(width_a, step_a, width_b, step_b):
    """The integral of the product of two profiles (equation 151), float64; arrays broadcast."""
    a, b = (np.vectorize(gamma, otypes=[np.float64])(width) for width in (width_a, width_b))
    step_a, step_b = np.float64(step_a), np.float64(step_b)
    common = np.minimum(step_a, step_b)
    scale = (a + 1) * (b + 1) / (a + b + 1) * common / (step_a * step_b)
    return scale * (common / step_a) ** a * (common / step_b) ** b


def combination(widths, steps, width, step):
    """The weights of averages whose sum is the nearest to another average (appendix C.2, algorithm 3).

    They minimise the L2 distance of the profiles and add up to 1, so that parameters that stay the same come out the same.
    (Algorithm 3 has the minimum without this condition; the authors' code then divides by the sum.)

    Args:
      widths: (k,), sigma_rel of those that there are.
      steps: (k,), when each of them was kept. A pair of width and step comes once.
      width: sigma_rel of the one that is wanted.
      step: when it is of.

    Returns:
      (weights (k,) float64, the distance that is left, as a share of the wanted profile's norm)
    """
    steps = np.divide(steps, step)  # the unit of time is free, and near 1 all is well scaled
    widths = np.asarray(widths, np.float64)
    products = inner_product(widths[:, None], steps[:, None], widths, steps)
    wanted, norm = inner_product(widths, steps, width, 1.0), inner_product(width, 1.0, width, 1.0)
    scale = np.diag(products) ** -0.5
    inverse = scale[:, None] * np.linalg.pinv(scale[:, None] * products * scale, rcond=1e-12, hermitian=True) * scale
    weights, ones = inverse @ wanted, inverse.sum(1)
    weights += (1 - weights.sum()) / ones.sum() * ones  # a Lagrange multiplier
    square = weights @ products @ weights - 2 * weights @ wanted + norm
    return weights, float(np.sqrt(max(square, 0.0) / norm))
