"""VGG16 (Simonyan & Zisserman 2014, table 1, column D) up to its second fully-connected layer."""

from flax import linen as nn
import jax
from jax import numpy as jnp

MAP_CHANNELS = (64, 128, 256, 512, 512)  # before each pooling
_PRECISION = jax.lax.Precision.HIGHEST  # else GPUs and TPUs round to some ten bits, and scores differ by machine


class VGG16(nn.Module):
    """(n, h, w, 3) float32, as `normalised` makes them -> (n, 4096) float32, not negative, of images of 224x224.

    The result is the activation of the second fully-connected layer, where improved precision and recall measure distances
    (Kynkaanniemi et al. 2019, section 3.1). The collection 'maps', where it is mutable, gets the last maps before each pooling,
    where LPIPS does (Zhang et al. 2018, section 3). Modules are named by their place in torchvision's lists, as in the file of
    weights, vgg16-397923af.pth.

    Attributes:
      head: with the fully-connected layers; without them there is no result, and images may have any size from 16x16 on.
    """

    head: bool = True

    @nn.compact
    def __call__(self, x):
        place = 0
        for width, layers in zip(MAP_CHANNELS, (2, 2, 3, 3, 3)):
            for _ in range(layers):
                x = nn.relu(nn.Conv(width, (3, 3), precision=_PRECISION, name=f"features.{place}")(x))
                place += 2  # over the ReLU
            if not self.is_initializing():  # maps are no variables of the network
                self.sow("maps", "levels", x)
            x = nn.max_pool(x, (2, 2), (2, 2)) if min(x.shape[1:3]) > 1 else x
            place += 1
        if not self.head:
            return None
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # the order in which the weights expect channels and places
        for place in (0, 3):
            x = nn.relu(nn.Dense(4096, precision=_PRECISION, name=f"classifier.{place}")(x))
        return x


def normalised(image):
    """(n, h, w, 3) in [0, 1] -> the same shape, with the mean and the deviation of ImageNet's images as 0 and 1."""
    return (image - jnp.array([0.485, 0.456, 0.406])) / jnp.array([0.229, 0.224, 0.225])
