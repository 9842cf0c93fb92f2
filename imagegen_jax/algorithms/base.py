"""The contract that every family of image generator fulfils, and the pieces that most of them need."""

import abc
from collections.abc import Callable
import dataclasses
import typing
from typing import Any
from typing import ClassVar

import flax.struct
import jax
from jax import numpy as jnp
import optax

from imagegen_jax import errors
from imagegen_jax.networks import blocks

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
      extra: whatever else the method keeps (batch statistics, image pool, codebook averages). What is under 'ema' there
        belongs to the moving averages, and stands in for what has the same name beside it.
    """

    step: jax.Array
    params: dict[str, Any]
    opt_state: dict[str, Any]
    ema_params: dict[str, Any]
    extra: dict[str, Any] = flax.struct.field(default_factory=dict)

    def with_ema(self):
        """The same state with the moving averages in place of the parameters that have one."""
        return self.replace(params=self.params | self.ema_params, extra=self.extra | self.extra.get("ema", {}))

    def without_averages(self, names):
        """The same state as it was before those entries of `extra` had a moving average."""
        rest = {name: value for name, value in self.extra.get("ema", {}).items() if name not in names}
        extra = {name: value for name, value in self.extra.items() if name != "ema"}
        return self.replace(extra=extra | ({"ema": rest} if rest else {}))


def _option(meaning):
    """A field of SampleRequest that is fixed when `sample` is compiled; `meaning` is what --help says of it."""
    return flax.struct.field(pytree_node=False, default=None, metadata={"help": meaning})


@flax.struct.dataclass
class SampleRequest:
    """What `sample` should draw. `None` leaves a choice to the recipe. Options are also flags and keys of a sweep.

    Attributes:
      index: (n,) int32. Image i of a stream depends on the key, index[i] and what is requested of it alone.
      label: (n,) int32, the class of each (conditional families, which must be told).
    """

    index: jax.Array
    label: jax.Array | None = None
    sampler: str | None = _option("Diffusion: ddpm or ddim, with its own constants in place of the recipe's.")
    steps: int | None = _option("Diffusion: network evaluations an image, instead of what the recipe says.")
    eta: float | None = _option("Diffusion by ddim: noise of a step, 0 (none, the default of --sampler=ddim) to 1 (as ddpm).")
    variance: str | None = _option("Diffusion by ddpm: fixed_small (the default of --sampler=ddpm) or fixed_large.")
    clip: bool | None = _option("Diffusion: hold the image that each step predicts within the range of pixels.")
    temperature: tuple[float, ...] | None = _option(
        "VAE: factor on the standard deviation of its prior, or one for each level of latents, the top's first. "
        "Prior of codes: divisor of the logits."
    )
    truncation: float | None = _option("GAN: draw the noise within so many standard deviations: less variety, fewer failures.")


def request_options():
    """The options in a SampleRequest: {name: (type, what --help says of it)}. A tuple is one of floats."""
    hints = typing.get_type_hints(SampleRequest)
    options = {}
    for field in dataclasses.fields(SampleRequest):
        if "help" in field.metadata:
            kind = typing.get_args(hints[field.name])[0]  # of `kind | None`
            options[field.name] = (typing.get_origin(kind) or kind, field.metadata["help"])
    return options


@dataclasses.dataclass(frozen=True)
class Training:
    """What the sections of a config that all families share come to.

    Attributes:
      optimizer: the optax transformation of the `optimizer` section; None where the config has none.
      repeated: updates a step -> the same for a network that has more than one, so that its schedules take as many steps.
      ema_decay: step -> decay of the moving average; None likewise.
      steps: 'vae.warmup' -> the duration under that key, in steps.
    """

    optimizer: optax.GradientTransformation | None
    repeated: Callable[[int], optax.GradientTransformation] | None
    ema_decay: Callable | None
    steps: Callable[[str], int]


class Algorithm(abc.ABC):
    """A family, as pure functions. Subclasses are frozen dataclasses of hyper-parameters and Linen modules.

    Attributes:
      domains: of the batches: ('',), or ('a', 'b') of a method that translates between two sets of images.
      draws: whether `sample` makes images from nothing.
      classes: of which `sample` wants to be told one for each image; 0 where it takes no labels.
      options: the fields of SampleRequest, beside index and label, that `sample` heeds.
      has_codes: whether images have codes (`encode`, `decode`).
      prior_dimensions: of codes that are standard normal (`decode`); 0 where there are none.
      has_bound: whether likelihoods have a bound (`log_weights`).
      foundation: the family whose trained run this one stands on (`adopt`); '' for none.
      columns: what `panel` shows of an image, from left to right; empty where a family has no panel.
      advice: what to try where its samples collapse to few; '' for nothing in particular.
    """

    domains: ClassVar[tuple[str, ...]] = ("",)
    draws: ClassVar[bool] = True
    classes: ClassVar[int] = 0
    options: ClassVar[tuple[str, ...]] = ()
    has_codes: ClassVar[bool] = False
    prior_dimensions: ClassVar[int] = 0
    has_bound: ClassVar[bool] = False
    foundation: ClassVar[str] = ""
    columns: ClassVar[tuple[str, ...]] = ()
    advice: ClassVar[str] = ""

    @classmethod
    @abc.abstractmethod
    def from_config(cls, config, spec, training: Training):
        """Builds the algorithm of a resolved config.

        Args:
          config: see imagegen_jax/config.py.
          spec: the images.Spec of the images, or {'a': Spec, 'b': Spec}.
          training: the optimiser, the moving average and the durations.

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

    @abc.abstractmethod
    def sample(self, state: TrainState, rng: jax.Array, request: SampleRequest) -> jax.Array:
        """(n, height, width, channels) float32 in [-1, 1], drawn with state.params."""

    def panel(self, state: TrainState, batch: Batch, rng: jax.Array) -> jax.Array:
        """(n, len(columns), height, width, channels) float32 in [-1, 1]: what becomes of each image of a batch."""
        raise NotImplementedError

    def encode(self, state: TrainState, batch: Batch, rng: jax.Array | None = None) -> jax.Array:
        """(n, d) float32 codes of a batch's images: the most likely ones, or random ones of their posterior where rng is given.

        A random code depends on rng and the image's index. All latent variables of a family make one row, top level first.
        """
        raise NotImplementedError

    def decode(self, state: TrainState, codes: jax.Array, label: jax.Array | None = None) -> jax.Array:
        """(n, height, width, channels) float32 in [-1, 1], the images of (n, d) codes; with (n,) labels where classes > 0."""
        raise NotImplementedError

    def log_weights(self, state: TrainState, batch: Batch, rng: jax.Array, sample: jax.Array) -> jax.Array:
        """(n,) float32 log p(x, z) - log q(z | x) in nats, with z the posterior's sample of this number.

        Their exponentials average p(x) over samples; x is what the likelihood observes of the image, the same for all samples.
        They depend on rng, the images' indices and `sample` alone.
        """
        raise NotImplementedError

    def adopt(self, state: TrainState, founded_on: TrainState) -> TrainState:
        """The first state, with what it takes from the trained state of the run that this one stands on."""
        raise NotImplementedError

    def check_request(self, request: SampleRequest) -> None:
        """Raises errors.UserError where this algorithm cannot draw what is requested."""
        for name, (kind, _) in request_options().items():
            value = getattr(request, name)
            if value is not None and name not in self.options:
                shown = ",".join(map(str, value)) if kind is tuple else value
                raise errors.UserError(f"--{name}={shown}: this family of generators has no such option; leave it out")

    def about_request(self, request: SampleRequest) -> dict[str, Any]:
        """What a score's protocol says of a request, as JSON: all constants that its images are drawn with, and no others."""
        asked = {name: getattr(request, name) for name in request_options()}
        return {name: value for name, value in asked.items() if value is not None}


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


def first_state(name: str, params, optimizer: optax.GradientTransformation, averaged=None, extra=None) -> TrainState:
    """The state before the first step of a method with one network, called `name`, and one optimiser of all its parameters.

    Args:
      name: of the network.
      params: its parameters.
      optimizer: of them.
      averaged: {name: pytree}, what is kept beside the parameters and averaged with them (`update_averaged`).
      extra: what else is kept.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params={name: params},
        opt_state={name: optimizer.init(params)},
        ema_params={name: params},
        extra=(extra or {}) | with_averages(averaged or {}),
    )


def with_averages(averaged):
    """The entries of TrainState.extra for {name: pytree} that are averaged with the parameters. Empty trees have no average."""
    averages = {name: value for name, value in averaged.items() if jax.tree.leaves(value)}
    return averaged | ({"ema": averages} if averages else {})


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
