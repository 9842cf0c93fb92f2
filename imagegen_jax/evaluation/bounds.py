"""Tighter bounds of the log likelihood of held-out images than the one that was trained."""

import math

import jax
from jax import numpy as jnp

from imagegen_jax import distributions
from imagegen_jax import errors
from imagegen_jax.algorithms import capabilities


def importance_weighted(algorithm, samples):
    """The bound of Burda et al. 2016, equation 8: log of the mean over samples of p(x, z) / q(z | x), with z ~ q(z | x).

    It rises with the number of samples, from the evidence lower bound towards log p(x). One sample at a time goes through the
    networks, so that memory does not grow with their number.

    Args:
      algorithm: one that has such a bound (capabilities.HasBound).
      samples: how many, at least 1.

    Returns:
      (state, batch, rng) -> {'log_likelihood_iw<samples>' (n,) nats, 'bits_per_dim_iw<samples>' (n,)}, of evaluator.Evaluator.

    Raises:
      errors.UserError: there is no such bound.
    """
    if not isinstance(algorithm, capabilities.HasBound):
        raise errors.UserError(f"--importance_samples={samples}: only runs of variational autoencoders have this bound")

    def measure(state, batch, rng):
        def add(total, sample):
            return jnp.logaddexp(total, algorithm.log_importance_weights(state, batch, rng, sample)), None

        nothing = jnp.full(len(batch["index"]), -jnp.inf)
        total, _ = jax.lax.scan(add, nothing, jnp.arange(samples))
        bound = total - math.log(samples)
        bits = distributions.bits_per_dimension(bound, batch["image"].shape[1:])
        return {f"log_likelihood_iw{samples}": bound, f"bits_per_dim_iw{samples}": bits}

    return measure
