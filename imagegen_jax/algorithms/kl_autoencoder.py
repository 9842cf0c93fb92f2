"""The first stage of latent diffusion: an autoencoder whose latents have places (Rombach et al. 2022, section 3.1).

With a posterior q(z | x) = N(mu(x), sigma(x)^2) at each place, x' = decoder(z) for a value of it, d the distance of
similarity.perceptual and D a discriminator of patches, the autoencoder minimises (appendix G, equation 25)

    L_rec + kl KL(q(z | x) || N(0, I)) + lambda L_GAN,      L_rec = |x - x'|_1 + perceptual d(x, x'),    L_GAN = -D(x')

    lambda = adversarial |grad L_rec| / (|grad L_GAN| + 1e-6)          Esser et al. 2021, equation 7

where the gradients are those with respect to the kernel of the decoder's last layer, and lambda is a constant. D minimises
half of the hinge loss, of real images and of x'. Before the step `adversarial_start` there is no L_GAN, and D does not move.
Norms and KL are sums over an image; here all is divided by the number of its values, so that L_rec is a mean.

Features for d are those of a trained classifier, the run in config.first_stage.workdir. It stays as it is, and a copy is in the
state, so that this run needs the other only to begin. One that serves as a first stage itself has neither D nor d.
"""

import dataclasses
import math
from typing import Annotated
from typing import Any
from typing import ClassVar

from flax import linen as nn
import jax
from jax import numpy as jnp
import optax

from imagegen_jax import distributions
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import keys
from imagegen_jax import rng as rng_lib
from imagegen_jax import similarity
from imagegen_jax.adversarial import losses
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import capabilities
from imagegen_jax.networks import autoencoder_kl
from imagegen_jax.networks import blocks
from imagegen_jax.networks import cyclegan_nets

_DELTA = 1e-6  # of equation 7
_HINGE = losses.adversarial("hinge")


@dataclasses.dataclass(frozen=True)
class Objective:
    """The section `autoencoder`: the weights of the terms."""

    kl: Annotated[float, keys.AtLeast(0)] = 1e-6
    perceptual: Annotated[float, keys.AtLeast(0)] = 1.0  # 0: no classifier is needed
    adversarial: Annotated[float, keys.AtLeast(0)] = 0.5  # as a share of the reconstruction's gradient at the last layer
    adversarial_start: keys.Duration = "50000 steps"  # the discriminator's warm-up: training without it


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of an autoencoder with spatial latents."""

    network: autoencoder_kl.Config = autoencoder_kl.Config()
    discriminator: cyclegan_nets.DiscriminatorConfig = cyclegan_nets.DiscriminatorConfig()
    autoencoder: Objective = Objective()
    mean_over_images: ClassVar[bool] = False  # see autoencoder.Config

    @property
    def needs_first_stage(self):
        """See capabilities.HasFirstStage."""
        return self.autoencoder.perceptual > 0


@dataclasses.dataclass(frozen=True)
class KlAutoencoder(base.Algorithm):
    """An autoencoder with spatial latents, of images of one shape.

    Attributes:
      network: encoder and decoder.
      discriminator: (n, h, w, c) -> (n, h', w', 1) logits of patches.
      objective: the weights of the terms.
      training: how both are optimised.
      first_stage: sees the features that the perceptual distance is measured in; None for no such term.
    """

    Config: ClassVar[type] = Config
    defaults: ClassVar[dict[str, Any]] = {"optimizer.b1": 0.5, "optimizer.b2": 0.9, "optimizer.clip_norm": 0.0}
    first_stage_capability: ClassVar[type] = capabilities.Perceives
    columns: ClassVar[tuple[str, ...]] = ("image", "reconstruction")
    classes: ClassVar[int] = 0
    prior_is_normal: ClassVar[bool] = False

    network: autoencoder_kl.AutoencoderKL
    discriminator: nn.Module
    objective: Objective
    training: base.Training
    first_stage: Any = None

    @classmethod
    def from_config(cls, config, spec, training):
        least, (height, width, _) = config.discriminator.least_side, spec.shape
        if min(height, width) < least:
            raise errors.UserError(
                f"the discriminator takes no images of {height}x{width} pixels: set --config.data.image_size to {least} or "
                "more, or --config.discriminator.layers to less"
            )
        network = blocks.from_config(autoencoder_kl.AutoencoderKL, config.network, image_shape=spec.shape)
        discriminator = cyclegan_nets.discriminator(config.discriminator, network.dtype)
        return cls(network, discriminator, config.autoencoder, training, training.first_stage)

    @property
    def latent_shape(self):
        """(h', w', channels)."""
        return self.network.latent_shape

    @property
    def places(self):
        """(h', w')."""
        return self.network.latent_shape[:2]

    def init(self, rng):
        rngs, blank = jax.random.split(rng, 3), jnp.zeros((1, *self.network.image_shape))
        params = {"autoencoder": self.network.init(rngs[0], blank, jnp.zeros((1, *self.latent_shape)))["params"]}
        averages, optimizer = dict(params), self.training.optimizer
        if optimizer:
            params["discriminator"] = self.discriminator.init(rngs[1], blank)["params"]
        state = base.TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state={name: optimizer.init(part) for name, part in params.items()} if optimizer else {},
            ema_params=averages,
        )
        return self.with_first_stage(state, self.first_stage.init(rngs[2])) if self.first_stage else state

    def with_first_stage(self, state, trained):
        """See capabilities.HasFirstStage."""
        return state.replace(extra={"first_stage": trained.frozen()})

    def train_step(self, state, batch, rng):
        params, x = state.params, images.to_float(batch["image"])
        noise = jax.random.normal(rng, (len(x), *self.latent_shape))

        def reconstruct(params):
            posterior, made = self.network.apply({"params": params}, x, noise)
            return made, _kl(posterior, x).mean()

        (made, kl), vjp = jax.vjp(reconstruct, params["autoencoder"])
        seen = self._maps(state, x)
        (rec, parts), rec_gradient = jax.value_and_grad(lambda made: _mean(self._rec(state, made, x, seen)), has_aux=True)(made)
        deceive = jax.value_and_grad(lambda made: _HINGE.generator(self._logits(params["discriminator"], made)).mean())
        g_loss, g_gradient = deceive(made)

        def at_last_layer(gradient):  # of all that the pullback makes, the compiler leaves this
            return vjp((gradient, jnp.zeros_like(kl)))[0]["decoder"]["conv_out"]["kernel"]

        on = (state.step >= self.training.steps(self.objective.adversarial_start)).astype(jnp.float32)
        adaptive = self.objective.adversarial * adaptive_weight(at_last_layer(rec_gradient), at_last_layer(g_gradient))
        (gradients,) = vjp((rec_gradient + on * adaptive * g_gradient, jnp.full_like(kl, self.objective.kl)))
        d_value = jax.value_and_grad(self._d_loss, has_aux=True)
        (d_loss, d_metrics), d_gradients = d_value(params["discriminator"], x, made)
        d_gradients = optax.tree.scale(on, d_gradients)

        metrics = {
            "loss": rec + self.objective.kl * kl,
            **parts,
            "kl": kl,
            "g_loss": g_loss,
            "adversarial_weight": on * adaptive,
            "discriminator": d_loss,
            **d_metrics,
            "grad_norm_autoencoder": optax.tree.norm(gradients),
            "grad_norm_discriminator": optax.tree.norm(d_gradients),
            "param_norm": optax.tree.norm(params),
        }
        state = base.update(state, "autoencoder", gradients, self.training.optimizer, self.training.ema_decay)
        state = base.update(state, "discriminator", d_gradients, self.training.optimizer)
        return state.replace(step=state.step + 1), metrics

    def eval_step(self, state, batch, rng):
        """Of what is decoded of the posterior's mean: 'loss' as it is trained but for L_GAN, and similarity.scores."""
        x = images.to_float(batch["image"])
        posterior = self._posterior(state, batch)
        made = self._decode(state, posterior.mean)
        (rec, parts), kl = self._rec(state, made, x, self._maps(state, x)), _kl(posterior, x)
        return {"loss": rec + self.objective.kl * kl, **parts, "kl": kl} | similarity.scores(jnp.clip(made, -1.0, 1.0), x)

    def encode(self, state, batch, rng=None):
        posterior = self._posterior(state, batch)
        if rng is None:
            return posterior.mean
        noise = jax.vmap(lambda key: jax.random.normal(key, self.latent_shape))(rng_lib.per_index(rng, batch["index"]))
        return posterior.at(noise)

    def decode(self, state, latents, condition):
        return jnp.clip(self._decode(state, latents), -1.0, 1.0)

    def panel(self, state, batch, rng):
        return jnp.stack([images.to_float(batch["image"]), self.decode(state, self.encode(state, batch), {})], 1)

    def _posterior(self, state, batch):
        x = images.to_float(batch["image"])
        return self.network.apply({"params": state.params["autoencoder"]}, x, method="encode")

    def _decode(self, state, z):
        return self.network.apply({"params": state.params["autoencoder"]}, z, method="decode")

    def _logits(self, params, x):
        return self.discriminator.apply({"params": params}, x)

    def _maps(self, state, x):
        """What the perceptual distance is measured in; () without."""
        return self.first_stage.maps(state.extra["first_stage"], x) if self.first_stage else ()

    def _rec(self, state, made, x, seen):
        """(L_rec (n,), its terms (n,) by name); `seen` are the maps of x."""
        error = jnp.abs(made - x).mean((1, 2, 3))
        if not self.first_stage:
            return error, {"absolute_error": error}
        distance = similarity.perceptual(self._maps(state, made), seen)
        return error + self.objective.perceptual * distance, {"absolute_error": error, "perceptual": distance}

    def _d_loss(self, params, x, made):
        """(half of the hinge loss, metrics)."""
        real, fake = jnp.split(self._logits(params, jnp.concatenate([x, made])), 2)
        loss = 0.5 * (_HINGE.real(real).mean() + _HINGE.fake(fake).mean())
        return loss, {"logit_real": real.mean(), "logit_fake": fake.mean()}


def adaptive_weight(rec_gradient, g_gradient):
    """Esser et al. 2021, equation 7, of the gradients of L_rec and L_GAN with respect to the kernel of the last layer."""
    return optax.tree.norm(rec_gradient) / (optax.tree.norm(g_gradient) + _DELTA)


def _kl(posterior, x):
    """(n,) nats of an image's latents, over the number of its values."""
    standard = distributions.Gaussian.standard(posterior.mean.shape)
    return posterior.kl(standard).sum((1, 2, 3)) / math.prod(x.shape[1:])


def _mean(values):
    return jax.tree.map(jnp.mean, values)
