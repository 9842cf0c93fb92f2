"""The decay of the moving average of the parameters; the averaging itself is optax.incremental_update."""

import dataclasses
from typing import Annotated

from jax import numpy as jnp

from imagegen_jax import keys


@dataclasses.dataclass(frozen=True)
class Config:
    """The section `ema`."""

    decay: Annotated[float, keys.AtLeast(0), keys.AtMost(1)] = 0.9999  # of the moving average of the parameters
    warmup: bool = True  # decay at step t at most (1 + t) / (10 + t)


def decay_schedule(config):
    """step -> decay.

    With warm-up it is min(decay, (1 + step) / (10 + step)), the rule of tf.train.ExponentialMovingAverage: an average over
    a tenth of the steps so far, so that the untrained parameters are soon forgotten.
    """
    if not config.warmup:
        return lambda step: config.decay
    return lambda step: jnp.minimum(config.decay, (1.0 + step) / (10.0 + step))
