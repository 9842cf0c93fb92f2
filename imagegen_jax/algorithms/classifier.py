"""Classifying images: not a generator, but what generators are scored with.

Its features are what distances between sets of images are measured in, and its decisions say of which class a generated image
is (imagegen_jax/evaluation/features.py).
"""

import dataclasses
from typing import Annotated
from typing import ClassVar

from flax import linen as nn
import jax
from jax import numpy as jnp
import optax

from imagegen_jax import degradation
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import keys
from imagegen_jax.algorithms import base
from imagegen_jax.networks import blocks
from imagegen_jax.networks import classifier


@dataclasses.dataclass(frozen=True)
class Objective:
    """The section `classifier`."""

    label_smoothing: Annotated[float, keys.AtLeast(0), keys.AtMost(1)] = 0.1
    # Share of images that are blurred, and given noise, which is to be estimated beside the class.
    degradation: Annotated[float, keys.AtLeast(0), keys.Below(1)] = 0.0
    estimate_weight: float = 1.0  # of the estimates' squared error, beside the cross-entropy of classes


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of a classifier."""

    network: classifier.Config = classifier.Config()
    classifier: Objective = Objective()


@dataclasses.dataclass(frozen=True)
class Classifier(base.Algorithm):
    """A classifier of images of one shape, trained by cross-entropy, and by how much blur and noise images were given.

    Attributes:
      network: (n, h, w, c) -> (features, logits, estimates of what `degradation.degrade` did).
      image_shape: (height, width, channels).
      objective: with a share of each label spread over all classes (Szegedy et al. 2016, section 7), and with estimates, of
        numbers in [0, 1], unless the share of degraded images is 0.
      training: how it is optimised.
    """

    Config: ClassVar[type] = Config

    network: nn.Module
    image_shape: tuple[int, int, int]
    objective: Objective
    training: base.Training

    @classmethod
    def from_config(cls, config, spec, training):
        if not spec.classes:
            raise errors.UserError("the images have no labels: put them in one sub-folder a class, or name another source")
        network = blocks.from_config(
            classifier.Classifier,
            config.network,
            classes=spec.classes,
            estimates=2 if config.classifier.degradation else 0,
        )
        return cls(network, spec.shape, config.classifier, training)

    def init(self, rng):
        params = self.network.init(rng, jnp.zeros((1, *self.image_shape)))["params"]
        return base.first_state("classifier", params, self.training)

    def train_step(self, state, batch, rng):
        aim = self.objective

        def loss(params, examples, rng):
            image, label, degraded = examples
            _, logits, estimates = self.network.apply({"params": params}, image, train=True, rngs={"dropout": rng})
            target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), aim.label_smoothing)
            value = optax.softmax_cross_entropy(logits, target).mean()
            metrics = {"accuracy": _hits(logits, label).mean()}
            if aim.degradation:
                metrics["degradation_loss"] = jnp.square(estimates - degraded).mean()
                value += aim.estimate_weight * metrics["degradation_loss"]
            return value, (metrics, {})

        image, degraded = batch["image"], None
        if aim.degradation:
            image, degraded = degradation.degrade(jax.random.fold_in(rng, 1), image, aim.degradation)
        examples = images.to_float(image), batch["condition"]["label"], degraded
        return base.train_step(self.training, state, "classifier", loss, examples, rng)

    def eval_step(self, state, batch, rng):
        _, logits, _ = self.network.apply({"params": state.params["classifier"]}, images.to_float(batch["image"]))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["condition"]["label"])
        return {"loss": loss, "accuracy": _hits(logits, batch["condition"]["label"])}

    def classify(self, state, image):
        """See capabilities.Classifies."""
        return self.network.apply({"params": state.params["classifier"]}, images.to_float(image))[:2]

    def maps(self, state, x):
        """See capabilities.Perceives."""
        _, made = self.network.apply({"params": state.params["classifier"]}, x, mutable=["maps"])
        return made["maps"]["levels"]

    def map_weights(self, state):
        """See capabilities.Perceives."""
        return None


def _hits(logits, label):
    return (logits.argmax(-1) == label).astype(jnp.float32)
