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


class BatchNorm(nn.Module):
    """Batch normalisation; scale and bias are those of an image's class where there are classes (de Vries et al. 2017).

    Attributes:
      classes: labels; 0 where all images share scale and bias.
      dtype: of the result; statistics are float32, of the whole batch on all devices.
    """

    classes: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, label, train):
        own = not self.classes
        x = nn.BatchNorm(not train, momentum=blocks.MOMENTUM, epsilon=1e-5, use_scale=own, use_bias=own, dtype=self.dtype)(x)
        if own:
            return x
        around_one = lambda *args: 1 + nn.initializers.normal(0.02)(*args)  # noqa: E731
        scale = nn.Embed(self.classes, x.shape[-1], embedding_init=around_one, dtype=self.dtype, name="scale")(label)
        bias = nn.Embed(self.classes, x.shape[-1], embedding_init=nn.initializers.zeros, dtype=self.dtype, name="bias")(label)
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
      classes: labels that the output depends on by a projection (Miyato & Koyama 2018, equation 3); 0 for none.
      aux_classes: labels that it also classifies images by (Odena et al. 2017); 0 for none.
      kernel_init: of all but the first, which has its own.
    """

    classes: int
    aux_classes: int
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, final, pooled, label, features):
        """The gan_blocks.DiscriminatorOutput.

        Args:
          final: (n, d), of which the logit is a linear function.
          pooled: (n, k), which is compared with the classes.
          label: (n,) int32.
          features: of the DiscriminatorOutput.
        """
        final, pooled = final.astype(jnp.float32), pooled.astype(jnp.float32)
        logits = nn.Dense(1, kernel_init=self.kernel_init, name="logit")(final)[:, 0]
        if self.classes:
            embedded = nn.Embed(self.classes, pooled.shape[-1], embedding_init=self.kernel_init, name="projection")(label)
            logits += (embedded * pooled).sum(-1)
        class_logits = None
        if self.aux_classes:
            class_logits = nn.Dense(self.aux_classes, kernel_init=self.kernel_init, name="classes")(pooled)
        return DiscriminatorOutput(logits, class_logits, features)


def with_label_planes(x, label, classes):
    """(n, h, w, c) with a plane for each class, of ones for that of the image and of zeros for the others."""
    planes = jax.nn.one_hot(label, classes, dtype=x.dtype)[:, None, None]
    return jnp.concatenate([x, jnp.broadcast_to(planes, (*x.shape[:3], classes))], -1)
