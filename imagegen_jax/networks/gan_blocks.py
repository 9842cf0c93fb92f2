"""What the generators and discriminators of images from noise have in common. Activations are NHWC."""

from typing import NamedTuple

from flax import linen as nn
import jax
from jax import numpy as jnp

from imagegen_jax.networks import blocks

CONDITIONINGS = ("projection", "concat")


class DiscriminatorOutput(NamedTuple):
    """What a discriminator makes of images.

    Attributes:
      logits: (n,) float32, positive for what it takes for real.
      classes: (n, classes) float32 logits of their classes, or None.
      features: (n, h, w, c) activations of its last level.
    """

    logits: jax.Array
    classes: jax.Array | None
    features: jax.Array


def said(condition, classes, text):
    """What images are to show, and of how many numbers that is.

    Args:
      condition: with 'label' or 'text' where there is one.
      classes: labels; 0 for none.
      text: what reads the text (text_encoder.build) of a network that is told one; None of others.

    Returns:
      ((n,) int32 labels, classes) or ((n, width) meanings of texts, width), or (None, 0).
    """
    if text is None:
        return (condition["label"], classes) if classes else (None, 0)
    pooled = text(condition["text"]).pooled
    return pooled, pooled.shape[-1]


def table(told, numbers, features, init, name, dtype=jnp.float32, **dense):
    """(n, features) of what images are told: a row for each label, or a linear layer of a text's meaning."""
    if told.ndim == 1:
        return nn.Embed(numbers, features, embedding_init=init, dtype=dtype, name=name)(told)
    return nn.Dense(features, dtype=dtype, name=name, **dense)(told)


class BatchNorm(nn.Module):
    """Batch normalisation; scale and bias are those of what an image is told, if it is told (de Vries et al. 2017).

    Attributes:
      told: numbers of `said`; 0 where all images share scale and bias.
      dtype: of the result; statistics are float32, of the whole batch on all devices.
    """

    told: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, said, train):
        own = not self.told
        x = nn.BatchNorm(not train, momentum=blocks.MOMENTUM, epsilon=1e-5, use_scale=own, use_bias=own, dtype=self.dtype)(x)
        if own:
            return x
        around_one = lambda *args: 1 + nn.initializers.normal(0.02)(*args)  # noqa: E731
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        made = said, self.told, x.shape[-1]
        scale = table(*made, around_one, "scale", self.dtype, kernel_init=nn.initializers.normal(0.02), bias_init=ones)
        bias = table(*made, zeros, "bias", self.dtype, kernel_init=nn.initializers.normal(0.02))
        return x * scale[:, None, None] + bias[:, None, None]


class SelfAttention(nn.Module):
    """Attention between all places of a map, which begins as the identity (Zhang et al. 2019, section 3).

    Keys and values are halved by a maximum over 2x2 places, as in the authors' code.

    Attributes:
      dtype: of the computation.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        n, h, w, c = x.shape

        def project(features):
            return nn.Dense(features, use_bias=False, dtype=self.dtype)

        def halved(x):
            x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, -1)
            return x.max((2, 4)).reshape(n, -1, x.shape[-1])

        queries = project(max(c // 8, 1))(x).reshape(n, h * w, -1)
        keys, values = halved(project(max(c // 8, 1))(x)), halved(project(max(c // 2, 1))(x))
        attention = nn.softmax(jnp.einsum("nqc,nkc->nqk", queries, keys).astype(jnp.float32)).astype(self.dtype)
        seen = jnp.einsum("nqk,nkc->nqc", attention, values).reshape(n, h, w, -1)
        gain = self.param("gain", nn.initializers.zeros, ())
        return x + (gain * project(c)(seen)).astype(x.dtype)


class MinibatchStddev(nn.Module):
    """Adds a channel that says how much the images beside an image differ (Karras et al. 2018, section 3).

    In training: the standard deviation over groups of images, averaged over places and channels. Otherwise the running mean
    of that, so that the output on an image depends on it alone.

    Attributes:
      group: images; it must divide the batch.
    """

    group: int

    @nn.compact
    def __call__(self, x, train):
        running = self.variable("batch_stats", "stddev", jnp.zeros, ())
        if train:
            # Image i is in the group of i + n / group, i + 2 n / group, ...
            grouped = x.astype(jnp.float32).reshape(self.group, -1, *x.shape[1:])
            deviation = jnp.sqrt(grouped.var(0) + 1e-8).mean((1, 2, 3))
            if not self.is_initializing():
                running.value = blocks.MOMENTUM * running.value + (1 - blocks.MOMENTUM) * deviation.mean()
            added = jnp.tile(deviation, self.group)[:, None, None, None]
        else:
            added = running.value
        return jnp.concatenate([x, jnp.broadcast_to(added, (*x.shape[:3], 1)).astype(x.dtype)], -1)


class Head(nn.Module):
    """The output on the last features of images.

    Attributes:
      told: numbers of `said`, on which the output depends by a projection (Miyato & Koyama 2018, equation 3); 0 for none.
      aux_classes: labels that it also classifies images by (Odena et al. 2017); 0 for none.
      kernel_init: of all but the first, which has its own.
    """

    told: int
    aux_classes: int
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, final, pooled, said, features):
        """The gan_blocks.DiscriminatorOutput.

        Args:
          final: (n, d), of which the logit is a linear function.
          pooled: (n, k), which is compared with what is said.
          said: see the function.
          features: of the DiscriminatorOutput.
        """
        final, pooled = final.astype(jnp.float32), pooled.astype(jnp.float32)
        logits = nn.Dense(1, kernel_init=self.kernel_init, name="logit")(final)[:, 0]
        if self.told:
            made = said, self.told, pooled.shape[-1]
            embedded = table(*made, self.kernel_init, "projection", kernel_init=self.kernel_init)
            logits += (embedded * pooled).sum(-1)
        class_logits = None
        if self.aux_classes:
            class_logits = nn.Dense(self.aux_classes, kernel_init=self.kernel_init, name="classes")(pooled)
        return DiscriminatorOutput(logits, class_logits, features)


def with_planes(x, said, told):
    """(n, h, w, c) with a plane for each of the numbers that are told, of one value each: those of `as_numbers`."""
    planes = as_numbers(said, told).astype(x.dtype)[:, None, None]
    return jnp.concatenate([x, jnp.broadcast_to(planes, (*x.shape[:3], told))], -1)


def as_numbers(said, told):
    """(n, told): of a label a 1 in its place and zeros elsewhere, of a text its meaning."""
    return jax.nn.one_hot(said, told) if said.ndim == 1 else said
