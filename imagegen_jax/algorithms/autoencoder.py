"""The autoencoder (Hinton & Salakhutdinov 2006): deterministic latents, and the squared error of what is decoded from them.

It has no distribution of latents. Images are drawn from one that is fitted to the latents of training images afterwards
(generation/latents.py).
"""

import dataclasses
from typing import ClassVar

from flax import linen as nn
from jax import numpy as jnp

from imagegen_jax import images
from imagegen_jax.algorithms import base
from imagegen_jax.networks import vae_nets


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of an autoencoder."""

    network: vae_nets.Config = vae_nets.Config()

    @property
    def mean_over_images(self):
        """Whether the objective is the mean of one for each image, so that pieces of a batch make the same."""
        return not self.network.has_batch_norm


@dataclasses.dataclass(frozen=True)
class Autoencoder(base.Algorithm):
    """An autoencoder of images of one shape.

    Attributes:
      network: a vae_nets.Autoencoder.
      image_shape: (height, width, channels).
      training: how it is optimised.
    """

    Config: ClassVar[type] = Config
    columns: ClassVar[tuple[str, ...]] = ("image", "reconstruction")
    classes: ClassVar[int] = 0
    prior_is_normal: ClassVar[bool] = False

    network: nn.Module
    image_shape: tuple[int, int, int]
    training: base.Training

    @classmethod
    def from_config(cls, config, spec, training):
        encoder, decoder = vae_nets.encoder_and_decoder(config.network, spec.shape, spec.shape[-1])
        return cls(vae_nets.Autoencoder(encoder, decoder, config.network.latent), spec.shape, training)

    @property
    def latent_shape(self):
        """(d,)."""
        return (self.network.latent,)

    def init(self, rng):
        variables = self.network.init(rng, jnp.zeros((1, *self.image_shape)))
        averaged = {"autoencoder_stats": variables.get("batch_stats", {})}
        return base.first_state("autoencoder", variables["params"], self.training, averaged)

    def train_step(self, state, batch, rng):
        stats = state.extra["autoencoder_stats"]

        def loss(params, x, rng):
            variables = {"params": params, "batch_stats": stats}
            made, updated = self.network.apply(variables, x, train=True, mutable=["batch_stats"])
            return _error(made, x).mean(), ({}, {"autoencoder_stats": updated.get("batch_stats", {})})

        return base.train_step(self.training, state, "autoencoder", loss, images.to_float(batch["image"]), rng)

    def eval_step(self, state, batch, rng):
        x = images.to_float(batch["image"])
        return {"loss": _error(self._apply(state, x), x)}

    def encode(self, state, batch, rng=None):
        return self._apply(state, images.to_float(batch["image"]), method="encode")

    def decode(self, state, latents, condition):
        return jnp.clip(self._apply(state, latents, method="decode").astype(jnp.float32), -1.0, 1.0)

    def panel(self, state, batch, rng):
        return jnp.stack([images.to_float(batch["image"]), self.decode(state, self.encode(state, batch), {})], 1)

    def _apply(self, state, x, **kwargs):
        variables = {"params": state.params["autoencoder"], "batch_stats": state.extra["autoencoder_stats"]}
        return self.network.apply(variables, x, **kwargs)


def _error(made, x):
    """(n,) squared error, averaged over pixels."""
    return jnp.square(made.astype(jnp.float32) - x).mean((1, 2, 3))
