"""A small convolutional classifier of small images."""

from flax import linen as nn
from jax import numpy as jnp

from imagegen_jax.networks import blocks


class Classifier(nn.Module):
    """Two convolutions a level, the first of which halves the resolution; the mean over what is left are the features.

    (n, h, w, c) in [-1, 1] -> (features (n, last of widths), logits (n, classes)), float32.

    Attributes:
      classes: number of labels.
      widths: channels of each level.
      groups: of GroupNorm.
      dropout: share of the features that are left out in training.
    """

    classes: int
    widths: tuple[int, ...] = (32, 64, 96)
    groups: int = 8
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        for width in self.widths:
            for stride in (2, 1):
                x = nn.Conv(width, (3, 3), stride)(x)
                x = nn.relu(blocks.GroupNorm(self.groups)(x))
        features = x.mean((1, 2), dtype=jnp.float32)
        kept = nn.Dropout(self.dropout, deterministic=not train)(features)
        return features, nn.Dense(self.classes)(kept)
