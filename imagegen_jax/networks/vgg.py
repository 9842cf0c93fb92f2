"""VGG16 (Simonyan & Zisserman 2014, table 1, column D) up to its second fully-connected layer."""

from flax import linen as nn
import jax

_PRECISION = jax.lax.Precision.HIGHEST  # else GPUs and TPUs round to some ten bits, and scores differ by machine


class VGG16(nn.Module):
    """(n, 224, 224, 3) float32, normalised with ImageNet's mean and deviation -> (n, 4096) float32, not negative.

    The result is the activation of the second fully-connected layer, where improved precision and recall measure distances
    (Kynkaanniemi et al. 2019, section 3.1). Modules are named by their place in torchvision's lists, as in the file of
    weights, vgg16-397923af.pth.
    """

    @nn.compact
    def __call__(self, x):
        place = 0
        for widths in ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3):
            for width in widths:
                x = nn.relu(nn.Conv(width, (3, 3), precision=_PRECISION, name=f"features.{place}")(x))
                place += 2  # over the ReLU
            x = nn.max_pool(x, (2, 2), (2, 2))
            place += 1
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # the order in which the weights expect channels and places
        for place in (0, 3):
            x = nn.relu(nn.Dense(4096, precision=_PRECISION, name=f"classifier.{place}")(x))
        return x
