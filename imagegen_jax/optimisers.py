"""Optax transformations from the `optimizer` section of a config."""

import dataclasses
import math
import re
from typing import Annotated
from typing import Literal

import jax
from jax import numpy as jnp
import optax

from imagegen_jax import errors
from imagegen_jax import keys

FROZEN = "pretrained"  # the name of a network, within another, whose parameters stay as they are

_RULES = {
    "adam": lambda c: optax.scale_by_adam(c.b1, c.b2, c.eps),
    "adamw": lambda c: optax.chain(optax.scale_by_adam(c.b1, c.b2, c.eps), _decay_weights(c.weight_decay)),
    "lion": lambda c: optax.chain(optax.scale_by_lion(c.b1, c.b2), _decay_weights(c.weight_decay)),
    "muon": lambda c: optax.chain(_muon(c), _decay_weights(c.weight_decay)),
}
_DECAYS = {
    "constant": lambda c, steps: optax.constant_schedule(c.lr),
    "linear": lambda c, steps: optax.linear_schedule(c.lr, c.lr_end, steps),
    "cosine": lambda c, steps: optax.cosine_decay_schedule(c.lr, steps, c.lr_end / c.lr if c.lr else 0.0),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The section `optimizer`."""

    name: Annotated[str, keys.OneOf(_RULES)] = "adam"
    lr: Annotated[float, keys.AtLeast(0)] = 2e-4  # at its peak
    b1: Annotated[float, keys.AtLeast(0), keys.Below(1)] = 0.9
    b2: Annotated[float, keys.AtLeast(0), keys.Below(1)] = 0.999
    eps: Annotated[float, keys.AtLeast(0)] = 1e-8  # adam, adamw and muon
    weight_decay: Annotated[float, keys.AtLeast(0)] = 0.0  # all but adam
    adam_regex: keys.Regex = ""  # muon: kernels in whose path this regular expression is found follow Adam, too
    schedule: Annotated[str, keys.OneOf(_DECAYS)] = "constant"  # linear and cosine fall until the end of the training
    lr_end: Annotated[float, keys.AtLeast(0)] = 0.0  # to this
    warmup: keys.Duration = "0 steps"  # linear rise from 0
    hold: keys.Duration = "0 steps"  # the decay begins here, if the warm-up is over
    # What becomes of a decay that has begun when the run is continued with another duration: 'error' asks which; 'continue'
    # keeps the schedule and, after it, its last rate; 'restart' begins the whole schedule anew, for the steps that are left.
    on_new_duration: Literal["error", "continue", "restart"] = keys.resumable("error")
    clip_norm: Annotated[float, keys.AtLeast(0)] = 1.0  # global norm of the gradient; 0: no clipping
    # Pieces in which a batch's gradient is computed, to save memory. A batch in other pieces has the same mean loss; dropout
    # draws other masks in them, from the same distribution.
    accumulate: Annotated[int, keys.AtLeast(1)] = keys.resumable(1)

    def objections(self):
        """See keys.objections."""
        if self.lr_end > self.lr:
            yield "lr_end", f"it can be at most config.optimizer.lr ({self.lr})"
        if self.weight_decay and self.name == "adam":
            yield "weight_decay", "config.optimizer.name=adam has none, choose adamw, lion or muon"


def _muon(config):
    """Muon of the kernels but for those of config.adam_regex, Adam of all else.

    The momentum of a kernel becomes the nearest matrix with orthogonal rows or columns (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/), of a size that makes its mean square that of Adam's updates, .2^2, so that both
    go by one learning rate (Liu et al. 2025, https://arxiv.org/abs/2502.16982, section 2.2).
    """

    def rules(params):
        return jax.tree_util.tree_map_with_path(rule, params)

    def rule(path, parameter):
        excepted = config.adam_regex and re.search(config.adam_regex, _named(path))
        return "muon" if _kernel(path, parameter) and not excepted else "adam"

    def orthogonal(path, momentum):
        matrices = momentum.reshape(_kernel(path, momentum)).swapaxes(0, 1)
        update = 0.2 * max(matrices.shape[1:]) ** 0.5 * _orthogonal(matrices)
        return update.swapaxes(0, 1).reshape(momentum.shape)

    muon = optax.chain(
        optax.trace(0.95, nesterov=True),
        optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(orthogonal, updates)),
    )
    return optax.partition({"muon": muon, "adam": optax.scale_by_adam(config.b1, config.b2, config.eps)}, rules)


def _named(path):
    """The path of a parameter, such as 'unet/conv_in/kernel'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _kernel(path, parameter):
    """(inputs, matrices, outputs) of a kernel; None of what is none."""
    *_, layer, name = ("", *_named(path).split("/"))
    if name != "kernel" or parameter.ndim < 2:
        return None
    if layer == "query_key_value":  # three, beside each other
        return parameter.shape[0], 3, parameter.size // parameter.shape[0] // 3
    return math.prod(parameter.shape[:-1]), 1, parameter.shape[-1]


def _orthogonal(x, steps=5):
    """(n, r, c) -> the same, near U V^T of each matrix U S V^T: singular values of some .7 to 1.2 (Jordan et al. 2024).

    Newton and Schulz's iteration X <- (a + b X X^T + c (X X^T)^2) X multiplies X by polynomials of the first X X^T, which here
    are multiplied among themselves: they are smaller than X where that is a convolution's, and the same.
    """
    if x.shape[1] > x.shape[2]:
        return _orthogonal(x.mT, steps).mT
    # Rounding to less makes X X^T negative where X is 0, and that grows.
    with jax.default_matmul_precision("highest"):
        x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-8)

        def polynomial_of(gram):
            return 3.4445 * jnp.eye(x.shape[1], dtype=x.dtype) - 4.7750 * gram + 2.0315 * gram @ gram

        gram = x @ x.mT
        product = polynomial = polynomial_of(gram)
        for _ in range(steps - 1):
            gram = polynomial @ gram @ polynomial
            polynomial = polynomial_of(gram)
            product = polynomial @ product
        return product @ x


def _decay_weights(rate):
    """Adds rate * parameter to the update of each kernel and embedding; biases and the scales of norms do not decay.

    Those are told by their names as well as by their single axis: a norm's may be tables with a row for each class.
    """

    def add(path, update, parameter):
        names = set(_named(path).split("/"))
        return update if parameter.ndim < 2 or names & {"bias", "scale"} else update + rate * parameter

    # Not optax.add_decayed_weights(mask=...), whose state is another than that of the checkpoints from before the mask.
    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(add, updates, params))


def learning_rate(config, schedules, warmup_steps, hold_steps=0):
    """step -> learning rate: a linear rise over `warmup_steps`, then config.lr until `hold_steps`, then the decay.

    The decay is the one called config.schedule.

    Args:
      config: a Config.
      schedules: ((first step, end), ...): this whole rise and fall takes place in each. The rate stays as it is after an end.
      warmup_steps: length of the rise; the first update already has a rate above 0.
      hold_steps: the decay begins so many steps after the first step, if the rise is over.
    """
    held = max(warmup_steps, hold_steps)

    def one(steps):
        decay = _DECAYS[config.schedule](config, max(steps - held, 1))
        if not held:
            return decay
        rise = optax.linear_schedule(config.lr / max(warmup_steps, 1), config.lr, max(warmup_steps - 1, 1))
        return optax.join_schedules([rise, decay], [held])

    return optax.join_schedules([one(end - first) for first, end in schedules], [first for first, _ in schedules[1:]])


def resumed(config, schedules, step, total_steps, warmup_steps, hold_steps=0):
    """The schedules of a run that goes on from `step` to `total_steps`, and what to tell about them.

    Args:
      config: a Config.
      schedules: those so far, as `learning_rate` has them.
      step: updates made.
      total_steps: of the run, more than `step`.
      warmup_steps: as `learning_rate` has it.
      hold_steps: likewise.

    Returns:
      (schedules, one line; '' where no rate is other than a run of `total_steps` would have had from its beginning)

    Raises:
      errors.UserError: the decay has begun, would have been another with this end, and the config does not say how to go on.
    """
    first, end = schedules[-1]
    if end == total_steps:
        return schedules, ""
    if config.schedule == "constant" or step - first <= max(warmup_steps, hold_steps):
        return (*schedules[:-1], (first, total_steps)), ""
    last = float(learning_rate(config, schedules, warmup_steps, hold_steps)(total_steps - 1))
    if config.on_new_duration == "continue":
        return schedules, f"the learning rate follows its {config.schedule} schedule to step {end}; the last is {last:.3g}"
    if config.on_new_duration == "restart":
        told = f"the learning rate begins its {config.schedule} schedule anew: from step {step} to step {total_steps}"
        return (*schedules, (step, total_steps)), told
    raise errors.UserError(
        f"the learning rate follows a {config.schedule} schedule to step {end}, and config.duration now ends at step "
        f"{total_steps}: choose --config.optimizer.on_new_duration=continue (the same schedule; the last rate is {last:.3g}) "
        f"or --config.optimizer.on_new_duration=restart (the whole schedule anew, from step {step} to step {total_steps})"
    )


def make(config, schedules, warmup_steps=0, hold_steps=0):
    """The transformation of one optimiser: clip by the global norm, the rule, the learning rate.

    Of parameters under the name FROZEN it knows nothing, and leaves them as they are.

    Args:
      config: a Config.
      schedules: as `learning_rate` has them, in updates of this optimiser.
      warmup_steps: likewise.
      hold_steps: likewise.
    """
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    rate = learning_rate(config, schedules, warmup_steps, hold_steps)
    return _of_trained(optax.chain(*clip, _RULES[config.name](config), optax.scale_by_learning_rate(rate)))


def _of_trained(inner):
    """A transformation without what is FROZEN, of which updates are 0.

    Not optax.masked, whose state is another than that of checkpoints from before there was such.
    """

    def update(updates, state, params=None):
        changed, state = inner.update(_trained(updates), state, None if params is None else _trained(params))
        return _completed(changed, updates), state

    return optax.GradientTransformation(lambda params: inner.init(_trained(params)), update)


def _trained(tree):
    """A nested dictionary without what is FROZEN."""
    return {name: _trained(part) for name, part in tree.items() if name != FROZEN} if isinstance(tree, dict) else tree


def _completed(tree, whole):
    """A nested dictionary with zeros for what it lacks of another."""
    if not isinstance(whole, dict):
        return tree
    return {
        name: _completed(tree[name], part) if name in tree else jax.tree.map(jnp.zeros_like, part)
        for name, part in whole.items()
    }
