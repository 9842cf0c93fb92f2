"""A prior over the codes of a VQ-VAE (van den Oord et al. 2017, section 3.3), here an autoregressive transformer.

An image's codes c_0, c_1, ..., row by row, have log p(c) = sum_i log p(c_i | c_0, ..., c_{i-1}), whose mean over images is
maximised. Images are what the VQ-VAE decodes of codes that are drawn one after the other. The VQ-VAE stays as its own run left
it, and a copy is in the state, so that this run needs that one only to begin.
"""

from collections.abc import Callable
import dataclasses
import math
from typing import ClassVar

import jax
from jax import numpy as jnp
import optax

from imagegen_jax import errors
from imagegen_jax import rng as rng_lib
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import vqvae as vqvae_lib
from imagegen_jax.networks import transformer


@dataclasses.dataclass(frozen=True)
class CodePrior(base.Algorithm):
    """A transformer over the codes of images of one shape.

    Attributes:
      network: predicts each code from those before it.
      vqvae: what makes codes of images, and images of codes.
      optimizer: optax transformation.
      ema_decay: step -> decay of the moving average.
      accumulate: pieces in which a batch's gradient is computed.
      classes: labels that the network is told; 0 for none.
    """

    options: ClassVar[tuple[str, ...]] = ("temperature",)
    foundation: ClassVar[str] = "vqvae"

    network: transformer.Transformer
    vqvae: vqvae_lib.VqVae
    optimizer: optax.GradientTransformation
    ema_decay: Callable
    accumulate: int = 1
    classes: int = 0

    @classmethod
    def from_config(cls, config, spec, training):
        if not config.foundation.run:
            raise errors.UserError(
                "config.foundation.workdir is missing: give the folder of a trained VQ-VAE, --config.foundation.workdir=RUN"
            )
        if config.prior.conditional and not spec.classes:
            raise errors.UserError(
                f"config.prior.conditional needs labels, and the images of {config.data.source} have none: "
                "put them in one sub-folder a class, or set --config.prior.conditional=False"
            )
        if config.network.width % config.network.heads:
            raise errors.UserError(
                f"config.network.heads is {config.network.heads}: it must divide config.network.width ({config.network.width})"
            )
        never_trained = base.Training(optax.identity(), None, None, lambda key: 0)
        vqvae = vqvae_lib.VqVae.from_config(config.foundation.run, spec, never_trained)
        classes = spec.classes if config.prior.conditional else 0
        network = dict(config.network, dtype=jnp.dtype(config.network.dtype))
        return cls(
            network=transformer.Transformer(vqvae.codes, math.prod(vqvae.code_shape), classes=classes, **network),
            vqvae=vqvae,
            optimizer=training.optimizer,
            ema_decay=training.ema_decay,
            accumulate=config.optimizer.accumulate,
            classes=classes,
        )

    def init(self, rng):
        network_rng, vqvae_rng = jax.random.split(rng)
        blank = jnp.zeros((1, self.network.length), jnp.int32)
        params = self.network.init(network_rng, blank, self.network.empty_cache(1))["params"]
        return base.first_state("transformer", params, self.optimizer, extra={"vqvae": _frozen(self.vqvae.init(vqvae_rng))})

    def adopt(self, state, founded_on):
        return state.replace(extra={"vqvae": _frozen(founded_on)})

    def train_step(self, state, batch, rng):
        def loss(params, examples, rng):
            nats = -self._log_prob(params, *examples, rngs={"dropout": rng}).mean() / self.network.length
            return nats, {}

        params = state.params["transformer"]
        examples = (self._codes(state, batch), batch["label"])
        (nats, _), grads = base.value_and_grad(loss, params, examples, rng, self.accumulate)
        metrics = {
            "loss": nats,
            "bits_per_code": nats / math.log(2),
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),
        }
        state = base.update(state, "transformer", grads, self.optimizer, self.ema_decay)
        return state.replace(step=state.step + 1), metrics

    def eval_step(self, state, batch, rng):
        """With 'log_prob', log p(c) of each image's codes in nats; 'loss' is its negative for each code, which is trained."""
        log_prob = self._log_prob(state.params["transformer"], self._codes(state, batch), batch["label"])
        nats = -log_prob / self.network.length
        return {"loss": nats, "bits_per_code": nats / math.log(2), "log_prob": log_prob}

    def sample(self, state, rng, request):
        codes = self.sample_codes(state, rng, request)
        return self.vqvae.decode_indices(state.extra["vqvae"], codes.reshape(-1, *self.vqvae.code_shape))

    def sample_codes(self, state, rng, request):
        """(n, length) int32 drawn from p(c), whose logits are divided by the temperature."""
        keys = rng_lib.per_index(rng, request.index)
        (temperature,) = request.temperature or (1.0,)
        variables = {"params": state.params["transformer"]}

        def draw(carry, position):
            before, cache = carry
            logits, cache = self.network.apply(variables, before[:, None], cache, position)
            here = jax.vmap(jax.random.fold_in, (0, None))(keys, position)
            code = jax.vmap(jax.random.categorical)(here, logits[:, 0] / temperature).astype(jnp.int32)
            return (code, cache), code

        n = len(request.index)
        first = self.network.start(n, request.label), self.network.empty_cache(n)
        _, codes = jax.lax.scan(draw, first, jnp.arange(self.network.length))
        return codes.T

    def check_request(self, request):
        super().check_request(request)
        given = request.temperature
        if given is not None and (len(given) != 1 or given[0] <= 0):
            raise errors.UserError(f"--temperature={','.join(map(str, given))}: give one number above 0")

    def _codes(self, state, batch):
        """(n, length) int32, row by row."""
        return self.vqvae.indices(state.extra["vqvae"], batch["image"]).reshape(len(batch["image"]), -1)

    def _log_prob(self, params, codes, label, rngs=None):
        """(n,) float32 log p(codes) in nats, of (n, length) int32 codes. Trains (with dropout) where rngs are given."""
        inputs, cache = self.network.inputs(codes, label), self.network.empty_cache(len(codes))
        logits, _ = self.network.apply({"params": params}, inputs, cache, train=rngs is not None, rngs=rngs)
        return -optax.softmax_cross_entropy_with_integer_labels(logits, codes).sum(-1)


def _frozen(state):
    """Of a VQ-VAE's state, what it takes to encode and decode."""
    return state.replace(opt_state={}, ema_params={}, extra={"codebook": state.extra["codebook"]})
