"""Autoencoders whose images are to look right: with a perceptual and an adversarial term (Esser et al. 2021, section 3.1).

With x' what is decoded, d the distance of similarity.perceptual, D a discriminator of patches, and P what the latents cost
(kl_autoencoder.py, vqgan.py), the autoencoder minimises

    L_rec + P + lambda L_GAN,      L_rec = |x - x'|_1 + perceptual d(x, x'),    L_GAN = -D(x')

    lambda = adversarial |grad L_rec| / (|grad L_GAN| + 1e-6)          equation 7

where the gradients are those with respect to the kernel of the decoder's last layer, and lambda is a constant. D minimises
half of the hinge loss, of real images and of x'. Before the step `adversarial_start` there is no L_GAN, and D does not move.

Features for d are those of a trained classifier, the run in config.first_stage.workdir. It stays as it is, and a copy is in the
state, so that this run needs the other only to begin. One that serves as a first stage itself has neither D nor d.
"""

import abc
import dataclasses
from typing import Annotated
from typing import Any
from typing import ClassVar

from flax import linen as nn
import jax
from jax import numpy as jnp
import optax

from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import keys
from imagegen_jax import similarity
from imagegen_jax.adversarial import losses
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import capabilities
from imagegen_jax.networks import cyclegan_nets

_DELTA = 1e-6  # of equation 7
_HINGE = losses.adversarial("hinge")


@dataclasses.dataclass(frozen=True)
class Objective:
    """What the sections `autoencoder` have in common: the weights of the terms."""

    perceptual: Annotated[float, keys.AtLeast(0)] = 1.0  # 0: no classifier is needed
    adversarial: Annotated[float, keys.AtLeast(0)] = 0.5  # as a share of the reconstruction's gradient at the last layer
    adversarial_start: keys.Duration = "50000 steps"  # the discriminator's warm-up: training without it


class Sections:
    """What the configs have in common.

    Attributes:
      autoencoder: an Objective.
    """

    autoencoder: Objective
    mean_over_images: ClassVar[bool] = False  # see autoencoder.Config

    @property
    def needs_first_stage(self):
        """See capabilities.HasFirstStage."""
        return self.autoencoder.perceptual > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerceptualAutoencoder(base.Algorithm):
    """An autoencoder of images of one shape, whose network is 'autoencoder' in a state.

    Attributes:
      network: encoder and decoder.
      discriminator: (n, h, w, c) -> (n, h', w', 1) logits of patches.
      objective: the weights of the terms.
      training: how both are optimised.
      first_stage: sees the features that the perceptual distance is measured in; None for no such term.
    """

    defaults: ClassVar[dict[str, Any]] = {"optimizer.b1": 0.5, "optimizer.b2": 0.9, "optimizer.clip_norm": 0.0}
    first_stage_capability: ClassVar[type] = capabilities.Perceives

    network: nn.Module
    discriminator: nn.Module
    objective: Objective
    training: base.Training
    first_stage: Any = None

    @abc.abstractmethod
    def first_parts(self, rng):
        """(the network's first parameters, {name: pytree} of what is kept beside them and averaged with them)."""

    @abc.abstractmethod
    def reconstruct(self, params, state, x, rng):
        """A batch, as it is trained.

        Args:
          params: of the network; what is differentiated by.
          state: before the step.
          x: (n, h, w, c) float32 images in [-1, 1].
          rng: key of what is drawn.

        Returns:
          ((x' (n, h, w, c), P ()), (metrics, what TrainState.extra gets in the step))
        """

    @abc.abstractmethod
    def reconstruct_held_out(self, state, x):
        """(x' (n, h, w, c), P (n,), metrics (n,) by name), without chance."""

    def init(self, rng):
        rngs, optimizer = jax.random.split(rng, 3), self.training.optimizer
        network, averaged = self.first_parts(rngs[0])
        params = {"autoencoder": network}
        if optimizer:
            blank = jnp.zeros((1, *self.network.image_shape))
            params["discriminator"] = self.discriminator.init(rngs[1], blank)["params"]
        state = base.TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state={name: optimizer.init(part) for name, part in params.items()} if optimizer else {},
            ema_params={"autoencoder": network},
            extra=base.with_averages(averaged),
        )
        return self.with_first_stage(state, self.first_stage.init(rngs[2])) if self.first_stage else state

    def with_first_stage(self, state, trained):
        """See capabilities.HasFirstStage."""
        return state.replace(extra=state.extra | {"first_stage": trained.frozen()})

    def train_step(self, state, batch, rng):
        params, x = state.params, images.to_float(batch["image"])

        def reconstruct(params):
            return self.reconstruct(params, state, x, rng)

        (made, penalty), vjp, (measured, extra) = jax.vjp(reconstruct, params["autoencoder"], has_aux=True)
        seen = self._maps(state, x)
        (rec, parts), rec_gradient = jax.value_and_grad(lambda made: _mean(self._rec(state, made, x, seen)), has_aux=True)(made)
        deceive = jax.value_and_grad(lambda made: _HINGE.generator(self._logits(params["discriminator"], made)).mean())
        g_loss, g_gradient = deceive(made)

        def at_last_layer(gradient):  # of all that the pullback makes, the compiler leaves this
            return vjp((gradient, jnp.zeros_like(penalty)))[0]["decoder"]["conv_out"]["kernel"]

        on = (state.step >= self.training.steps(self.objective.adversarial_start)).astype(jnp.float32)
        adaptive = self.objective.adversarial * adaptive_weight(at_last_layer(rec_gradient), at_last_layer(g_gradient))
        (gradients,) = vjp((rec_gradient + on * adaptive * g_gradient, jnp.ones_like(penalty)))
        d_value = jax.value_and_grad(self._d_loss, has_aux=True)
        (d_loss, d_metrics), d_gradients = d_value(params["discriminator"], x, made)
        d_gradients = optax.tree.scale(on, d_gradients)

        metrics = {
            "loss": rec + penalty,
            **parts,
            **measured,
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
        return state.replace(step=state.step + 1, extra=state.extra | extra), metrics

    def eval_step(self, state, batch, rng):
        """'loss' as it is trained but for L_GAN, and similarity.scores."""
        x = images.to_float(batch["image"])
        made, penalty, measured = self.reconstruct_held_out(state, x)
        rec, parts = self._rec(state, made, x, self._maps(state, x))
        return {"loss": rec + penalty, **parts, **measured} | similarity.scores(jnp.clip(made, -1.0, 1.0), x)

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
        weights = self.first_stage.map_weights(state.extra["first_stage"])
        distance = similarity.perceptual(self._maps(state, made), seen, weights)
        return error + self.objective.perceptual * distance, {"absolute_error": error, "perceptual": distance}

    def _d_loss(self, params, x, made):
        """(half of the hinge loss, metrics)."""
        real, fake = jnp.split(self._logits(params, jnp.concatenate([x, made])), 2)
        loss = 0.5 * (_HINGE.real(real).mean() + _HINGE.fake(fake).mean())
        return loss, {"logit_real": real.mean(), "logit_fake": fake.mean()}


def parts(config, spec, training, network):
    """The fields of a PerceptualAutoencoder, by name.

    Raises:
      errors.UserError: the images are too small for the discriminator.
    """
    least, (height, width, _) = config.discriminator.least_side, spec.shape
    if min(height, width) < least:
        raise errors.UserError(
            f"the discriminator takes no images of {height}x{width} pixels: set --config.data.image_size to {least} or "
            "more, or --config.discriminator.layers to less"
        )
    return dict(
        network=network,
        discriminator=cyclegan_nets.discriminator(config.discriminator, network.dtype),
        objective=config.autoencoder,
        training=training,
        first_stage=training.first_stage,
    )


def adaptive_weight(rec_gradient, g_gradient):
    """Esser et al. 2021, equation 7, of the gradients of L_rec and L_GAN with respect to the kernel of the last layer."""
    return optax.tree.norm(rec_gradient) / (optax.tree.norm(g_gradient) + _DELTA)


def _mean(values):
    return jax.tree.map(jnp.mean, values)
