"""Generative adversarial networks (Goodfellow et al. 2014): DCGAN, WGAN-GP, SNGAN and what lies between them.

A generator G makes images of noise z ~ N(0, I), a discriminator D tells them from real ones. With the terms of
adversarial/losses.py,

    D minimises   E real(D(x)) + E fake(D(G(z))) + weight E penalty                          `d_steps` times a step
    G minimises   E generator(D(G(z)))                                                       once a step

where the penalties are those of adversarial/penalties.py. One that is due at every k-th update alone counts k-fold there
(Karras et al. 2020b, section 4.1). Both players' last gradients of a step are taken at the same D, simultaneous gradient
descent: so D(G(z)) is computed once for both. Each update of D sees its own part of the step's batch and other noise.

Both networks may be told labels or texts, G by its normalisation and D by a projection (Miyato & Koyama 2018) or each beside
its input (Mirza & Osindero 2014); and D may classify images by labels, for both (Odena et al. 2017, equations 2 and 3).
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Annotated
from typing import Any
from typing import ClassVar
from typing import NamedTuple

from flax import linen as nn
import jax
from jax import numpy as jnp
import optax

from imagegen_jax import conditions as conditions_lib
from imagegen_jax import images
from imagegen_jax import keys
from imagegen_jax import placement
from imagegen_jax import rng as rng_lib
from imagegen_jax.adversarial import augmentation
from imagegen_jax.adversarial import losses
from imagegen_jax.adversarial import penalties
from imagegen_jax.adversarial import spectral_norm
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import gan_config
from imagegen_jax.networks import gan_blocks


@dataclasses.dataclass(frozen=True)
class Request:
    """The options of drawing."""

    truncation: Annotated[
        float | None, "GAN: draw the noise within so many standard deviations: less variety, fewer failures.", keys.Above(0)
    ] = None


@dataclasses.dataclass(frozen=True)
class Penalty:
    """What is added to the discriminator's loss.

    Attributes:
      of: a value of penalties.PENALTIES.
      weight: of its mean.
      every: updates of D from one to the next.
    """

    of: Callable
    weight: float
    every: int = 1


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What images go through before the discriminator sees them.

    Attributes:
      policy: keys of augmentation.TRANSFORMATIONS.
      target: of augmentation.adapted, where the probability of each rises from 0; None: it is 1.
      span: of augmentation.adapted.
    """

    policy: tuple[str, ...] = ()
    target: float | None = None
    span: float = math.inf


class DiscriminatorUpdate(NamedTuple):
    """What comes of one look of the discriminator at real and generated images.

    Attributes:
      gradients: of its own loss.
      on_fake: gan_blocks.DiscriminatorOutput on the generated images.
      on_real: the same on the real ones.
      vjp: the gradient of any loss by `on_fake` -> its gradient by the generated images.
      extra: what the state is to remember.
      metrics: scalars.
    """

    gradients: Any
    on_fake: gan_blocks.DiscriminatorOutput
    on_real: gan_blocks.DiscriminatorOutput
    vjp: Callable
    extra: dict[str, Any]
    metrics: base.Metrics


@dataclasses.dataclass(frozen=True)
class Gan(base.Algorithm):
    """A GAN of images of one shape.

    Attributes:
      generator: (z (n, latent), condition, train) -> images.
      discriminator: (images, condition, train) -> gan_blocks.DiscriminatorOutput.
      image_shape: (height, width, channels).
      latent: dimensions of the noise.
      adversarial: which terms to play for.
      optimizer: optax transformation of the generator.
      d_optimizer: that of the discriminator.
      ema_decay: step -> decay of the generator's moving average.
      d_steps: updates of the discriminator a step.
      penalty: on the discriminator's gradient; None for none.
      spectral: whether the discriminator's weights are normalised by their largest singular values.
      auxiliary: weight of the auxiliary classification.
      augmentation: what both kinds of images go through.
      classes: labels that the networks are told; 0 for none.
      text: the conditions.Text that they are told; None for none.
    """

    Config: ClassVar[type] = gan_config.Config
    Request: ClassVar[type] = Request
    defaults: ClassVar[dict[str, Any]] = {"optimizer.b1": 0.5, "optimizer.clip_norm": 0.0, "ema.decay": 0.999}
    prior_is_normal: ClassVar[bool] = True
    hint: ClassVar[str] = (
        "try --config.gan.penalty=r1, --config.augment.policy='(\"translation\",)', --config.discriminator.mbstd_group_size=4, "
        "a lower --config.optimizer.lr or --config.discriminator.norm=spectral, in a new workdir"
    )

    generator: nn.Module
    discriminator: nn.Module
    image_shape: tuple[int, int, int]
    latent: int
    adversarial: losses.Adversarial
    optimizer: optax.GradientTransformation
    d_optimizer: optax.GradientTransformation
    ema_decay: Callable
    d_steps: int = 1
    penalty: Penalty | None = None
    spectral: bool = False
    auxiliary: float = 0.0
    augmentation: Augmentation = Augmentation()
    classes: int = 0
    text: conditions_lib.Text | None = None

    @classmethod
    def from_config(cls, config, spec, training):
        return cls(**parts(config, spec, training))

    @property
    def latent_shape(self):
        """(d,), of the noise."""
        return (self.latent,)

    def init(self, rng):
        keys = jax.random.split(rng, 3)
        generator = self.generator.init(keys[0], jnp.zeros((1, self.latent)), self._some_condition(1))
        # As many images as any group of them may need.
        blank = jnp.zeros((getattr(self.discriminator, "mbstd_group_size", 0) or 1, *self.image_shape))
        discriminator = self.discriminator.init(keys[1], blank, self._some_condition(len(blank)))
        params = {"generator": generator["params"], "discriminator": discriminator["params"]}
        optimizers = {"generator": self.optimizer, "discriminator": self.d_optimizer}
        stats = generator.get("batch_stats", {})
        extra = {
            "discriminator_stats": discriminator.get("batch_stats", {}),
            "singular_vectors": spectral_norm.start(keys[2], params["discriminator"]) if self.spectral else {},
            "augmentation": jnp.float32(0.0),
        }
        return base.TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state={name: optimizers[name].init(params[name]) for name in params},
            ema_params={"generator": params["generator"]},
            extra=extra | base.with_averages({"generator_stats": stats}),
        )

    def train_step(self, state, batch, rng):
        microbatches = self._microbatches(state, batch, rng)
        if self.d_steps > 1:  # unrolled: XLA:CPU needs ten times as long for convolutions inside a loop
            state, _ = jax.lax.scan(self._train_discriminator, state, jax.tree.map(lambda x: x[:-1], microbatches), unroll=True)
        return self._train_all(state, jax.tree.map(lambda x: x[-1], microbatches))

    def eval_step(self, state, batch, rng):
        real, condition = images.to_float(batch["image"]), batch["condition"]
        fake = self.decode(state, self._noise(rng_lib.per_index(rng, batch["index"])), condition)
        params, _ = spectral_norm.normalise(state.params["discriminator"], state.extra["singular_vectors"])
        variables = {"params": params, "batch_stats": state.extra["discriminator_stats"]}
        on_real, on_fake = (self.discriminator.apply(variables, x, condition) for x in (real, fake))
        loss = self.adversarial.real(on_real.logits) + self.adversarial.fake(on_fake.logits)
        return {"loss": loss} | self._accuracies(on_real, on_fake)

    def sample(self, state, keys, condition, request):
        return self.decode(state, self._noise(keys, request.truncation), condition)

    def decode(self, state, latents, condition):
        variables = {"params": state.params["generator"], "batch_stats": state.extra["generator_stats"]}
        return self.generator.apply(variables, latents, self._some_condition(len(latents)) | dict(condition))

    def _some_condition(self, n):
        """What n images are told if nothing is said: no words, and the first of the labels."""
        return {"label": jnp.zeros(n, jnp.int32)} | ({"text": self.text.null(n)} if self.text else {})

    def _noise(self, keys, truncation=None):
        """(n, latent) of n keys (truncated: Brock et al. 2019, section 3.1)."""
        if truncation is None:
            return jax.vmap(lambda key: jax.random.normal(key, (self.latent,)))(keys)
        return jax.vmap(lambda key: jax.random.truncated_normal(key, -truncation, truncation, (self.latent,)))(keys)

    def _training_noise(self, n, rng):
        """(n, latent) for n real images."""
        return placement.divided(jax.random.normal(rng, (n, self.latent)))

    def _microbatches(self, state, batch, rng):
        """(real, condition, key, number) of each of the step's updates of the discriminator, along a first axis."""
        shown = images.to_float(batch["image"]), batch["condition"]
        # Update k has rows k, k + d_steps, ...: each device's share of the batch stays on it.
        parts = jax.tree.map(lambda x: x.reshape(-1, self.d_steps, *x.shape[1:]).swapaxes(0, 1), shown)
        return *parts, jax.random.split(rng, self.d_steps), state.step * self.d_steps + jnp.arange(self.d_steps)

    def _generate(self, params, stats, z, condition):
        """(images, batch statistics), in training."""
        variables = {"params": params, "batch_stats": stats}
        fake, updated = self.generator.apply(variables, z, condition, train=True, mutable=["batch_stats"])
        return fake, updated.get("batch_stats", {})

    def _train_discriminator(self, state, microbatch):
        """(state, None) after an update of the discriminator alone."""
        real, condition, rng, number = microbatch
        fake, of_fake, rng = self._fakes(state, real, condition, rng)
        update = self._update_discriminator(state, real, fake, condition, of_fake, rng, number)
        state = state.replace(extra=state.extra | update.extra)
        return base.update(state, "discriminator", update.gradients, self.d_optimizer), None

    def _fakes(self, state, real, condition, rng):
        """What an update of the discriminator alone is shown: (images, their condition, key of the rest)."""
        noise_rng, rng = jax.random.split(rng)
        z = self._training_noise(len(real), noise_rng)
        return self._generate(state.params["generator"], state.extra["generator_stats"], z, condition)[0], condition, rng

    def _train_all(self, state, microbatch):
        """(state, metrics) after an update of all networks."""
        real, condition, rng, number = microbatch
        noise_rng, rng = jax.random.split(rng)
        z = self._training_noise(len(real), noise_rng)

        def generate(params):
            return self._generate(params, state.extra["generator_stats"], z, condition)

        fake, vjp, stats = jax.vjp(generate, state.params["generator"], has_aux=True)
        update = self._update_discriminator(state, real, fake, condition, condition, rng, number)
        loss, gradient = jax.value_and_grad(self._g_loss)(update.on_fake, condition)
        (gradients,) = vjp(update.vjp(gradient))
        return self._updated(state, update, {"generator": gradients}, {"generator_stats": stats}, {"loss": loss})

    def _update_discriminator(self, state, real, fake, of_real, of_fake, rng, number):
        """The DiscriminatorUpdate of the discriminator's update of this number, at its present parameters.

        There may be several kinds of generated images, one after the other, of each as many as real ones and with their labels.
        """
        real_rng, fake_rng, penalty_rng = jax.random.split(rng, 3)
        look = functools.partial(self._discriminate, state)
        stats = state.extra["discriminator_stats"]
        weights, weights_vjp, vectors = jax.vjp(
            lambda params: spectral_norm.normalise(params, state.extra["singular_vectors"]),
            state.params["discriminator"],
            has_aux=True,
        )
        on_real, real_vjp, stats = jax.vjp(lambda weights: look(weights, stats, real, of_real, real_rng), weights, has_aux=True)
        on_fake, fake_vjp, stats = jax.vjp(
            lambda weights, image: look(weights, stats, image, of_fake, fake_rng), weights, fake, has_aux=True
        )
        d_loss = jax.value_and_grad(self._d_loss)
        real_loss, real_gradient = d_loss(on_real, of_real, self.adversarial.real)
        fake_loss, fake_gradient = d_loss(on_fake, of_fake, self.adversarial.fake)
        gradients = optax.tree.add(real_vjp(real_gradient)[0], fake_vjp(fake_gradient)[0])
        metrics = {
            "discriminator": real_loss + fake_loss,
            "logit_real": on_real.logits.mean(),
            "logit_fake": on_fake.logits.mean(),
        }
        metrics |= {name: correct.mean() for name, correct in self._accuracies(on_real, on_fake).items()}
        if self.penalty:
            mixed = _alternating(fake, len(real), number // self.penalty.every)

            def penalise(weights):
                def logits(image):
                    return look(weights, stats, image, of_real, real_rng)[0].logits

                value = self.penalty.of(logits, real, mixed, penalty_rng).mean()
                return self.penalty.weight * self.penalty.every * value

            metrics["penalty"], penalty_gradients = self._lazily(jax.value_and_grad(penalise), weights, number)
            gradients = optax.tree.add(gradients, penalty_gradients)
        (gradients,) = weights_vjp(gradients)
        metrics["grad_norm_discriminator"] = optax.tree.norm(gradients)

        extra = {"discriminator_stats": stats, "singular_vectors": vectors}
        if self.augmentation.target is not None:
            before, rule = state.extra["augmentation"], self.augmentation
            above = on_real.logits - self.adversarial.boundary
            metrics["augmentation"] = augmentation.adapted(before, above, rule.target, rule.span)
            extra["augmentation"] = metrics["augmentation"]
        return DiscriminatorUpdate(gradients, on_fake, on_real, lambda gradient: fake_vjp(gradient)[1], extra, metrics)

    def _discriminate(self, state, weights, stats, image, condition, rng):
        """(gan_blocks.DiscriminatorOutput on transformed images, batch statistics), in training."""
        probability = None if self.augmentation.target is None else state.extra["augmentation"]
        shown = augmentation.augment(rng, image, self.augmentation.policy, probability)
        variables = {"params": weights, "batch_stats": stats}
        output, updated = self.discriminator.apply(variables, shown, condition, train=True, mutable=["batch_stats"])
        return output, updated.get("batch_stats", {})

    def _accuracies(self, on_real, on_fake):
        """(n,) float32, 1 where the discriminator tells an image's kind; nothing where the loss has no decision boundary."""
        boundary = self.adversarial.boundary
        if boundary is None:
            return {}
        told = {"accuracy_real": on_real.logits > boundary, "accuracy_fake": on_fake.logits < boundary}
        return {name: correct.astype(jnp.float32) for name, correct in told.items()}

    def _d_loss(self, output, condition, term):
        """The discriminator's loss on images of one kind."""
        return term(output.logits).mean() + self._aux_class_loss(output, condition)

    def _g_loss(self, output, condition):
        """The generator's loss."""
        return self.adversarial.generator(output.logits).mean() + self._aux_class_loss(output, condition)

    def _aux_class_loss(self, output, condition):
        """The auxiliary classification's loss, of both networks."""
        if not self.auxiliary:
            return 0.0
        return self.auxiliary * optax.softmax_cross_entropy_with_integer_labels(output.classes, condition["label"]).mean()

    def _lazily(self, value_and_grad, weights, number):
        """(value, gradient), zeros but at every so many updates."""
        if self.penalty.every == 1:
            return value_and_grad(weights)
        due = number % self.penalty.every == 0
        if jax.default_backend() == "cpu" and jax.process_count() > 1:
            # XLA:CPU may start collectives that come after a condition before those inside it are over, in one process and not
            # in another, and gloo takes one for the other (jaxlib 0.10.1).
            return jax.tree.map(lambda x: jnp.where(due, x, jnp.zeros_like(x)), value_and_grad(weights))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(value_and_grad, weights))
        return jax.lax.cond(due, value_and_grad, lambda weights: zeros, weights)

    def _updated(self, state, update, gradients, stats, metrics):
        """(state, metrics) after an update of the discriminator and of the networks that there are `gradients` of.

        `stats` are batch statistics by their names in the state, which their averages have too.
        """
        metrics |= update.metrics | {f"grad_norm_{name}": optax.tree.norm(value) for name, value in gradients.items()}
        metrics["param_norm"] = optax.tree.norm(state.params)
        state = base.update_averaged(state.replace(extra=state.extra | update.extra), stats, self.ema_decay)
        for name, value in gradients.items():
            state = base.update(state, name, value, self.optimizer, self.ema_decay)
        state = base.update(state, "discriminator", update.gradients, self.d_optimizer)
        ours, average = state.params["generator"], state.ema_params["generator"]
        metrics["ema_distance"] = optax.tree.norm(optax.tree.sub(ours, average)) / optax.tree.norm(ours)
        return state.replace(step=state.step + 1), metrics


def _alternating(images, n, number):
    """n images: of the kinds that follow each other in (kinds n, h, w, c), each in turn, the first one by `number`."""
    kinds = len(images) // n
    if kinds == 1:
        return images
    which = (jnp.arange(n) + number) % kinds
    return images.reshape(kinds, n, *images.shape[1:])[which, jnp.arange(n)]


def parts(config, spec, training):
    """The fields of a Gan, as keyword arguments; arguments and errors are those of Algorithm.from_config."""
    gan_config.check(config, spec, training.batch_size)
    gan, augment = config.gan, config.augment
    told = base.told_conditions(gan, spec, "gan")
    generator, discriminator = gan_config.build(config, spec.shape, told)
    penalty = None
    if gan.penalty != "none":
        penalty = Penalty(penalties.PENALTIES[gan.penalty], gan.penalty_weight, gan.penalty_every)
    adaptive = dict(target=augment.target, span=augment.span) if augment.adaptive else {}
    return dict(
        generator=generator,
        discriminator=discriminator,
        image_shape=spec.shape,
        latent=config.network.latent,
        adversarial=losses.adversarial(gan.loss, gan.label_smoothing),
        optimizer=training.optimizer,
        d_optimizer=optax.chain(training.repeated(gan.d_steps), optax.scale(config.discriminator.lr_ratio)),
        ema_decay=training.ema_decay,
        d_steps=gan.d_steps,
        penalty=penalty,
        spectral=config.discriminator.norm == "spectral",
        auxiliary=gan.auxiliary,
        augmentation=Augmentation(augment.policy, **adaptive),
        classes=conditions_lib.classes(told),
        text=told.get("text"),
    )
