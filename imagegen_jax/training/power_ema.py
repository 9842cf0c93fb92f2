"""Power-function averages (averages.py) in a run's state, kept up to date behind each step.

They stand in TrainState.extra['power_ema'], {width: {'params': ..., 'extra': ...}}: of the parameters that have a moving
average, and of what belongs to it (batch statistics, codebooks), as the network itself has it at each step, with the same
weights. A method does not see them.
"""

import jax
from jax import numpy as jnp
import optax

from imagegen_jax import averages

NAME = "power_ema"


def _averaged(state):
    """What has these averages."""
    params = {name: state.params[name] for name in state.ema_params}
    return {"params": params, "extra": {name: state.extra[name] for name in state.extra.get("ema", {})}}


def widths(state):
    """The names of those in a state, or in a pytree like it."""
    return tuple(state.extra.get(NAME, ()))


def without(state):
    """The state as the method knows it."""
    return state.replace(extra={name: value for name, value in state.extra.items() if name != NAME})


def begun(state, widths):
    """A state of step 0 with averages of these widths, which are zeros until the first step."""
    if not widths:
        return state
    zeros = jax.tree.map(jnp.zeros_like, _averaged(state))
    return state.replace(extra=state.extra | {NAME: {str(width): zeros for width in widths}})


def following(train_step):
    """A train_step, (state, batch, rng) -> (state, metrics), after which the averages in the state have followed."""

    def step(state, batch, rng):
        after, metrics = train_step(without(state), batch, rng)
        if not widths(state):
            return after, metrics
        newest = _averaged(after)
        moved = {
            width: optax.incremental_update(newest, average, averages.newest_weight(float(width), after.step))
            for width, average in state.extra[NAME].items()
        }
        return after.replace(extra=after.extra | {NAME: moved}), metrics

    return step
