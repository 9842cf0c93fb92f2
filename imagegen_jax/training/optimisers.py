"""Optax transformations from the `optimizer` section of a config."""

import optax

from imagegen_jax import errors

_RULES = {
    "adam": lambda c: optax.scale_by_adam(c.b1, c.b2, c.eps),
    "adamw": lambda c: optax.chain(optax.scale_by_adam(c.b1, c.b2, c.eps), optax.add_decayed_weights(c.weight_decay)),
    "lion": lambda c: optax.chain(optax.scale_by_lion(c.b1, c.b2), optax.add_decayed_weights(c.weight_decay)),
}
_DECAYS = {
    "constant": lambda lr, steps: optax.constant_schedule(lr),
    "linear": lambda lr, steps: optax.linear_schedule(lr, 0.0, steps),
    "cosine": lambda lr, steps: optax.cosine_decay_schedule(lr, steps),
}


def learning_rate(config, total_steps, warmup_steps, hold_steps=0):
    """step -> learning rate: a linear rise over `warmup_steps`, then config.lr until `hold_steps`, then the decay.

    The decay is the one called config.schedule, and ends at `total_steps`.

    The first update already has a rate above 0. Raises errors.UserError for an unknown schedule.
    """
    if config.schedule not in _DECAYS:
        raise errors.UserError(f"config.optimizer.schedule is {config.schedule!r}: choose one of {', '.join(_DECAYS)}")
    held = max(warmup_steps, hold_steps)
    decay = _DECAYS[config.schedule](config.lr, max(total_steps - held, 1))
    if not held:
        return decay
    rise = optax.linear_schedule(config.lr / max(warmup_steps, 1), config.lr, max(warmup_steps - 1, 1))
    return optax.join_schedules([rise, decay], [held])


def make(config, total_steps, warmup_steps=0, hold_steps=0):
    """The transformation of one optimiser: clip by the global norm, the rule, the learning rate.

    Args:
      config: a config's `optimizer` section.
      total_steps: length of the training, where a decaying schedule reaches 0.
      warmup_steps: length of the linear rise.
      hold_steps: the decay begins there, if the rise is over.

    Raises:
      errors.UserError: the rule or the schedule does not exist.
    """
    if config.name not in _RULES:
        raise errors.UserError(f"config.optimizer.name is {config.name!r}: choose one of {', '.join(_RULES)}")
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    rate = learning_rate(config, total_steps, warmup_steps, hold_steps)
    return optax.chain(*clip, _RULES[config.name](config), optax.scale_by_learning_rate(rate))
