"""A small convolutional classifier of small images."""

import dataclasses
import math
from typing import Annotated

from flax import linen as nn
from jax import numpy as jnp

from imagegen_jax import keys
from imagegen_jax.networks import blocks

_EMBEDDING = 64  # width of a noise level's


class Classifier(nn.Module):
    """Two convolutions a level, the first of which halves the resolution; means over the maps of levels are the features.

    (n, h, w, c) in [-1, 1] -> (features (n, d), logits (n, classes), estimates (n, estimates)), float32. The collection 'maps',
    where it is mutable, gets the maps of the levels.

    What tells classes is in the last level, and little of grain and blur is left there. With `multiscale` the features are of
    every level. An earlier level's mean is over more positions, and so varies less from image to image: it is multiplied by the
    root of how many times as many they are, as if independent positions had been added. Logits are made of the last level.

    A noise of a few grey levels is small beside the contrast of an image. With `detail` the network is shown it by itself, as
    detectors of hidden messages are (Fridrich and Kodovsky 2012, section II): what a pixel differs by from the mean of the 3x3
    pixels around it, cut off where it is larger than that.

    Of noisy images it can be told the noise level: an embedding of it is added to each level's first maps.

    Attributes:
      classes: number of labels.
      widths: channels of each level.
      groups: of GroupNorm.
      dropout: share of what logits are made of that is left out in training.
      multiscale: whether d is the sum of widths, first level first, rather than the last of them.
      detail: grey levels (of 255) at which detail is cut off; 0: the network is shown the image alone.
      estimates: numbers that are estimated from the features beside the class.
    """

    classes: int
    widths: Annotated[tuple[int, ...], keys.Each(keys.AtLeast(1))] = (32, 64, 96)
    groups: Annotated[int, keys.AtLeast(1)] = 8
    dropout: Annotated[float, keys.AtLeast(0), keys.Below(1)] = 0.3
    multiscale: bool = False
    detail: float = 0.0
    estimates: int = 0

    @nn.compact
    def __call__(self, x, log_snr=None, train=False):
        """Classifies.

        Args:
          x: (n, h, w, c) float.
          log_snr: (n,) log(alpha^2 / sigma^2) of noisy images; None for a network that is not told.
          train: with dropout, whose key is 'dropout'.
        """
        if self.detail:
            x = jnp.concatenate([x, detail(x, self.detail / 127.5)], -1)
        embedding = None if log_snr is None else nn.swish(nn.Dense(_EMBEDDING, name="noise")(_waves(log_snr)))
        maps = []
        for i, width in enumerate(self.widths):
            for stride in (2, 1):
                x = nn.Conv(width, (3, 3), stride)(x)
                x = blocks.GroupNorm(self.groups)(x)
                if stride == 2 and embedding is not None:
                    x += nn.Dense(width, name=f"noise{i}")(embedding)[:, None, None]
                x = nn.relu(x)
            maps.append(x)
            self.sow("maps", "levels", x)
        last = x.mean((1, 2), dtype=jnp.float32)
        kept = nn.Dropout(self.dropout, deterministic=not train)(last)
        logits = nn.Dense(self.classes)(kept)
        features = _means(maps) if self.multiscale else last
        return features, logits, nn.Dense(self.estimates)(features) if self.estimates else jnp.zeros((len(x), 0))


def _waves(log_snr):
    """(n, _EMBEDDING) of noise levels, by sigma / (alpha + sigma) on the scale of DDPM's steps, which is finite for all."""
    return blocks.sinusoidal_embedding(1000 * nn.sigmoid(-log_snr / 2), _EMBEDDING)


def detail(x, limit):
    """(n, h, w, c) -> the same shape: how a value differs from the mean of its 3x3 pixels, over `limit`, within [-1, 1]."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return jnp.clip((x - nn.avg_pool(padded, (3, 3))) / limit, -1, 1)


def _means(maps):
    """(n, sum of channels) of maps (n, h, w, c) of several sizes."""
    sizes = [math.prod(x.shape[1:3]) for x in maps]
    factors = [math.sqrt(size / sizes[-1]) for size in sizes]
    return jnp.concatenate([factor * x.mean((1, 2), dtype=jnp.float32) for factor, x in zip(factors, maps)], -1)


@dataclasses.dataclass(frozen=True)
class Config(keys.section(Classifier, without=("classes", "estimates"))):
    """The section `network` of a classifier."""

    def objections(self):
        """See keys.objections."""
        if not self.widths:
            yield "widths", "give one at least"
