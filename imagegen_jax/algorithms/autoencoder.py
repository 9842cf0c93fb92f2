"""The autoencoder (Hinton & Salakhutdinov 2006): a deterministic code, and the squared error of what is decoded from it.

It has no distribution of codes. Images are drawn from one that is fitted to the codes of training images afterwards
(generation/latents.py).
"""

from collections.abc import Callable
import dataclasses
from typing import ClassVar

from flax import linen as nn
from jax import numpy as jnp
import optax

from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.algorithms import base
from imagegen_jax.networks import vae_nets


@dataclasses.dataclass(frozen=True)
class Autoencoder(base.Algorithm):
    """An autoencoder of images of one shape.

    Attributes:
      network: a vae_nets.Autoencoder.
      image_shape: (height, width, channels).
      optimizer: optax transformation.
      ema_decay: step -> decay of the moving average.
      accumulate: pieces in which a batch's gradient is computed.
    """

    draws: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ("image", "reconstruction")
    has_codes: ClassVar[bool] = True

    network: nn.Module
    image_shape: tuple[int, int, int]
    optimizer: optax.GradientTransformation
    ema_decay: Callable
    accumulate: int = 1

    @classmethod
    def from_config(cls, config, spec, training):
        encoder, decoder = coder(config.network, spec.shape, spec.shape[-1])
        return cls(
            network=vae_nets.Autoencoder(encoder, decoder, config.network.latent),
            image_shape=spec.shape,
            optimizer=training.optimizer,
            ema_decay=training.ema_decay,
            accumulate=config.optimizer.accumulate,
        )

    def init(self, rng):
        variables = self.network.init(rng, jnp.zeros((1, *self.image_shape)))
        averaged = {"batch_stats": variables.get("batch_stats", {})}
        return base.first_state("autoencoder", variables["params"], self.optimizer, averaged)

    def train_step(self, state, batch, rng):
        stats = state.extra["batch_stats"]

        def loss(params, x, rng):
            variables = {"params": params, "batch_stats": stats}
            made, updated = self.network.apply(variables, x, train=True, mutable=["batch_stats"])
            return _error(made, x).mean(), updated.get("batch_stats", {})

        params = state.params["autoencoder"]
        x = images.to_float(batch["image"])
        (value, stats), grads = base.value_and_grad(loss, params, x, rng, self.accumulate)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
        state = base.update(state, "autoencoder", grads, self.optimizer, self.ema_decay)
        state = base.update_averaged(state, {"batch_stats": stats}, self.ema_decay)
        return state.replace(step=state.step + 1), metrics

    def eval_step(self, state, batch, rng):
        x = images.to_float(batch["image"])
        return {"loss": _error(self._apply(state, x), x)}

    def sample(self, state, rng, request):
        raise NotImplementedError("an autoencoder has no distribution of codes; see generation/latents.py")

    def encode(self, state, batch, rng=None):
        return self._apply(state, images.to_float(batch["image"]), method="encode")

    def decode(self, state, codes, label=None):
        return jnp.clip(self._apply(state, codes, method="decode").astype(jnp.float32), -1.0, 1.0)

    def panel(self, state, batch, rng):
        return jnp.stack([images.to_float(batch["image"]), self.decode(state, self.encode(state, batch))], 1)

    def check_request(self, request):
        raise errors.UserError("an autoencoder draws no images by itself: choose --latents=gmm, tree or aggregate")

    def _apply(self, state, x, **kwargs):
        variables = {"params": state.params["autoencoder"], "batch_stats": state.extra["batch_stats"]}
        return self.network.apply(variables, x, **kwargs)


def coder(network, image_shape, outputs):
    """The encoder and the decoder of a config's `network` section, for images of this (h, w, c)."""
    if network.name == "pythae" and image_shape[:2] != (28, 28):
        raise errors.UserError(
            f"config.network.name is 'pythae', which takes 28x28 pixels, and the images are {image_shape[0]}x{image_shape[1]}: "
            "set --config.data.image_size=28, or choose conv"
        )
    shared = {key: network[key] for key in ("name", "blocks", "groups")}
    widths, dtype = tuple(network.widths), jnp.dtype(network.dtype)
    return vae_nets.encoder_and_decoder(image_shape=image_shape, outputs=outputs, widths=widths, dtype=dtype, **shared)


def _error(made, x):
    """(n,) squared error, averaged over pixels."""
    return jnp.square(made.astype(jnp.float32) - x).mean((1, 2, 3))
