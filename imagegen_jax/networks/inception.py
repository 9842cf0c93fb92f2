"""The network of the Fréchet Inception Distance: InceptionV3 as it was frozen on 2015-12-05 (Szegedy et al. 2015).

It is TensorFlow's graph as pytorch-fid rebuilt it, which differs from torchvision's InceptionV3 in that average pooling leaves
the padding out of its mean, that the last block takes a maximum where the paper takes a mean, and in its 1008 logits. Modules
are named as in the file of weights, pt_inception-2015-12-05-6726825d.pth.
"""

from collections.abc import Callable

from flax import linen as nn
import jax
from jax import numpy as jnp

_PRECISION = jax.lax.Precision.HIGHEST  # else GPUs and TPUs round to some ten bits, and scores differ by machine


class InceptionV3(nn.Module):
    """(n, 299, 299, 3) float32, (x - 128) / 128 of uint8 -> (pool3 (n, 2048), logits (n, 1008) without bias), float32.

    Batch normalisation is that of inference. The Inception Score's logits have no bias (Salimans et al. 2016, their code).
    """

    @nn.compact
    def __call__(self, x):
        x = _Conv(32, 3, 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = _Conv(32, 3, 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = _Conv(64, 3, name="Conv2d_2b_3x3")(x)
        x = _max_pool(x, 2, "VALID")
        x = _Conv(80, 1, name="Conv2d_3b_1x1")(x)
        x = _Conv(192, 3, 1, "VALID", name="Conv2d_4a_3x3")(x)
        x = _max_pool(x, 2, "VALID")
        for letter, pooled in zip("bcd", (32, 64, 64)):
            x = _InceptionA(pooled, name=f"Mixed_5{letter}")(x)
        x = _InceptionB(name="Mixed_6a")(x)
        for letter, width in zip("bcde", (128, 160, 160, 192)):
            x = _InceptionC(width, name=f"Mixed_6{letter}")(x)
        x = _InceptionD(name="Mixed_7a")(x)
        x = _InceptionE(_average_pool, name="Mixed_7b")(x)
        x = _InceptionE(_max_pool, name="Mixed_7c")(x)
        pool3 = x.mean((1, 2))
        return pool3, nn.Dense(1008, use_bias=False, precision=_PRECISION, name="fc")(pool3)


class _Conv(nn.Module):
    """Convolution without bias, batch normalisation, ReLU; `kernel` is a side or (height, width)."""

    features: int
    kernel: int | tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x):
        kernel = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        conv = nn.Conv(self.features, kernel, self.stride, self.padding, use_bias=False, precision=_PRECISION, name="conv")
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(conv(x)))


def _branch(x, name, *layers):
    """The layers of a branch one after the other, numbered from 1."""
    for i, layer in enumerate(layers, 1):
        x = _Conv(*layer, name=f"{name}_{i}")(x)
    return x


def _average_pool(x):
    """Mean of the 3x3 neighbourhood, of which what lies outside of the image is no part."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _max_pool(x, stride=1, padding="SAME"):
    return nn.max_pool(x, (3, 3), (stride, stride), padding)


class _InceptionA(nn.Module):
    """At 35x35; `pooled` channels come from the pooled input."""

    pooled: int

    @nn.compact
    def __call__(self, x):
        branches = (
            _Conv(64, 1, name="branch1x1")(x),
            _branch(x, "branch5x5", (48, 1), (64, 5)),
            _branch(x, "branch3x3dbl", (64, 1), (96, 3), (96, 3)),
            _Conv(self.pooled, 1, name="branch_pool")(_average_pool(x)),
        )
        return jnp.concatenate(branches, -1)


class _InceptionB(nn.Module):
    """From 35x35 to 17x17."""

    @nn.compact
    def __call__(self, x):
        branches = (
            _Conv(384, 3, 2, "VALID", name="branch3x3")(x),
            _branch(x, "branch3x3dbl", (64, 1), (96, 3), (96, 3, 2, "VALID")),
            _max_pool(x, 2, "VALID"),
        )
        return jnp.concatenate(branches, -1)


class _InceptionC(nn.Module):
    """At 17x17; 7x7 convolutions of this width, factored into rows and columns."""

    width: int

    @nn.compact
    def __call__(self, x):
        row, column = (self.width, (1, 7)), (self.width, (7, 1))
        branches = (
            _Conv(192, 1, name="branch1x1")(x),
            _branch(x, "branch7x7", (self.width, 1), row, (192, (7, 1))),
            _branch(x, "branch7x7dbl", (self.width, 1), column, row, column, (192, (1, 7))),
            _Conv(192, 1, name="branch_pool")(_average_pool(x)),
        )
        return jnp.concatenate(branches, -1)


class _InceptionD(nn.Module):
    """From 17x17 to 8x8."""

    @nn.compact
    def __call__(self, x):
        branches = (
            _branch(x, "branch3x3", (192, 1), (320, 3, 2, "VALID")),
            _branch(x, "branch7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2, "VALID")),
            _max_pool(x, 2, "VALID"),
        )
        return jnp.concatenate(branches, -1)


class _InceptionE(nn.Module):
    """At 8x8, where branches fork into a row and a column; `pool` is that of the last branch."""

    pool: Callable

    @nn.compact
    def __call__(self, x):
        single = _Conv(384, 1, name="branch3x3_1")(x)
        double = _branch(x, "branch3x3dbl", (448, 1), (384, 3))
        branches = (
            _Conv(320, 1, name="branch1x1")(x),
            _Conv(384, (1, 3), name="branch3x3_2a")(single),
            _Conv(384, (3, 1), name="branch3x3_2b")(single),
            _Conv(384, (1, 3), name="branch3x3dbl_3a")(double),
            _Conv(384, (3, 1), name="branch3x3dbl_3b")(double),
            _Conv(192, 1, name="branch_pool")(self.pool(x)),
        )
        return jnp.concatenate(branches, -1)
