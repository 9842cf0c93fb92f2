"""VQGAN (Esser et al. 2021, section 3.1): a VQ-VAE whose images are to look right, for priors over few codes of large images.

The codebook is that of vqvae.py, with moving averages in place of a gradient, and what is minimised is what
perceptual_autoencoder.py says, with z the encoder's output, e the nearest vector and

    P = commitment |z - sg(e)|^2                                       of equation 4, as a mean over the numbers of a code

The decoder sees e, and the encoder gets the gradient at e.
"""

import dataclasses
from typing import ClassVar

import jax
from jax import numpy as jnp

from imagegen_jax.algorithms import perceptual_autoencoder
from imagegen_jax.algorithms import vqvae as vqvae_lib
from imagegen_jax.networks import autoencoder_kl
from imagegen_jax.networks import blocks
from imagegen_jax.networks import cyclegan_nets


@dataclasses.dataclass(frozen=True)
class Config(perceptual_autoencoder.Sections):
    """The keys of a VQGAN."""

    network: autoencoder_kl.VQConfig = autoencoder_kl.VQConfig()
    discriminator: cyclegan_nets.DiscriminatorConfig = cyclegan_nets.DiscriminatorConfig()
    autoencoder: perceptual_autoencoder.Objective = perceptual_autoencoder.Objective()
    vqvae: vqvae_lib.Quantiser = vqvae_lib.Quantiser()


@dataclasses.dataclass(frozen=True, kw_only=True)
class VqGan(vqvae_lib.Tokenizer, perceptual_autoencoder.PerceptualAutoencoder):
    """A VQGAN; the other fields are those of PerceptualAutoencoder.

    Attributes:
      quantiser: the codebook.
    """

    Config: ClassVar[type] = Config
    network_name: ClassVar[str] = "autoencoder"

    quantiser: vqvae_lib.Quantiser

    @classmethod
    def from_config(cls, config, spec, training):
        network = blocks.from_config(
            autoencoder_kl.AutoencoderVQ, config.network, dimensions=config.vqvae.dimensions, image_shape=spec.shape
        )
        return cls(**perceptual_autoencoder.parts(config, spec, training, network), quantiser=config.vqvae)

    def first_parts(self, rng):
        params = self.network.init(rng, jnp.zeros((1, *self.network.image_shape)))["params"]
        return params, {"codebook": self.first_codebook(jax.random.fold_in(rng, 1))}

    def reconstruct(self, params, state, x, rng):
        z = self._encode(params, x)
        fixed = jax.lax.stop_gradient(z)
        nearest, codebooks, used = vqvae_lib.quantised(self.quantiser, state, fixed, rng, self.training.ema_decay)
        distance = jnp.square(z - nearest).mean()
        made = self._decode(params, vqvae_lib.straight_through(z, nearest))
        return (made, self.quantiser.commitment * distance), ({"code_distance": distance, **used}, codebooks)

    def reconstruct_held_out(self, state, x):
        params = state.params["autoencoder"]
        z = self._encode(params, x)
        nearest = self._quantised(state, z)
        distance = jnp.square(z - nearest).mean((1, 2, 3))
        return self._decode(params, nearest), self.quantiser.commitment * distance, {"code_distance": distance}
