"""Classifying images: not a generator, but the judge of generators.

Its features are what distances between sets of images are measured in, and its decisions say of which class a generated image
is (imagegen_jax/evaluation/features.py).
"""

from collections.abc import Callable
import dataclasses

from flax import linen as nn
import jax
from jax import numpy as jnp
import optax

from imagegen_jax import degradation
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.algorithms import base
from imagegen_jax.networks import classifier


@dataclasses.dataclass(frozen=True)
class Classifier(base.Algorithm):
    """A classifier of images of one shape, trained by cross-entropy, and by how much blur and noise images were given.

    Attributes:
      network: (n, h, w, c) -> (features, logits, estimates of what `degradation.degrade` did).
      image_shape: (height, width, channels).
      label_smoothing: share of a label that is spread over all classes (Szegedy et al. 2016, section 7).
      degradation: share of the training images that are blurred, and of those that are given noise; 0: there are no estimates.
      estimate_weight: of the squared error of the estimates, which are of numbers in [0, 1].
      optimizer: optax transformation.
      ema_decay: step -> decay of the moving average.
      accumulate: pieces in which a batch's gradient is computed.
    """

    draws = False

    network: nn.Module
    image_shape: tuple[int, int, int]
    label_smoothing: float
    degradation: float
    estimate_weight: float
    optimizer: optax.GradientTransformation
    ema_decay: Callable
    accumulate: int = 1

    @classmethod
    def from_config(cls, config, spec, training):
        if not spec.classes:
            raise errors.UserError(
                f"the images of {config.data.source} have no labels: put them in one sub-folder a class, or name another source"
            )
        if not config.network.widths:
            raise errors.UserError("config.network.widths is (): give one at least")
        share = config.classifier.degradation
        if not 0 <= share < 1:
            raise errors.UserError(f"config.classifier.degradation is {share}: give a share of the images, below 1")
        network = dict(config.network, widths=tuple(config.network.widths), estimates=2 if share else 0)
        return cls(
            network=classifier.Classifier(spec.classes, **network),
            image_shape=spec.shape,
            label_smoothing=config.classifier.label_smoothing,
            degradation=share,
            estimate_weight=config.classifier.estimate_weight,
            optimizer=training.optimizer,
            ema_decay=training.ema_decay,
            accumulate=config.optimizer.accumulate,
        )

    def init(self, rng):
        params = self.network.init(rng, jnp.zeros((1, *self.image_shape)))["params"]
        return base.first_state("classifier", params, self.optimizer)

    def train_step(self, state, batch, rng):
        def loss(params, examples, rng):
            image, label, degraded = examples
            _, logits, estimates = self.network.apply({"params": params}, image, train=True, rngs={"dropout": rng})
            target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), self.label_smoothing)
            value = optax.softmax_cross_entropy(logits, target).mean()
            metrics = {"accuracy": _hits(logits, label).mean()}
            if self.degradation:
                metrics["degradation_loss"] = jnp.square(estimates - degraded).mean()
                value += self.estimate_weight * metrics["degradation_loss"]
            return value, metrics

        params = state.params["classifier"]
        image, degraded = batch["image"], None
        if self.degradation:
            image, degraded = degradation.degrade(jax.random.fold_in(rng, 1), image, self.degradation)
        examples = images.to_float(image), batch["label"], degraded
        (value, metrics), grads = base.value_and_grad(loss, params, examples, rng, self.accumulate)
        metrics |= {"loss": value, "grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
        state = base.update(state, "classifier", grads, self.optimizer, self.ema_decay)
        return state.replace(step=state.step + 1), metrics

    def eval_step(self, state, batch, rng):
        _, logits, _ = self.network.apply({"params": state.params["classifier"]}, images.to_float(batch["image"]))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return {"loss": loss, "accuracy": _hits(logits, batch["label"])}

    def sample(self, state, rng, request):
        raise NotImplementedError("a classifier draws nothing")

    def check_request(self, request):
        raise errors.UserError("a classifier draws no images: python -m experiments.evaluate --features=WORKDIR scores with it")


def _hits(logits, label):
    return (logits.argmax(-1) == label).astype(jnp.float32)
