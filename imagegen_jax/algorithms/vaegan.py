"""VAE-GAN (Larsen et al. 2016): a VAE whose decoder is a GAN's generator, and which reconstructs what the discriminator sees.

With a posterior q(z | x) = N(mu(x), sigma(x)^2), images x' = G(z) of its values and G(z_p) of the prior's, and D_l the
activations of the discriminator's last level (algorithm 1 and equations 5 to 8):

    L_prior = KL(q(z | x) || N(0, I))
    L_llike = |D_l(x) - D_l(x')|^2 / 2                       a Gaussian of unit variance, summed over the activations
    the encoder minimises         beta L_prior + L_llike
    the generator minimises       gamma L_llike + generator(D(x')) + generator(D(G(z_p)))
    the discriminator minimises   what algorithms/gan.py says, on x against x' and G(z_p)

where the adversarial terms are the mean over both kinds of generated images, in every update of the discriminator, a penalty at
generated images takes the two kinds in turn, and L_llike does not change the discriminator.
"""

import dataclasses
from typing import Annotated
from typing import ClassVar

from flax import linen as nn
import jax
from jax import numpy as jnp

from imagegen_jax import distributions
from imagegen_jax import images
from imagegen_jax import keys
from imagegen_jax import rng as rng_lib
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import gan
from imagegen_jax.algorithms import gan_config
from imagegen_jax.networks import dcgan
from imagegen_jax.networks import text_encoder
from imagegen_jax.networks import vae_nets


@dataclasses.dataclass(frozen=True)
class Weights:
    """The section `vaegan`."""

    gamma: Annotated[float, keys.AtLeast(0)] = 1.0  # of reconstruction to the decoder, beside deceiving the discriminator
    beta: Annotated[float, keys.AtLeast(0)] = 1.0  # of the KL divergence


@dataclasses.dataclass(frozen=True)
class Config(gan_config.Config):
    """The keys of a VAE-GAN, in addition to those of a GAN."""

    encoder: gan_config.EncoderConfig = gan_config.EncoderConfig()
    vaegan: Weights = Weights()

    def objections(self):
        """See keys.objections."""
        yield from super().objections()
        if self.augment.policy:
            yield (
                "augment.policy",
                "it would transform an image otherwise than its reconstruction, and a VAE-GAN compares the two: "
                "set --config.augment.policy='()'",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VaeGan(gan.Gan):
    """A VAE-GAN of images of one shape.

    Attributes:
      encoder: (images, condition, train) -> (n, 2 latent), mean and log deviation of the posterior.
      weights: of reconstruction and of the KL divergence.
    """

    Config: ClassVar[type] = Config
    columns: ClassVar[tuple[str, ...]] = ("image", "reconstruction")

    encoder: nn.Module
    weights: Weights

    @classmethod
    def from_config(cls, config, spec, training):
        fields = gan.parts(config, spec, training)
        encoder = dcgan.Encoder(
            widths=config.encoder.widths,
            features=2 * fields["latent"],
            classes=fields["classes"],
            text=text_encoder.build(config.text_encoder, fields["text"]),
            dtype=jnp.dtype(config.network.dtype),
        )
        return cls(**fields, encoder=encoder, weights=config.vaegan)

    def init(self, rng):
        state = super().init(rng)
        blank = jnp.zeros((1, *self.image_shape))
        variables = self.encoder.init(jax.random.fold_in(rng, 1), blank, self._some_condition(1))
        stats = {"generator_stats": state.extra["generator_stats"], "encoder_stats": variables.get("batch_stats", {})}
        return state.replace(
            params=state.params | {"encoder": variables["params"]},
            opt_state=state.opt_state | {"encoder": self.optimizer.init(variables["params"])},
            ema_params=state.ema_params | {"encoder": variables["params"]},
            extra=state.extra | base.with_averages(stats),
        )

    def eval_step(self, state, batch, rng):
        image = images.to_float(batch["image"])
        posterior, _ = self._infer(
            state.params["encoder"], state.extra["encoder_stats"], image, batch["condition"], train=False
        )
        made = self.decode(state, posterior.mean, batch["condition"])
        measured = {
            "squared_error": jnp.square(made - image).mean((1, 2, 3)),
            "kl": posterior.kl(distributions.Gaussian.standard(posterior.mean.shape)).sum(-1),
        }
        return super().eval_step(state, batch, rng) | measured

    def encode(self, state, batch, rng=None):
        image, condition = images.to_float(batch["image"]), batch["condition"]
        posterior, _ = self._infer(state.params["encoder"], state.extra["encoder_stats"], image, condition, train=False)
        if rng is None:
            return posterior.mean
        return posterior.at(self._noise(rng_lib.per_index(rng, batch["index"])))

    def panel(self, state, batch, rng):
        made = self.decode(state, self.encode(state, batch), batch["condition"])
        return jnp.stack([images.to_float(batch["image"]), made], 1)

    def _infer(self, params, stats, image, condition, train):
        """(q(z | x), batch statistics)."""
        variables, mutable = {"params": params, "batch_stats": stats}, ["batch_stats"] if train else []
        parameters, updated = self.encoder.apply(variables, image, condition, train=train, mutable=mutable)
        return vae_nets.gaussian(parameters), updated.get("batch_stats", stats)

    def _noises(self, real, rng):
        """(noise of the posterior, z of the prior, both (n, latent), key of the rest)."""
        noise_rng, prior_rng, rng = jax.random.split(rng, 3)
        return *(self._training_noise(len(real), key) for key in (noise_rng, prior_rng)), rng

    def _fakes(self, state, real, condition, rng):
        noise, z_prior, rng = self._noises(real, rng)
        posterior, _ = self._infer(state.params["encoder"], state.extra["encoder_stats"], real, condition, train=True)
        z, both = jnp.concatenate([posterior.at(noise), z_prior]), _twice(condition)
        return self._generate(state.params["generator"], state.extra["generator_stats"], z, both)[0], both, rng

    def _train_all(self, state, microbatch):
        real, condition, rng, number = microbatch
        n = len(real)
        noise, z_prior, rng = self._noises(real, rng)
        both = _twice(condition)

        def encode(params):
            """(z, L_prior) and the batch statistics."""
            posterior, stats = self._infer(params, state.extra["encoder_stats"], real, condition, train=True)
            kl = posterior.kl(distributions.Gaussian.standard(noise.shape)).sum(-1).mean()
            return (posterior.at(noise), kl), stats

        def generate(params, z):
            return self._generate(params, state.extra["generator_stats"], jnp.concatenate([z, z_prior]), both)

        (z, kl), encoder_vjp, encoder_stats = jax.vjp(encode, state.params["encoder"], has_aux=True)
        fake, generator_vjp, generator_stats = jax.vjp(generate, state.params["generator"], z, has_aux=True)
        update = self._update_discriminator(state, real, fake, condition, both, rng, number)

        def reconstruction(on_fake):
            distance = update.on_real.features - on_fake.features[:n]
            return 0.5 * jnp.square(distance.astype(jnp.float32)).sum((1, 2, 3)).mean()

        llike, llike_gradient = jax.value_and_grad(reconstruction)(update.on_fake)
        g_loss, g_loss_gradient = jax.value_and_grad(self._g_loss)(update.on_fake, both)
        mixed = jax.tree.map(lambda a, b: self.weights.gamma * a + b, llike_gradient, g_loss_gradient)
        _, z_gradient = generator_vjp(update.vjp(llike_gradient))
        gradients = {
            "encoder": encoder_vjp((z_gradient, jnp.full_like(kl, self.weights.beta)))[0],
            "generator": generator_vjp(update.vjp(mixed))[0],
        }
        stats = {"encoder_stats": encoder_stats, "generator_stats": generator_stats}
        metrics = {"loss": self.weights.beta * kl + llike, "kl": kl, "reconstruction": llike, "g_loss": g_loss}
        return self._updated(state, update, gradients, stats, metrics)


def _twice(condition):
    """The condition of images that come twice, one after the other."""
    return jax.tree.map(lambda x: jnp.concatenate([x, x]), condition)
