"""Classifying noisy images, to guide a diffusion (Dhariwal & Nichol 2021, section 4).

The log signal-to-noise ratio lambda and x_t / sqrt(alpha^2 + sigma^2) say all that a classifier can know of x_t, whatever the
process. It is trained on those of the variance-preserving process, and serves a diffusion of any.
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
from imagegen_jax import rng as rng_lib
from imagegen_jax.algorithms import base
from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import schedules
from imagegen_jax.diffusion import times as times_lib
from imagegen_jax.networks import blocks
from imagegen_jax.networks import classifier


@dataclasses.dataclass(frozen=True)
class Noise(keys.section(times_lib.Times, without=("process",))):
    """The section `noise`: how often a noise level is trained on. `mean`, `std` and `shift` are those of times.Times."""

    times: Annotated[str, keys.OneOf(times_lib.NAMES)] = "uniform"
    schedule: Annotated[str, keys.OneOf(schedules.CURVES)] = "cosine"  # of which they are times


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of a classifier of noisy images."""

    network: classifier.Config = classifier.Config()
    noise: Noise = Noise()


@dataclasses.dataclass(frozen=True)
class NoisyClassifier(base.Algorithm):
    """A classifier of noisy images of one shape, trained by cross-entropy.

    Attributes:
      network: ((n, h, w, c), log_snr (n,)) -> (features, logits, nothing).
      image_shape: (height, width, channels).
      classes: number of labels.
      times: the times_lib.Times of training, of a variance-preserving process.
      training: how it is optimised.
    """

    Config: ClassVar[type] = Config

    network: nn.Module
    image_shape: tuple[int, int, int]
    classes: int
    times: times_lib.Times
    training: base.Training

    @classmethod
    def from_config(cls, config, spec, training):
        if not spec.classes:
            raise errors.UserError("the images have no labels: put them in one sub-folder a class, or name another source")
        noise = config.noise
        process = processes.Continuous(schedules.CURVES[noise.schedule])
        times = times_lib.Times(process, noise.times, noise.mean, noise.std, noise.shift)
        network = blocks.from_config(classifier.Classifier, config.network, classes=spec.classes)
        return cls(network, spec.shape, spec.classes, times, training)

    def init(self, rng):
        params = self.network.init(rng, jnp.zeros((1, *self.image_shape)), jnp.zeros(1))["params"]
        return base.first_state("classifier", params, self.training)

    def train_step(self, state, batch, rng):
        t_rng, eps_rng, dropout_rng = jax.random.split(rng, 3)
        x0 = images.to_float(batch["image"])
        noisy = self._noisy(x0, self.times.spread(t_rng, len(x0)), jax.random.normal(eps_rng, x0.shape))

        def loss(params, examples, rng):
            noisy, label = examples
            _, logits, _ = self.network.apply({"params": params}, *noisy, train=True, rngs={"dropout": rng})
            metrics = _metrics(logits, label)
            return metrics["loss"].mean(), ({"accuracy": metrics["accuracy"].mean()}, {})

        return base.train_step(self.training, state, "classifier", loss, (noisy, batch["condition"]["label"]), dropout_rng)

    def eval_step(self, state, batch, rng):
        """As in training each image has a random noise level."""

        def noise(key):
            t_key, eps_key = jax.random.split(key)
            return self.times.draw(t_key), jax.random.normal(eps_key, self.image_shape)

        t, eps = jax.vmap(noise)(rng_lib.per_index(rng, batch["index"]))
        _, logits = self._classify(state, *self._noisy(images.to_float(batch["image"]), t, eps))
        return _metrics(logits, batch["condition"]["label"])

    def log_prob(self, state, x_t, level, label):
        """See capabilities.ClassifiesNoisy."""
        log_snr = jnp.broadcast_to(-2 * jnp.log(jnp.ravel(level.noise_ratio)), len(x_t))
        _, logits = self._classify(state, x_t / level.norm, log_snr)
        return -optax.softmax_cross_entropy_with_integer_labels(logits, label)

    def classify(self, state, image):
        """See capabilities.Classifies. Images without noise are told as those of the least that is trained on."""
        log_snr = self.times.process.log_snr(jnp.full(len(image), self.times.process.least))
        return self._classify(state, images.to_float(image), log_snr)

    def _noisy(self, x0, t, eps):
        """(x_t, lambda) of images, times and noise."""
        level = self.times.process.level(t).for_images(x0.ndim)
        return level.alpha * x0 + level.sigma * eps, self.times.process.log_snr(t)

    def _classify(self, state, x, log_snr):
        """(features, logits) of x_t / sqrt(alpha^2 + sigma^2)."""
        return self.network.apply({"params": state.params["classifier"]}, x, log_snr)[:2]


def _metrics(logits, label):
    """(n,) each."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return {"loss": loss, "accuracy": (logits.argmax(-1) == label).astype(jnp.float32)}
