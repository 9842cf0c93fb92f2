"""A prior over the codes of a VQ-VAE (van den Oord et al. 2017, section 3.3), here an autoregressive transformer.

An image's codes c_0, c_1, ..., row by row, have log p(c) = sum_i log p(c_i | c_0, ..., c_{i-1}), whose mean over images is
maximised. Images are what the VQ-VAE decodes of codes that are drawn one after the other. The VQ-VAE stays as its own run left
it, and a copy is in the state, so that this run needs that one only to begin.
"""

import dataclasses
import math
from typing import Annotated
from typing import Any
from typing import ClassVar

import jax
from jax import numpy as jnp
import optax

from imagegen_jax import keys
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import capabilities
from imagegen_jax.networks import blocks
from imagegen_jax.networks import transformer


@dataclasses.dataclass(frozen=True)
class Prior:
    """The section `prior`."""

    conditional: bool = False  # on labels


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of a prior over codes."""

    network: transformer.Config = transformer.Config()
    prior: Prior = Prior()


@dataclasses.dataclass(frozen=True)
class Request:
    """The options of drawing."""

    temperature: Annotated[float | None, "Prior of codes: divisor of the logits.", keys.Above(0)] = None


@dataclasses.dataclass(frozen=True)
class CodePrior(base.Algorithm):
    """A transformer over the codes of images of one shape.

    Attributes:
      network: predicts each code from those before it.
      first_stage: what makes codes of images, and images of codes.
      training: how it is optimised.
      classes: labels that the network is told; 0 for none.
    """

    Config: ClassVar[type] = Config
    Request: ClassVar[type] = Request
    first_stage_capability: ClassVar[type] = capabilities.Tokenizes

    network: transformer.Transformer
    first_stage: Any
    training: base.Training
    classes: int = 0

    @classmethod
    def from_config(cls, config, spec, training):
        tokenizer = training.first_stage
        classes = base.told_classes(config.prior.conditional, spec, "prior.conditional")
        network = blocks.from_config(
            transformer.Transformer,
            config.network,
            codes=tokenizer.codes,
            length=math.prod(tokenizer.code_shape),
            classes=classes,
        )
        return cls(network, tokenizer, training, classes)

    def init(self, rng):
        network_rng, first_rng = jax.random.split(rng)
        blank = jnp.zeros((1, self.network.length), jnp.int32)
        params = self.network.init(network_rng, blank, self.network.empty_cache(1))["params"]
        return base.first_state(
            "transformer", params, self.training, extra={"first_stage": self.first_stage.init(first_rng).frozen()}
        )

    def with_first_stage(self, state, trained):
        """See capabilities.HasFirstStage."""
        return state.replace(extra={"first_stage": trained.frozen()})

    def train_step(self, state, batch, rng):
        def loss(params, examples, rng):
            nats = -self._log_prob(params, *examples, rngs={"dropout": rng}).mean() / self.network.length
            return nats, ({}, {})

        examples = (self._codes(state, batch), batch["condition"])
        state, metrics = base.train_step(self.training, state, "transformer", loss, examples, rng)
        return state, metrics | {"bits_per_code": metrics["loss"] / math.log(2)}

    def eval_step(self, state, batch, rng):
        """With 'log_prob', log p(c) of each image's codes in nats; 'loss' is its negative for each code, which is trained."""
        log_prob = self._log_prob(state.params["transformer"], self._codes(state, batch), batch["condition"])
        nats = -log_prob / self.network.length
        return {"loss": nats, "bits_per_code": nats / math.log(2), "log_prob": log_prob}

    def sample(self, state, keys, condition, request):
        codes = self.sample_codes(state, keys, condition, request)
        return self.first_stage.decode_indices(state.extra["first_stage"], codes.reshape(-1, *self.first_stage.code_shape))

    def sample_codes(self, state, keys, condition, request):
        """(n, length) int32 drawn from p(c), whose logits are divided by the temperature."""
        temperature = request.temperature or 1.0
        variables = {"params": state.params["transformer"]}

        def draw(carry, position):
            before, cache = carry
            logits, cache = self.network.apply(variables, before[:, None], cache, position)
            here = jax.vmap(jax.random.fold_in, (0, None))(keys, position)
            code = jax.vmap(jax.random.categorical)(here, logits[:, 0] / temperature).astype(jnp.int32)
            return (code, cache), code

        n = len(keys)
        first = self.network.start(n, condition), self.network.empty_cache(n)
        _, codes = jax.lax.scan(draw, first, jnp.arange(self.network.length))
        return codes.T

    def _codes(self, state, batch):
        """(n, length) int32, row by row."""
        return self.first_stage.indices(state.extra["first_stage"], batch["image"]).reshape(len(batch["image"]), -1)

    def _log_prob(self, params, codes, condition, rngs=None):
        """(n,) float32 log p(codes) in nats, of (n, length) int32 codes. Trains (with dropout) where rngs are given."""
        inputs, cache = self.network.inputs(codes, condition), self.network.empty_cache(len(codes))
        logits, _ = self.network.apply({"params": params}, inputs, cache, train=rngs is not None, rngs=rngs)
        return -optax.softmax_cross_entropy_with_integer_labels(logits, codes).sum(-1)
