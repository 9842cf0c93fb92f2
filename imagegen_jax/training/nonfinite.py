"""Steps that end in numbers that are not finite: what config.on_nonfinite makes of them.

'stop' looks at the metrics alone, on the host. The others look at the whole state on the device, so that no checkpoint ever
holds what is not finite.
"""

import math

import jax
from jax import numpy as jnp

from imagegen_jax import errors

SKIPPED = "skipped"  # the metric of a step with "skip": 1 where it was left out
MOST_IN_A_ROW = 100  # steps left out before the training gives up


class NotFiniteError(errors.UserError):
    """A step whose metrics, or whose state, are not finite.

    Attributes:
      what: which step and which metric, in one line.
    """

    def __init__(self, what):
        """See `what`."""
        super().__init__(
            f"{what}; nothing after the last checkpoint is kept. Go on with --config.on_nonfinite=rollback (or skip), or start "
            "again in a new workdir with a lower --config.optimizer.lr or with --config.optimizer.clip_norm"
        )
        self.what = what


def guarded(train_step, rule):
    """The train step of an algorithm under a rule of config.on_nonfinite.

    With 'skip', a step that is not finite leaves the state as it was, but for its number: schedules of the learning
    rate wait. With 'rollback', its loss is not a number.
    """
    if rule == "stop":
        return train_step

    def step(state, batch, rng):
        after, metrics = train_step(state, batch, rng)
        finite = _all_finite((after, metrics))
        if rule == "rollback":
            return after, metrics | {"loss": jnp.where(finite, metrics["loss"], jnp.nan)}
        after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state).replace(step=after.step)
        return after, metrics | {SKIPPED: 1.0 - finite}

    return step


def check(step, metrics):
    """Raises NotFiniteError for the first of a step's metrics, {name: float}, that is not finite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise NotFiniteError(f"step {step}: {name} is {value}")


def check_skipped(step, in_a_row):
    """Raises errors.UserError where so many steps were left out one after the other that no other will do."""
    if in_a_row >= MOST_IN_A_ROW:
        raise errors.UserError(
            f"step {step}: {in_a_row} steps in a row were not finite and left out; nothing after the last checkpoint is kept. "
            "Start again with a lower --config.optimizer.lr or with --config.optimizer.clip_norm, in a new workdir"
        )


def _all_finite(tree):
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in floats]))
