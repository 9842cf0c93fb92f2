"""The contract that every family of image generator fulfils, and the pieces that most of them need."""

import abc
from collections.abc import Callable
import dataclasses
from typing import Any
from typing import ClassVar

import flax.struct
import jax
from jax import numpy as jnp
import optax

from imagegen_jax import conditions as conditions_lib
from imagegen_jax import errors
from imagegen_jax import placement
from imagegen_jax.networks import blocks

# 'image' (n, h, w, c) uint8; 'condition', a dict of arrays with n rows (conditions.py), such as 'label' (n,) int32; 'index'
# (n,) int32, the record's number; of two domains {'a': ..., 'b': ...}
Batch = dict[str, Any]
Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """All that a method must remember between two steps; a checkpoint is this and the data position.

    Attributes:
      step: () int32, updates made so far.
      params: parameters by network name, float32.
      opt_state: optax states by network name.
      ema_params: moving averages of those params that are sampled from, by network name.
      extra: whatever else the method keeps, by name: '<network>_stats', the batch statistics of a network; 'first_stage', the
        state of the trained run that the method stands on (capabilities.HasFirstStage); its own, such as 'codebook' or 'pool'.
        What is under 'ema' there belongs to the moving averages, and stands in for what has the same name beside it.
        'power_ema' is the trainer's (training/power_ema.py). A new name for what checkpoints hold has a row in
        checkpoint._RENAMED.
    """

    step: jax.Array
    params: dict[str, Any]
    opt_state: dict[str, Any]
    ema_params: dict[str, Any]
    extra: dict[str, Any] = flax.struct.field(default_factory=dict)

    def with_ema(self):
        """The same state with the moving averages in place of the parameters that have one."""
        return self.replace(params=self.params | self.ema_params, extra=self.extra | self.extra.get("ema", {}))

    def frozen(self, like=None):
        """Of a trained state that another method stands on, what it takes to run its networks.

        Those that are only trained with, such as a discriminator, are left out by `like`, the state before training of the
        method as a first stage: of names that it has not, nothing is kept.
        """
        like = like or self
        params = {name: value for name, value in self.params.items() if name in like.params}
        extra = {name: value for name, value in self.extra.items() if name != "ema" and name in like.extra}
        return self.replace(params=params, opt_state={}, ema_params={}, extra=extra)

    def without_averages(self, names):
        """The same state as it was before those entries of `extra` had a moving average."""
        rest = {name: value for name, value in self.extra.get("ema", {}).items() if name not in names}
        extra = {name: value for name, value in self.extra.items() if name != "ema"}
        return self.replace(extra=extra | ({"ema": rest} if rest else {}))


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of a method that draws, or does not draw, without any."""


@dataclasses.dataclass(frozen=True)
class Training:
    """How a method is optimised: what the sections of a config that all families share come to.

    Attributes:
      optimizer: the optax transformation of the section `optimizer`; None where the method has none.
      repeated: updates a step -> the same for a network that has more than one, so that its schedules take as many steps.
      ema_decay: step -> decay of the moving average; None where the method has none.
      accumulate: pieces in which a batch's gradient is computed.
      batch_size: images a step.
      steps: a keys.Duration -> steps.
      first_stage: the algorithm of the trained run that the method stands on (capabilities.HasFirstStage), or None.
    """

    optimizer: optax.GradientTransformation | None = None
    repeated: Callable[[int], optax.GradientTransformation] | None = None
    ema_decay: Callable | None = None
    accumulate: int = 1
    batch_size: int = 1
    steps: Callable[[str], int] = int
    first_stage: Any = None


class Algorithm(abc.ABC):
    """A family, as pure functions. Subclasses are frozen dataclasses of hyper-parameters and Linen modules.

    This is all that training needs. What else a method can do it has as methods of the protocols in capabilities.py.

    Attributes:
      Config: its own sections of a config, a frozen dataclass (imagegen_jax/keys.py).
      Request: its options of drawing, likewise.
      defaults: {key: value} where its default of a key that all families share is another, such as {'optimizer.b1': 0.5}.
      domains: names of the sets of images that a batch has one of each of: {'a': ..., 'b': ...}; () for batches of one set.
      text: the conditions.Text of what it is told of an image; None where it is told no texts.
      paired: whether image i of one of two sets belongs to image i of the other.
      optimized: whether it takes gradients: it has the sections `optimizer` and `ema`.
      hint: what to try where its samples collapse to few; '' for nothing in particular.
    """

    Config: ClassVar[type]
    Request: ClassVar[type] = NoOptions
    defaults: ClassVar[dict[str, Any]] = {}
    domains: ClassVar[tuple[str, ...]] = ()
    text = None
    paired: ClassVar[bool] = False
    optimized: ClassVar[bool] = True
    hint: ClassVar[str] = ""

    @classmethod
    @abc.abstractmethod
    def from_config(cls, config, spec, training: Training):
        """Builds the algorithm.

        Args:
          config: its Config.
          spec: the images.Spec of the images, or {'a': Spec, 'b': Spec} by domain.
          training: how it is optimised. One that serves another as its first stage is never optimised: Training().

        Raises:
          errors.UserError: the config asks for what does not exist or does not fit the images.
        """

    @abc.abstractmethod
    def init(self, rng: jax.Array) -> TrainState:
        """The state before the first step. Called under jit, with out_shardings."""

    @abc.abstractmethod
    def train_step(self, state: TrainState, batch: Batch, rng: jax.Array) -> tuple[TrainState, Metrics]:
        """One step with all its optimiser updates; `rng` is the step's own. Metrics are scalars, one of them 'loss'."""

    @abc.abstractmethod
    def eval_step(self, state: TrainState, batch: Batch, rng: jax.Array) -> Metrics:
        """Metrics (n,), one value for each image, a function of the image, its index and rng alone; one of them 'loss'."""

    def check_request(self, request) -> None:  # noqa: B027  (most have nothing to object)
        """See capabilities.Draws."""

    def about_request(self, request) -> dict[str, Any]:
        """See capabilities.Draws."""
        return {name: value for name, value in vars(request).items() if value is not None}


class IsTold:
    """What an algorithm with the attribute `conditions`, {name: conditions.Condition}, is told of images."""

    @property
    def classes(self):
        """See capabilities.Draws."""
        return conditions_lib.classes(self.conditions)

    @property
    def text(self):
        """See Algorithm."""
        return self.conditions.get("text")


def told_classes(conditional: bool, spec, key: str) -> int:
    """How many labels a method is told: all of the images', or 0 unless it is conditional. Raises errors.UserError."""
    if conditional and not spec.classes:
        raise errors.UserError(
            f"config.{key} needs labels, and the images have none: put them in one sub-folder a class, "
            f"or set --config.{key}=False"
        )
    return spec.classes if conditional else 0


def told_conditions(aim, spec, section: str):
    """{name: conditions.Condition} of what a method is told, by the keys `conditional` and `text` of a section.

    Args:
      aim: the section.
      spec: the images.Spec.
      section: its name.

    Raises:
      errors.UserError: the images have no labels, or come without captions.
    """
    if aim.text and not spec.caption_length:
        raise errors.UserError(f"config.{section}.text needs captions: set --config.data.caption_length=64")
    labels = told_classes(aim.conditional, spec, f"{section}.conditional")
    return {name: spec.conditions[name] for name, wanted in (("label", labels), ("text", aim.text)) if wanted}


def check_same_size(shapes) -> None:
    """Raises errors.UserError where images of two domains, {'a': (h, w, c), 'b': ...}, have other sizes."""
    if shapes["a"][:2] != shapes["b"][:2]:
        raise errors.UserError(
            f"the domains have images of {shapes['a'][:2]} and {shapes['b'][:2]} pixels: set --config.data.image_size"
        )


def value_and_grad(loss: Callable, params, examples, rng: jax.Array, accumulate: int):
    """The value and gradient of a mean over examples, in `accumulate` equal pieces one after the other.

    Memory is that of one piece; the result is that of the whole up to rounding and to what `loss` draws.

    Args:
      loss: (params, examples, rng) -> (scalar mean over the examples, metrics that are means likewise).
      params: what to differentiate by.
      examples: pytree of arrays with a leading axis that `accumulate` divides.
      rng: key of what `loss` draws itself (dropout); each piece gets one of its own.
      accumulate: number of pieces.

    Returns:
      ((loss, metrics), gradients)
    """
    grad = jax.value_and_grad(loss, has_aux=True)
    if accumulate == 1:
        return grad(params, examples, rng)
    # Piece k takes rows k, k + accumulate, ...: each device's share of the batch stays on it.
    pieces = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), examples)
    rngs = jax.random.split(rng, accumulate)

    def add(total, piece):
        return jax.tree.map(jnp.add, total, grad(params, *piece)), None

    shapes = jax.eval_shape(grad, params, *jax.tree.map(lambda x: x[0], (pieces, rngs)))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (pieces, rngs))
    return jax.tree.map(lambda x: x / accumulate, total)


def first_state(name: str, params, training: Training, averaged=None, extra=None) -> TrainState:
    """The state before the first step of a method with one network, called `name`, and one optimiser of all its parameters.

    Args:
      name: of the network.
      params: its parameters.
      training: how they are optimised.
      averaged: {name: pytree}, what is kept beside the parameters and averaged with them (`update_averaged`).
      extra: what else is kept.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params={name: params},
        opt_state={name: training.optimizer.init(params)} if training.optimizer else {},
        ema_params={name: params},
        extra=(extra or {}) | with_averages(averaged or {}),
    )


def train_step(training: Training, state: TrainState, name: str, loss: Callable, examples, rng: jax.Array):
    """One step of a method with one network, called `name`.

    Args:
      training: how it is optimised.
      state: as `first_state` begins it.
      name: of the network.
      loss: (params, examples, rng) -> (mean over the examples, (metrics, batch statistics by their names in the state)), all of
        which are means likewise.
      examples: pytree of arrays with a leading axis.
      rng: key of what `loss` draws.

    Returns:
      (state, metrics)
    """
    params = state.params[name]
    (value, (metrics, stats)), grads = value_and_grad(loss, params, examples, rng, training.accumulate)
    metrics = {"loss": value, **metrics, "grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
    state = update(state, name, grads, training.optimizer, training.ema_decay)
    state = update_averaged(state, stats, training.ema_decay)
    return state.replace(step=state.step + 1), metrics


def with_averages(averaged):
    """The entries of TrainState.extra for {name: pytree} that are averaged with the parameters. Empty trees have no average."""
    averages = {name: value for name, value in averaged.items() if jax.tree.leaves(value)}
    return averaged | ({"ema": averages} if averages else {})


def update(state: TrainState, name: str, grads, optimizer: optax.GradientTransformation, ema_decay=None) -> TrainState:
    """One optimiser update of the network called `name`, and of its moving average where `ema_decay` is given.

    `ema_decay` maps the step to the average's decay.
    """
    updates, opt_state = optimizer.update(placement.whole(grads), state.opt_state[name], state.params[name])
    params = optax.apply_updates(state.params[name], updates)
    state = state.replace(params=state.params | {name: params}, opt_state=state.opt_state | {name: opt_state})
    if ema_decay is None:
        return state
    ema = optax.incremental_update(params, state.ema_params[name], 1 - ema_decay(state.step))
    return state.replace(ema_params=state.ema_params | {name: ema})


def update_averaged(state: TrainState, fresh: dict[str, Any], ema_decay: Callable) -> TrainState:
    """The state with new batch statistics under names that `with_averages` made, and with those that go with the averages.

    The latter are averages over as many steps as the parameters' averages are: to first order, what an average network makes is
    the average of what the networks made. They are not averages of the former, which lag behind the networks themselves, but of
    what the batches had: with s <- m s + (1 - m) b at each step, b = (s' - m s) / (1 - m), where m is blocks.MOMENTUM.
    """
    own, averages = blocks.MOMENTUM, state.extra.get("ema", {})
    decay = jnp.maximum(own, ema_decay(state.step))

    def moved(average, before, after):
        return decay * average + (1 - decay) * (after - own * before) / (1 - own)

    ours = {name: jax.tree.map(moved, averages[name], state.extra[name], fresh[name]) for name in fresh if name in averages}
    return state.replace(extra=state.extra | fresh | ({"ema": averages | ours} if ours else {}))
