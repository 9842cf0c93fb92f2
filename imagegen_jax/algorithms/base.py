"""The contract that every family of image generator fulfils, and the pieces that most of them need."""

import abc
from collections.abc import Callable
from typing import Any
from typing import ClassVar

import flax.struct
import jax
from jax import numpy as jnp
import optax

# 'image' (n, h, w, c) uint8, 'label' (n,) int32, 'index' (n,) int32, the record's number; of two domains {'a': ..., 'b': ...}
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
      extra: whatever else the method keeps (batch statistics, image pool, codebook averages).
    """

    step: jax.Array
    params: dict[str, Any]
    opt_state: dict[str, Any]
    ema_params: dict[str, Any]
    extra: dict[str, Any] = flax.struct.field(default_factory=dict)

    def with_ema(self):
        """The same state with the moving averages in place of the parameters that have one."""
        return self.replace(params=self.params | self.ema_params)


@flax.struct.dataclass
class SampleRequest:
    """What `sample` should draw. `None` leaves a choice to the recipe.

    Attributes:
      index: (n,) int32. Image i of a stream depends on the key and index[i] alone.
      sampler: name of a sampler (diffusion).
      steps: network evaluations (diffusion).
    """

    index: jax.Array
    sampler: str | None = flax.struct.field(pytree_node=False, default=None)
    steps: int | None = flax.struct.field(pytree_node=False, default=None)


class Algorithm(abc.ABC):
    """A family, as pure functions. Subclasses are frozen dataclasses of hyper-parameters and Linen modules.

    Attributes:
      domains: of the batches: ('',), or ('a', 'b') of a method that translates between two sets of images.
      draws: whether `sample` makes images from nothing.
      columns: what `panel` shows of an image, from left to right; empty where a family has no panel.
    """

    domains: ClassVar[tuple[str, ...]] = ("",)
    draws: ClassVar[bool] = True
    columns: ClassVar[tuple[str, ...]] = ()

    @classmethod
    @abc.abstractmethod
    def from_config(cls, config, spec, optimizer, ema_decay):
        """Builds the algorithm of a resolved config.

        Args:
          config: see imagegen_jax/config.py.
          spec: the images.Spec of the images, or {'a': Spec, 'b': Spec}.
          optimizer: optax.GradientTransformation, as the config's `optimizer` section describes it; None where it has none.
          ema_decay: step -> decay of the moving average; None likewise.
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

    @abc.abstractmethod
    def sample(self, state: TrainState, rng: jax.Array, request: SampleRequest) -> jax.Array:
        """(n, height, width, channels) float32 in [-1, 1], drawn with state.params."""

    def panel(self, state: TrainState, batch: Batch, rng: jax.Array) -> jax.Array:
        """(n, len(columns), height, width, channels) float32 in [-1, 1]: what becomes of each image of a batch."""
        raise NotImplementedError

    @abc.abstractmethod
    def check_request(self, request: SampleRequest) -> None:
        """Raises errors.UserError where this algorithm cannot draw what is requested."""


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


def update(state: TrainState, name: str, grads, optimizer: optax.GradientTransformation, ema_decay=None) -> TrainState:
    """One optimiser update of the network called `name`, and of its moving average where `ema_decay` is given.

    `ema_decay` maps the step to the average's decay.
    """
    updates, opt_state = optimizer.update(grads, state.opt_state[name], state.params[name])
    params = optax.apply_updates(state.params[name], updates)
    state = state.replace(params=state.params | {name: params}, opt_state=state.opt_state | {name: opt_state})
    if ema_decay is None:
        return state
    ema = optax.incremental_update(params, state.ema_params[name], 1 - ema_decay(state.step))
    return state.replace(ema_params=state.ema_params | {name: ema})
