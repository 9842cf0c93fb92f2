"""The first stage of latent diffusion: an autoencoder whose latents have places (Rombach et al. 2022, section 3.1).

It has a posterior q(z | x) = N(mu(x), sigma(x)^2) at each place, decodes a value of it, and minimises appendix G, equation 25:
what perceptual_autoencoder.py says, with

    P = kl KL(q(z | x) || N(0, I))

Norms and KL are sums over an image; here all is divided by the number of its values, so that L_rec is a mean.
"""

import dataclasses
import math
from typing import Annotated
from typing import ClassVar

import jax
from jax import numpy as jnp

from imagegen_jax import distributions
from imagegen_jax import images
from imagegen_jax import keys
from imagegen_jax import rng as rng_lib
from imagegen_jax.algorithms import perceptual_autoencoder
from imagegen_jax.networks import autoencoder_kl
from imagegen_jax.networks import blocks
from imagegen_jax.networks import cyclegan_nets


@dataclasses.dataclass(frozen=True)
class Objective(perceptual_autoencoder.Objective):
    """The section `autoencoder`: the weights of the terms."""

    kl: Annotated[float, keys.AtLeast(0)] = 1e-6


@dataclasses.dataclass(frozen=True)
class Config(perceptual_autoencoder.Sections):
    """The keys of an autoencoder with spatial latents."""

    network: autoencoder_kl.Config = autoencoder_kl.Config()
    discriminator: cyclegan_nets.DiscriminatorConfig = cyclegan_nets.DiscriminatorConfig()
    autoencoder: Objective = Objective()


@dataclasses.dataclass(frozen=True, kw_only=True)
class KlAutoencoder(perceptual_autoencoder.PerceptualAutoencoder):
    """An autoencoder with spatial latents; the fields are those of PerceptualAutoencoder."""

    Config: ClassVar[type] = Config
    columns: ClassVar[tuple[str, ...]] = ("image", "reconstruction")
    classes: ClassVar[int] = 0
    prior_is_normal: ClassVar[bool] = False

    @classmethod
    def from_config(cls, config, spec, training):
        network = blocks.from_config(autoencoder_kl.AutoencoderKL, config.network, image_shape=spec.shape)
        return cls(**perceptual_autoencoder.parts(config, spec, training, network))

    @property
    def latent_shape(self):
        """(h', w', channels)."""
        return self.network.latent_shape

    @property
    def image_shape(self):
        """(height, width, channels)."""
        return self.network.image_shape

    def of_image_shape(self, shape):
        """See capabilities.AutoencodesSpatially."""
        return dataclasses.replace(self, network=self.network.clone(image_shape=shape))

    def first_parts(self, rng):
        blank = jnp.zeros((1, *self.network.image_shape)), jnp.zeros((1, *self.latent_shape))
        return self.network.init(rng, *blank)["params"], {}

    def reconstruct(self, params, state, x, rng):
        noise = jax.random.normal(rng, (len(x), *self.latent_shape))
        posterior, made = self.network.apply({"params": params}, x, noise)
        kl = _kl(posterior, x).mean()
        return (made, self.objective.kl * kl), ({"kl": kl}, {})

    def reconstruct_held_out(self, state, x):
        """Of what is decoded of the posterior's mean."""
        posterior = self._posterior(state, x)
        kl = _kl(posterior, x)
        return self._decode(state, posterior.mean), self.objective.kl * kl, {"kl": kl}

    def encode(self, state, batch, rng=None):
        posterior = self.posterior(state, batch)
        return posterior.mean if rng is None else posterior.at(rng_lib.normal(rng, batch["index"], self.latent_shape))

    def posterior(self, state, batch):
        """See capabilities.HasPosterior."""
        return self._posterior(state, images.to_float(batch["image"]))

    def decode(self, state, latents, condition):
        return jnp.clip(self._decode(state, latents), -1.0, 1.0)

    def panel(self, state, batch, rng):
        return jnp.stack([images.to_float(batch["image"]), self.decode(state, self.encode(state, batch), {})], 1)

    def _posterior(self, state, x):
        return self.network.apply({"params": state.params["autoencoder"]}, x, method="encode")

    def _decode(self, state, z):
        return self.network.apply({"params": state.params["autoencoder"]}, z, method="decode")


def _kl(posterior, x):
    """(n,) nats of an image's latents, over the number of its values."""
    standard = distributions.Gaussian.standard(posterior.mean.shape)
    return posterior.kl(standard).sum((1, 2, 3)) / math.prod(x.shape[1:])
