"""Log likelihoods of held-out images, and tighter bounds of them than the one that was trained."""

import dataclasses
import math

import jax
from jax import numpy as jnp

from imagegen_jax import distributions
from imagegen_jax import errors
from imagegen_jax.algorithms import capabilities


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is measured of test images beside an algorithm's own metrics; None for nothing.

    Attributes:
      importance_samples: samples of the importance-weighted bound.
      likelihood: a kind of capabilities.HasLikelihood.
      likelihood_samples: of it; None for as many as the algorithm has it.
      likelihood_num: test images whose likelihood is measured; None for all.
    """

    importance_samples: int | None = None
    likelihood: str | None = None
    likelihood_samples: int | None = None
    likelihood_num: int | None = None

    def check(self, measured=True):
        """What needs no run, and `measured`: whether there is one whose test images are. Raises errors.UserError."""
        errors.check_at_least(vars(self), importance_samples=1, likelihood_samples=1, likelihood_num=2)
        for name in ("likelihood_samples", "likelihood_num"):
            if getattr(self, name) is not None and self.likelihood is None:
                raise errors.UserError(f"--{name}={getattr(self, name)}: it is of --likelihood; give that too, or leave it out")

        if self.likelihood is not None and not measured:
            raise errors.UserError(f"--likelihood={self.likelihood}: it is of --workdir and of --metrics=heldout; give both")

    def protocol(self, algorithm):
        """What the numbers of an algorithm depend on, as JSON; that of the importance-weighted bound is there in all scores."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if self.likelihood is not None:
            given.setdefault("likelihood_samples", algorithm.likelihoods[self.likelihood])
        return {"importance_samples": None} | given


def measures(algorithm, asked):
    """[(measure of evaluator.Evaluator, of how many images; 0 for all)] of what is Asked. Raises errors.UserError."""
    found = []
    if asked.importance_samples is not None:
        found.append((importance_weighted(algorithm, asked.importance_samples), 0))
    if asked.likelihood is not None:
        found.append((likelihood(algorithm, asked.likelihood, asked.likelihood_samples), asked.likelihood_num or 0))
    return found


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


def likelihood(algorithm, kind, samples=None):
    """A likelihood of capabilities.HasLikelihood.

    Args:
      algorithm: one that has it.
      kind: which.
      samples: how many, at least 1; None for as many as the algorithm has it.

    Returns:
      (state, batch, rng) -> {'bits_per_dim_<kind>' (n,), and where it has several parts 'bits_per_dim_<kind>_<part>' of each}.

    Raises:
      errors.UserError: there is no such likelihood.
    """
    if not isinstance(algorithm, capabilities.HasLikelihood):
        raise errors.UserError(f"--likelihood={kind}: only runs of diffusions have one; leave it out")
    if kind not in algorithm.likelihoods:
        raise errors.UserError(f"--likelihood={kind}: choose one of {', '.join(algorithm.likelihoods)}")
    samples = samples or algorithm.likelihoods[kind]

    def measure(state, batch, rng):
        costs = algorithm.likelihood_costs(state, batch, rng, kind, samples)
        costs = {"": sum(costs.values())} | ({f"_{part}": cost for part, cost in costs.items()} if len(costs) > 1 else {})
        shape = batch["image"].shape[1:]
        return {f"bits_per_dim_{kind}{part}": distributions.bits_per_dimension(-cost, shape) for part, cost in costs.items()}

    return measure
