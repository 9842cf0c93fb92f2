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
from typing import ClassVar

from flax import linen as nn
import jax
from jax import numpy as jnp

from imagegen_jax import distributions
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import rng as rng_lib
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import gan
from imagegen_jax.networks import dcgan
from imagegen_jax.networks import vae_nets


@dataclasses.dataclass(frozen=True, kw_only=True)
class VaeGan(gan.Gan):
    """A VAE-GAN of images of one shape.

    Attributes:
      encoder: (images, labels, train) -> (n, 2 latent), mean and log deviation of the posterior.
      gamma: what reconstruction weighs to the generator.
      beta: weight of the KL divergence.
    """

    columns: ClassVar[tuple[str, ...]] = ("image", "reconstruction")
    has_codes: ClassVar[bool] = True

    encoder: nn.Module
    gamma: float
    beta: float

    @classmethod
    def from_config(cls, config, spec, training):
        if config.augment.policy:
            raise errors.UserError(
                "config.augment.policy would transform an image otherwise than its reconstruction, and a VAE-GAN compares the "
                "two: set --config.augment.policy='()'"
            )
        fields = gan.parts(config, spec, training)
        encoder = dcgan.Encoder(
            widths=tuple(config.encoder.widths),
            features=2 * fields["latent"],
            classes=fields["classes"],
            dtype=jnp.dtype(config.network.dtype),
        )
        return cls(**fields, encoder=encoder, gamma=config.vaegan.gamma, beta=config.vaegan.beta)

    def init(self, rng):
        state = super().init(rng)
        blank = jnp.zeros((1, *self.image_shape))
        variables = self.encoder.init(jax.random.fold_in(rng, 1), blank, jnp.zeros(1, jnp.int32))
        stats = {"generator_stats": state.extra["generator_stats"], "encoder_stats": variables.get("batch_stats", {})}
        return state.replace(
            params=state.params | {"encoder": variables["params"]},
            opt_state=state.opt_state | {"encoder": self.optimizer.init(variables["params"])},
            ema_params=state.ema_params | {"encoder": variables["params"]},
            extra=state.extra | base.with_averages(stats),
        )

    def eval_step(self, state, batch, rng):
        image = images.to_float(batch["image"])
        posterior, _ = self._infer(state.params["encoder"], state.extra["encoder_stats"], image, batch["label"], train=False)
        made = self.decode(state, posterior.mean, batch["label"])
        measured = {
            "squared_error": jnp.square(made - image).mean((1, 2, 3)),
            "kl": posterior.kl(distributions.Gaussian.standard(posterior.mean.shape)).sum(-1),
        }
        return super().eval_step(state, batch, rng) | measured

    def encode(self, state, batch, rng=None):
        image, label = images.to_float(batch["image"]), batch["label"]
        posterior, _ = self._infer(state.params["encoder"], state.extra["encoder_stats"], image, label, train=False)
        if rng is None:
            return posterior.mean
        return posterior.at(self._noise(rng_lib.per_index(rng, batch["index"])))

    def panel(self, state, batch, rng):
        made = self.decode(state, self.encode(state, batch), batch["label"])
        return jnp.stack([images.to_float(batch["image"]), made], 1)

    def _infer(self, params, stats, image, label, train):
        """(q(z | x), batch statistics)."""
        variables, mutable = {"params": params, "batch_stats": stats}, ["batch_stats"] if train else []
        parameters, updated = self.encoder.apply(variables, image, label, train=train, mutable=mutable)
        return vae_nets.gaussian(parameters), updated.get("batch_stats", stats)

    def _noises(self, n, rng):
        """(noise of the posterior, z of the prior, both (n, latent), key of the rest)."""
        noise_rng, prior_rng, rng = jax.random.split(rng, 3)
        return *(jax.random.normal(key, (n, self.latent)) for key in (noise_rng, prior_rng)), rng

    def _fakes(self, state, real, label, rng):
        noise, z_prior, rng = self._noises(len(real), rng)
        posterior, _ = self._infer(state.params["encoder"], state.extra["encoder_stats"], real, label, train=True)
        z, labels = jnp.concatenate([posterior.at(noise), z_prior]), jnp.concatenate([label, label])
        return self._generate(state.params["generator"], state.extra["generator_stats"], z, labels)[0], labels, rng

    def _train_all(self, state, share):
        real, label, rng, number = share
        n = len(real)
        noise, z_prior, rng = self._noises(n, rng)
        labels = jnp.concatenate([label, label])

        def encode(params):
            """(z, L_prior) and the batch statistics."""
            posterior, stats = self._infer(params, state.extra["encoder_stats"], real, label, train=True)
            kl = posterior.kl(distributions.Gaussian.standard(noise.shape)).sum(-1).mean()
            return (posterior.at(noise), kl), stats

        def generate(params, z):
            return self._generate(params, state.extra["generator_stats"], jnp.concatenate([z, z_prior]), labels)

        (z, kl), pull_encoder, encoder_stats = jax.vjp(encode, state.params["encoder"], has_aux=True)
        fake, pull_generator, generator_stats = jax.vjp(generate, state.params["generator"], z, has_aux=True)
        judgement = self._judge(state, real, fake, label, labels, rng, number)

        def reconstruction(on_fake):
            distance = judgement.on_real.features - on_fake.features[:n]
            return 0.5 * jnp.square(distance.astype(jnp.float32)).sum((1, 2, 3)).mean()

        llike, llike_slope = jax.value_and_grad(reconstruction)(judgement.on_fake)
        fooled, fooled_slope = jax.value_and_grad(self._fooled)(judgement.on_fake, labels)
        mixed = jax.tree.map(lambda a, b: self.gamma * a + b, llike_slope, fooled_slope)
        _, z_slope = pull_generator(judgement.pull(llike_slope))
        gradients = {
            "encoder": pull_encoder((z_slope, jnp.full_like(kl, self.beta)))[0],
            "generator": pull_generator(judgement.pull(mixed))[0],
        }
        stats = {"encoder_stats": encoder_stats, "generator_stats": generator_stats}
        metrics = {"loss": self.beta * kl + llike, "kl": kl, "reconstruction": llike, "fooled": fooled}
        return self._updated(state, judgement, gradients, stats, metrics)
