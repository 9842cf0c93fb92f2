"""A run with a power-function average of any width in place of its parameters: "post-hoc EMA" (Karras et al. 2024, EDM2)."""

import dataclasses
import functools
import itertools

import jax
from jax import numpy as jnp

from imagegen_jax import averages
from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import progress
from imagegen_jax.training import checkpoint
from imagegen_jax.training import power_ema
from imagegen_jax.training import run

_MOST_ERROR = 0.1  # of the profile, as averages.combination measures it
_NO_WEIGHT = 1e-8  # below the rounding of float32
_BY_MOVING = "move it out of the folder"


def load(workdir, step, width, check=None):
    """As run.load, with the average of this width at the checkpoint's step in place of the parameters.

    It is a sum of the averages in that checkpoint and in those before it, which are read one after the other, so that memory
    holds two. A line on stderr says how near the sum comes.

    Args:
      workdir: the run's folder.
      step: which checkpoint, as run.find_step takes it.
      width: sigma_rel, as averages.gamma takes it.
      check: see run.load.

    Raises:
      errors.UserError: there is no such width, the folder is not a run, it keeps no such averages, they do not come near this
        one, or a checkpoint cannot be read.
    """
    averages.check_width(width)
    opened = run.open_run(workdir, check)
    shapes = opened.state
    if power_ema.NAME not in shapes.extra:
        raise errors.UserError(
            f"--ema={width:g}: {workdir} keeps no averages to make it from, which takes a training with "
            "--config.ema.widths='(0.05,0.1)'; leave it out for the moving average"
        )
    reader = checkpoint.Checkpointer(files.to_path(workdir) / run.CHECKPOINTS, read_only=True)
    # Whatever has no average is the chosen checkpoint's own.
    state, position = reader.restore(run.find_step(workdir, opened.config, step), _without_averaged(shapes), _BY_MOVING)
    total = _sum(reader, shapes, _summands(workdir, opened.config.ema.widths, position.step, width))
    extra = {name: value for name, value in state.extra.items() if name not in ("ema", power_ema.NAME)}
    state = state.replace(params=state.params | total["params"], opt_state={}, ema_params={}, extra=extra | total["extra"])
    return dataclasses.replace(opened, state=state, step=position.step, ema=width)


def _summands(workdir, widths, step, width):
    """[(width, step, weight), ...] of the averages in checkpoints that make up the wanted one. Raises errors.UserError."""
    steps = [each for each in checkpoint.available_steps(files.to_path(workdir) / run.CHECKPOINTS) if each <= step]
    kept = list(itertools.product(widths, steps))
    weights, error = averages.combination(*zip(*kept), width, step)
    used = [(*one, weight) for one, weight in zip(kept, weights) if abs(weight) > _NO_WEIGHT]
    there = f"the {len(kept)} averages in checkpoints up to step {step}"
    if error > _MOST_ERROR:
        raise errors.UserError(
            f"--ema={width:g}: {there} come no nearer to its profile than {error:.0%}; choose a width nearer to "
            f"{' or '.join(map(str, widths))}, or train with more checkpoints, --config.checkpoint.keep_every=DURATION"
        )
    progress.tell(f"--ema={width:g} is made from {len(used)} of {there}; its profile is off by {error:.2%}")
    return used


def _without_averaged(shapes):
    """The shapes of a state for checkpoint.restore, of which only what has no average is to be read."""
    averaged = {*shapes.extra.get("ema", {}), "ema", power_ema.NAME}
    return shapes.replace(
        params=shapes.params | checkpoint.left_out({name: shapes.params[name] for name in shapes.ema_params}),
        opt_state=checkpoint.left_out(shapes.opt_state),
        ema_params=checkpoint.left_out(shapes.ema_params),
        extra=shapes.extra | checkpoint.left_out({name: shapes.extra[name] for name in averaged & shapes.extra.keys()}),
    )


def _sum(reader, shapes, summands):
    """The weighted sum of averages in checkpoints."""
    unread = checkpoint.left_out(shapes)
    total = least = None
    for width, step, weight in summands:
        wanted = {str(width): shapes.extra[power_ema.NAME][str(width)]}
        asked = unread.replace(extra=unread.extra | {power_ema.NAME: unread.extra[power_ema.NAME] | wanted})
        average = reader.restore(step, asked, _BY_MOVING)[0].extra[power_ema.NAME][str(width)]
        least = average["extra"] if least is None else jax.tree.map(jnp.minimum, least, average["extra"])
        total = _scaled(average, weight) if total is None else _added(total, average, weight)
    # Weights may be negative, and what is positive in all averages, such as a variance, must stay so.
    extra = jax.tree.map(lambda x, low: jnp.where(low > 0, jnp.maximum(x, low / 2), x), total["extra"], least)
    return total | {"extra": extra}


@jax.jit
def _scaled(average, weight):
    return jax.tree.map(lambda x: weight * x, average)


@functools.partial(jax.jit, donate_argnums=0)
def _added(total, average, weight):
    return jax.tree.map(lambda x, y: x + weight * y, total, average)
