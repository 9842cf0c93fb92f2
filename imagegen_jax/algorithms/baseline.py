"""Generators that know little about images, so that the scores of the others have a scale.

random     every pixel uniform: the floor
histogram  every pixel on its own, as often of each value as in the training images
templates  I = C T: a mean image and a combination C of K learned templates T

One pass over the images teaches each of them all it can know; another changes next to nothing. None has a gradient.
"""

import abc
import dataclasses
import math
from typing import Annotated
from typing import ClassVar
from typing import Literal

import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import keys
from imagegen_jax.algorithms import base

_VALUES = 256  # of a uint8


class Model(abc.ABC):
    """What a baseline knows of images, as pure functions of its memory: a dict of arrays, kept in TrainState.extra."""

    @abc.abstractmethod
    def init(self, shape):
        """The memory before the first image, of images of this (h, w, c)."""

    @abc.abstractmethod
    def learn(self, memory, image):
        """The memory after (n, h, w, c) uint8 images more."""

    @abc.abstractmethod
    def loss(self, memory, image):
        """(n,) float32: how badly the memory describes each of (n, h, w, c) uint8 images."""

    @abc.abstractmethod
    def draw(self, memory, key, shape):
        """One new (h, w, c) float32 image, to be clipped to [-1, 1]."""


@dataclasses.dataclass(frozen=True)
class Random(Model):
    """Uniform pixels. The loss is 8 bits a dimension, whatever the image."""

    def init(self, shape):
        return {}

    def learn(self, memory, image):
        return memory

    def loss(self, memory, image):
        return jnp.full(len(image), 8.0)

    def draw(self, memory, key, shape):
        return images.to_float(jax.random.bits(key, shape, jnp.uint8))


@dataclasses.dataclass(frozen=True)
class Histogram(Model):
    """Independent pixels, each drawn as often of a value as the training images have it there.

    The loss is in bits a dimension, -log2 of (count + 1) / (images + 256): with Laplace's one more of every value, since one
    that never occurred would cost infinitely many bits. Nothing counted makes it uniform, at 8 bits.
    """

    def init(self, shape):
        return {"counts": jnp.zeros((*shape, _VALUES), jnp.int32)}

    def learn(self, memory, image):
        return {"counts": memory["counts"].at[(*np.indices(image.shape[1:]), image)].add(1)}

    def loss(self, memory, image):
        counts = memory["counts"]
        counted = counts[(*np.indices(image.shape[1:]), image)]
        bits = jnp.log2(counts.sum(-1) + _VALUES) - jnp.log2(counted + 1)
        return bits.mean((1, 2, 3))

    def draw(self, memory, key, shape):
        below = memory["counts"].cumsum(-1)  # inverts the distribution function, in whole numbers
        rank = jax.random.randint(key, (*shape, 1), 0, below[..., -1:])
        return images.to_float((below > rank).argmax(-1))


@dataclasses.dataclass(frozen=True)
class Templates(Model):
    """I = C T, with the mean image as a template whose coefficient is always 1: a Gaussian of low rank.

    T are the leading principal components, found by incremental singular value decomposition (Ross et al. 2008, section 3.1)
    in the memory of K images; exactly, where the images do lie in K dimensions. On these axes the coefficients of the training
    images are uncorrelated, so that a Gaussian with their full covariance is one with their variances, scale^2 / count.

    The loss is the squared error of the best C, averaged over pixels, on the scale of [-1, 1].

    Attributes:
      num: K.
    """

    num: int

    def init(self, shape):
        return {
            "mean": jnp.zeros(shape),
            "templates": jnp.zeros((self.num, *shape)),  # orthonormal
            "scale": jnp.zeros(self.num),  # singular values of the centred images, descending
            "count": jnp.zeros((), jnp.int32),  # images
        }

    def learn(self, memory, image):
        seen, new = memory["count"], len(image)
        total = seen + new
        # A sum of integers comes out the same however the devices share the batch.
        mean = images.to_float(image.sum(0, dtype=jnp.int32) / new)
        shift = jnp.sqrt(seen * (new / total)) * (mean - memory["mean"])  # lemma 1: what two means add
        known = memory["scale"][:, None, None, None] * memory["templates"]
        rows = jnp.concatenate([known, images.to_float(image) - mean, shift[None]]).reshape(self.num + new + 1, -1)
        _, scale, templates = jnp.linalg.svd(rows, full_matrices=False)
        return {
            "mean": memory["mean"] + new / total * (mean - memory["mean"]),
            "templates": templates[: self.num].reshape(memory["templates"].shape),
            "scale": scale[: self.num],
            "count": total,
        }

    def loss(self, memory, image):
        centred = images.to_float(image) - memory["mean"]
        coefficients = jnp.tensordot(centred, memory["templates"], ((1, 2, 3), (1, 2, 3)))
        return jnp.square(centred - jnp.tensordot(coefficients, memory["templates"], 1)).mean((1, 2, 3))

    def draw(self, memory, key, shape):
        # White noise has uncorrelated coefficients of variance 1; its image does not depend on the templates' signs and order.
        noise = jnp.tensordot(memory["templates"], jax.random.normal(key, shape), 3)
        deviation = memory["scale"] / jnp.sqrt(jnp.maximum(memory["count"], 1))
        return memory["mean"] + jnp.tensordot(deviation * noise, memory["templates"], 1)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The section `baseline`."""

    name: Literal["random", "histogram", "templates"] = "histogram"
    templates: Annotated[int, keys.AtLeast(1)] = 32  # how many (templates)


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of a baseline, which takes no gradients: there is no optimizer and no moving average."""

    baseline: Choice = Choice()


@dataclasses.dataclass(frozen=True)
class Baseline(base.Algorithm):
    """One of the models. A step's loss is that of the batch before it is learned, so of images not seen yet in the first epoch.

    Attributes:
      model: what is known of images.
      image_shape: (height, width, channels).
    """

    Config: ClassVar[type] = Config
    optimized: ClassVar[bool] = False
    classes: ClassVar[int] = 0

    model: Model
    image_shape: tuple[int, int, int]

    @classmethod
    def from_config(cls, config, spec, training):
        name, templates, values = config.baseline.name, config.baseline.templates, math.prod(spec.shape)
        if name == "templates" and templates > values:
            raise errors.UserError(
                f"config.baseline.templates is {templates}: it can be at most {values}, the values of an image"
            )
        models = {"random": Random(), "histogram": Histogram(), "templates": Templates(templates)}
        return cls(models[name], spec.shape)

    def init(self, rng):
        memory = self.model.init(self.image_shape)
        return base.TrainState(step=jnp.zeros((), jnp.int32), params={}, opt_state={}, ema_params={}, extra=memory)

    def train_step(self, state, batch, rng):
        loss = self.model.loss(state.extra, batch["image"]).mean()
        return state.replace(step=state.step + 1, extra=self.model.learn(state.extra, batch["image"])), {"loss": loss}

    def eval_step(self, state, batch, rng):
        return {"loss": self.model.loss(state.extra, batch["image"])}

    def sample(self, state, keys, condition, request):
        return jnp.clip(jax.vmap(lambda key: self.model.draw(state.extra, key, self.image_shape))(keys), -1.0, 1.0)
