"""The decay of the moving average of the parameters; the averaging itself is optax.incremental_update."""

from jax import numpy as jnp


def decay_schedule(decay, warmup):
    """step -> decay.

    With warm-up it is min(decay, (1 + step) / (10 + step)), the rule of tf.train.ExponentialMovingAverage: an average over
    a tenth of the steps so far, so that the untrained parameters are soon forgotten.
    """
    if not warmup:
        return lambda step: decay
    return lambda step: jnp.minimum(decay, (1.0 + step) / (10.0 + step))
