"""pix2pix: translation learned from pairs of images (Isola et al. 2017, "Image-to-Image Translation with Conditional GANs").

With a pair (a, b), a generator G whose noise z is dropout, and a discriminator D of patches that sees a beside what it judges,
G minimises (equation 4, in the form of section 3.3 that does not saturate)

    loss(D(a, G(a, z))) + l1 |b - G(a, z)|_1

and D, before it, half the sum of its two terms. The norm is a mean over pixels and channels. Layers, weights and order are
those of the authors' code (junyanz/pytorch-CycleGAN-and-pix2pix, models/pix2pix_model.py). Their batch normalisation, of one
image a step, is instance normalisation here, for any batch; D's has no scale and offset. Translation is without dropout, and
so without chance: the authors leave it on, and find little variety in it.
"""

import dataclasses
from typing import Annotated
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
from imagegen_jax.algorithms import cyclegan
from imagegen_jax.networks import blocks
from imagegen_jax.networks import cyclegan_nets

DIRECTION = "ab"


@dataclasses.dataclass(frozen=True)
class Network(keys.section(cyclegan_nets.UNetGenerator, without=("out_channels",))):
    """The section `network`, of the generator."""

    dropout: Annotated[float, keys.AtLeast(0), keys.Below(1)] = 0.5
    affine: bool = True


@dataclasses.dataclass(frozen=True)
class Objective:
    """The section `pix2pix`."""

    # Nothing bounds the gradient of its discriminator, as the Wasserstein loss needs it.
    loss: Annotated[str, keys.OneOf(losses.BOUNDED)] = "non_saturating"
    l1: Annotated[float, keys.AtLeast(0)] = 100.0  # weight of |b - G(a)|


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of a pix2pix."""

    network: Network = Network()
    discriminator: cyclegan_nets.DiscriminatorConfig = cyclegan_nets.DiscriminatorConfig()
    pix2pix: Objective = Objective()
    mean_over_images: ClassVar[bool] = False  # see autoencoder.Config


@dataclasses.dataclass(frozen=True)
class Pix2Pix(base.Algorithm):
    """A translation of images of one size.

    Attributes:
      generator: (n, h, w, c), train -> (n, h, w, c').
      discriminator: (n, h, w, c + c') -> logits of patches.
      shapes: {'a': (h, w, c), 'b': (h, w, c')}.
      objective: the weights of its terms.
      training: how both are optimised.
    """

    Config: ClassVar[type] = Config
    domains: ClassVar[tuple[str, ...]] = ("a", "b")
    paired: ClassVar[bool] = True
    directions: ClassVar[dict[str, tuple[str, str]]] = {DIRECTION: ("a", "b")}
    paired_test: ClassVar[bool] = True
    columns: ClassVar[tuple[str, ...]] = ("a", "G(a)", "b")
    # That of facades (appendix 6.2); the rate falls as in the authors' code, which is also CycleGAN's.
    defaults: ClassVar[dict[str, object]] = cyclegan.CycleGan.defaults

    generator: nn.Module
    discriminator: nn.Module
    shapes: dict[str, tuple[int, int, int]]
    objective: Objective
    training: base.Training

    @classmethod
    def from_config(cls, config, spec, training):
        shapes = {name: spec[name].shape for name in ("a", "b")}
        generator = blocks.from_config(cyclegan_nets.UNetGenerator, config.network, out_channels=shapes["b"][-1])
        _check_shapes(config, shapes)
        discriminator = cyclegan_nets.discriminator(config.discriminator, generator.dtype)
        return cls(generator, discriminator, shapes, config.pix2pix, training)

    @property
    def multiples(self):
        """See capabilities.Translates."""
        return {DIRECTION: self.generator.multiple}

    def init(self, rng):
        a, b = (jnp.zeros((1, *self.shapes[name])) for name in ("a", "b"))
        keys = jax.random.split(rng)
        params = {
            "generator": self.generator.init(keys[0], a)["params"],
            "discriminator": self.discriminator.init(keys[1], jnp.concatenate([a, b], -1))["params"],
        }
        return base.TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state={name: self.training.optimizer.init(part) for name, part in params.items()},
            ema_params={"generator": params["generator"]},
        )

    def train_step(self, state, batch, rng):
        a, b = self._pair(batch)

        def generate(params):
            return self.generator.apply({"params": params}, a, train=True, rngs={"dropout": rng})

        fake, pull = jax.vjp(generate, state.params["generator"])
        d_value = jax.value_and_grad(self._d_loss, has_aux=True)
        (d_loss, d_metrics), d_grads = d_value(state.params["discriminator"], a, b, fake)
        state = base.update(state, "discriminator", d_grads, self.training.optimizer)
        g_value = jax.value_and_grad(self._g_loss, argnums=1, has_aux=True)
        (loss, metrics), towards = g_value(state.params["discriminator"], fake, a, b)  # which has moved
        (grads,) = pull(towards)
        metrics |= {
            "loss": loss,
            "discriminator": d_loss,
            **d_metrics,
            "grad_norm_generator": optax.tree.norm(grads),
            "grad_norm_discriminator": optax.tree.norm(d_grads),
            "param_norm": optax.tree.norm(state.params),
        }
        state = base.update(state, "generator", grads, self.training.optimizer, self.training.ema_decay)
        return state.replace(step=state.step + 1), metrics

    def eval_step(self, state, batch, rng):
        """With 'loss', l1 |b - G(a)|, and similarity.scores, as '<score>_ab'."""
        a, b = self._pair(batch)
        fake = self.translate(state, DIRECTION, a)
        scores = {f"{name}_{DIRECTION}": score for name, score in similarity.scores(fake, b).items()}
        return {"loss": self.objective.l1 * jnp.abs(fake - b).mean((1, 2, 3)), **scores}

    def translate(self, state, direction, image):
        """See capabilities.Translates."""
        return self.generator.apply({"params": state.params["generator"]}, image)

    def panel(self, state, batch, rng):
        a, b = self._pair(batch)
        shown = a, self.translate(state, DIRECTION, a), b
        channels = max(shape[-1] for shape in self.shapes.values())
        return jnp.stack([jnp.broadcast_to(x, (*x.shape[:3], channels)) for x in shown], 1)

    def _pair(self, batch):
        return [images.to_float(batch[name]["image"]) for name in ("a", "b")]

    def _logits(self, params, a, b):
        return self.discriminator.apply({"params": params}, jnp.concatenate([a, b], -1))

    def _d_loss(self, params, a, b, fake):
        """(half of the sum of its terms, metrics)."""
        terms = losses.ADVERSARIAL[self.objective.loss]
        real, made = jnp.split(self._logits(params, *(jnp.concatenate(both) for both in ((a, a), (b, fake)))), 2)
        loss = 0.5 * (terms.real(real).mean() + terms.fake(made).mean())
        return loss, {"logit_real": real.mean(), "logit_fake": made.mean()}

    def _g_loss(self, discriminator, fake, a, b):
        """(the generator's loss, its terms)."""
        adversarial = losses.ADVERSARIAL[self.objective.loss].generator(self._logits(discriminator, a, fake)).mean()
        l1 = self.objective.l1 * jnp.abs(b - fake).mean()
        return adversarial + l1, {"adversarial": adversarial, "l1": l1}


def _check_shapes(config, shapes):
    """Raises errors.UserError where the networks cannot make these images."""
    base.check_same_size(shapes)
    sides = shapes["a"][:2]
    if min(sides) < config.discriminator.least_side:
        raise errors.UserError(
            f"the discriminator takes no images of {sides} pixels: set --config.data.image_size to "
            f"{config.discriminator.least_side} or more, or --config.discriminator.layers to less"
        )
    if min(sides) <= 2 ** (config.network.levels - 1):
        raise errors.UserError(
            f"config.network.levels is {config.network.levels}: of {sides} pixels one is left before that; give less levels, "
            "or larger images by --config.data.image_size"
        )
