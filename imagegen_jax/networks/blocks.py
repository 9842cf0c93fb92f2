"""Building blocks that several networks share. Activations are NHWC."""

import functools
import math

from flax import linen as nn
import jax
from jax import numpy as jnp

from imagegen_jax import errors

# DDPM's initialiser for every layer (hojonathanho/diffusion, nn.py) and the near-zero one for the last layer of a residual
# branch, so that each branch starts as the identity.
fan_avg = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
near_zero = nn.initializers.variance_scaling(1e-10, "fan_avg", "uniform")
MOMENTUM = 0.9  # of all running statistics of batches
# Of a transposed convolution of stride 2, each of whose values is a sum over a quarter of the (k, k, out, in) kernel.
_fan_in = nn.initializers.variance_scaling(4.0, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2)


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018, eq. 7) with learned scale and bias.

    Statistics are float32 whatever the dtype of the input. They are reduced per channel first and over the channels of a
    group afterwards: XLA reduces over (h, w, channel in group) at once 2 to 6 times slower on CPU.
    `groups` is lowered to the largest divisor of the channel count that does not exceed it.
    """

    groups: int = 32
    eps: float = 1e-6

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        groups = next(g for g in range(min(self.groups, channels), 0, -1) if channels % g == 0)
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))

        def group_mean(per_channel):  # (batch, channels) -> (batch, channels), equal within a group
            grouped = per_channel.reshape(-1, groups, channels // groups).mean(-1)
            return jnp.repeat(grouped, channels // groups, axis=-1)

        wide = x.astype(jnp.float32)
        mean = group_mean(wide.mean((1, 2)))
        variance = jnp.maximum(group_mean(jnp.square(wide).mean((1, 2))) - jnp.square(mean), 0.0)
        factor = scale * jax.lax.rsqrt(variance + self.eps)
        offset = bias - mean * factor
        return (wide * factor[:, None, None] + offset[:, None, None]).astype(x.dtype)


def instance_norm(x, eps=1e-5):
    """Instance normalisation (Ulyanov et al. 2016, equation 3) without scale and bias; statistics in float32."""
    wide = x.astype(jnp.float32)
    mean = wide.mean((1, 2), keepdims=True)
    variance = jnp.square(wide - mean).mean((1, 2), keepdims=True)
    return ((wide - mean) * jax.lax.rsqrt(variance + eps)).astype(x.dtype)


class TransposedConv(nn.Module):
    """Doubles both sides: the transpose of a convolution of stride 2 and padding 1, as PyTorch's ConvTranspose2d has it.

    Attributes:
      features: channels made.
      kernel: side of the kernel, 3 or 4.
      kernel_init: initialiser of the (kernel, kernel, features, channels of the input) kernel.
      dtype: of the computation.
      use_bias: whether a learned bias is added.
    """

    features: int
    kernel: int
    kernel_init: nn.initializers.Initializer = _fan_in
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        shape = (self.kernel, self.kernel, self.features, x.shape[-1])
        x = transposed_conv(x.astype(self.dtype), self.param("kernel", self.kernel_init, shape).astype(self.dtype))
        return x + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype) if self.use_bias else x


class StridedConv(nn.Module):
    """Halves both sides: a convolution of stride 2 and padding 1, (n, 2h, 2w, c) -> (n, h, w, features).

    Attributes:
      features: channels made.
      kernel: side of the kernel, 3 or 4.
      kernel_init: initialiser of the (kernel, kernel, channels of the input, features) kernel.
      dtype: of the computation.
    """

    features: int
    kernel: int
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", self.kernel_init, (self.kernel, self.kernel, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = (y.astype(self.dtype) for y in (x, kernel, bias))
        return strided_conv(x, kernel) + bias


# A convolution of stride 2 and padding 1, and its transposes by its two arguments, with all arrays in the one layout that
# XLA:CPU has fast code for. From others it gets there by itself, but not inside loops and conditions: there a gradient by the
# kernel takes 480 ms instead of 12 (64x14x14x64 to 7x7x128, 2 cores).
_canonical = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _strided_conv(x, kernel):
    """(n, 2h, 2w, a) with a (k, k, a, b) kernel -> (n, h, w, b)."""
    return _canonical(x, kernel, (2, 2), [(1, 1)] * 2)


def _by_input(gradient, kernel):
    """Its transpose: (n, h, w, b) with a (k, k, a, b) kernel -> (n, 2h, 2w, a)."""
    k = len(kernel)
    return _canonical(gradient, kernel[::-1, ::-1].swapaxes(2, 3), (1, 1), [(k - 2, 2)] * 2, lhs_dilation=(2, 2))


def _by_kernel(x, gradient, k):
    """(n, 2h, 2w, a) with (n, h, w, b) -> (k, k, a, b)."""
    rows, columns = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    return _canonical(rows, columns, (1, 1), [(1, k - 3)] * 2, rhs_dilation=(2, 2)).transpose(1, 2, 0, 3)


@jax.custom_vjp
def transposed_conv(x, kernel):
    """The transpose of a convolution of stride 2 and padding 1: (n, h, w, b) with a (k, k, a, b) kernel -> (n, 2h, 2w, a).

    k is 3 or 4. Its gradients are the convolution itself and that convolution's gradient by the kernel. JAX would make the
    latter a convolution of an input with holes, for which XLA:CPU needs 30 times as long.
    """
    return _by_input(x, kernel)


def _transposed_conv_fwd(x, kernel):
    return transposed_conv(x, kernel), (x, kernel)


def _transposed_conv_bwd(saved, gradient):
    x, kernel = saved
    return strided_conv(gradient, kernel), _by_kernel(gradient, x, len(kernel))


transposed_conv.defvjp(_transposed_conv_fwd, _transposed_conv_bwd)


@jax.custom_vjp
def strided_conv(x, kernel):
    """The convolution of stride 2 and padding 1: (n, 2h, 2w, a) with a (k, k, a, b) kernel -> (n, h, w, b).

    k is 3 or 4. Its gradient by the input is `transposed_conv`, which has a fast gradient in turn, as gradient penalties
    need it.
    """
    return _strided_conv(x, kernel)


def _strided_conv_fwd(x, kernel):
    return _strided_conv(x, kernel), (x, kernel)


def _strided_conv_bwd(saved, gradient):
    x, kernel = saved
    return transposed_conv(gradient, kernel), _by_kernel(x, gradient, len(kernel))


strided_conv.defvjp(_strided_conv_fwd, _strided_conv_bwd)


def conv_of_small_maps(x, kernel, strides, padding, **kwargs):
    """jax.lax.conv_general_dilated for nn.Conv; as a product of matrices where the map made is smaller than the kernel.

    XLA swaps the operands of a convolution whose kernel has more places than what it slides over, and so of such a one's
    gradient by the input. For what comes out XLA:CPU has but plain loops, which take 50 times as long.

    Args:
      x: (n, h, w, a).
      kernel: (k, l, a, b).
      strides: of both sides.
      padding: (before, after) of both sides.
      **kwargs: of jax.lax.conv_general_dilated, for nn.Conv's own layout and without dilation.
    """
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = (
        [slice(i, side - size + i + 1, stride) for i in range(size)]
        for side, size, stride in zip(padded.shape[1:3], kernel.shape[:2], strides)
    )
    patches = [padded[:, row, column] for row in rows for column in columns]
    if math.prod(patches[0].shape[1:3]) >= math.prod(kernel.shape[:2]):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **kwargs)
    return jnp.concatenate(patches, -1) @ kernel.reshape(-1, kernel.shape[-1])


def sinusoidal_embedding(t, features, max_period=1e4):
    """The Transformer's position embedding of a diffusion time (Vaswani et al. 2017, section 3.5), as DDPM lays it out.

    Args:
      t: (batch,) float or int, the timestep.
      features: even width of the embedding.
      max_period: of the slowest wave, in steps over 2 pi.

    Returns:
      (batch, features) float32: sines, then cosines, at frequencies max_period^(-i / (features / 2 - 1)).
    """
    half = features // 2
    frequencies = jnp.exp(-jnp.log(max_period) * jnp.arange(half) / max(half - 1, 1))
    angles = t.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def with_image(x, t, condition):
    """What a denoiser takes in where its condition has an image.

    Args:
      x: (n, h, w, c).
      t: (n,) or (n, times).
      condition: None, or {name: array}, of which this takes 'image' (n, h, w, c') and 'noise' (n,), see conditions.py.

    Returns:
      (x with the image as further channels, t with the noise as a further time, on the scale of DDPM's steps).
    """
    condition = condition or {}
    if "image" in condition:
        x = jnp.concatenate([x, condition["image"]], -1)
    if "noise" in condition:
        t = jnp.concatenate([t.reshape(len(t), -1), 1000 * condition["noise"][:, None]], -1)
    return x, t


def downsample(x, taps):
    """Halves both sides, rounding up, by a separable filter of an even number of taps, with zeros around the image.

    (n, h, w, c) -> (n, ceil(h / 2), ceil(w / 2), c). Taps (1, 1) average each 2x2 patch.
    """
    around = len(taps) // 2 - 1
    return _filtered(x, taps, 1.0, [(around, around + side % 2) for side in x.shape[1:3]], window_strides=(2, 2))


def upsample(x, taps, height, width):
    """Doubles both sides by the transpose of `downsample`, times 4, and cuts to (height, width). Taps (1, 1) repeat pixels."""
    if tuple(taps) == (1, 1):
        return upsample_nearest(x, height, width)
    around = [(len(taps) // 2, len(taps) // 2)] * 2
    return _filtered(x, taps, 4.0, around, window_strides=(1, 1), lhs_dilation=(2, 2))[:, :height, :width]


def _filtered(x, taps, total, padding, **options):
    """Each channel convolved with the outer product of taps, whose sum is `total`."""
    outer = jnp.outer(jnp.array(taps, jnp.float32), jnp.array(taps, jnp.float32))
    kernel = jnp.tile((total * outer / outer.sum())[:, :, None, None], (1, 1, 1, x.shape[-1])).astype(x.dtype)
    return _canonical(x, kernel, padding=padding, feature_group_count=x.shape[-1], **options)


def upsample_nearest(x, height, width):
    """Doubles both sides by repetition and cuts to (height, width), the size before an odd side was halved.

    Two jnp.repeat are some 200 times faster than jax.image.resize on CPU.
    """
    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return x[:, :height, :width]


def upsample_bilinear(x):
    """Doubles both sides of (n, h, w, c); pixels are areas, and those at the border go on beyond it.

    The same as jax.image.resize: each value is three quarters of the nearest one and a quarter of the next.
    """
    for axis in (1, 2):
        edge = [(1, 1) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(x, edge, mode="edge")
        before, after = (jax.lax.slice_in_dim(padded, start, start + x.shape[axis], axis=axis) for start in (0, 2))
        pairs = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pairs.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
    return x


def space_to_depth(x, block):
    """(n, h, w, c) -> (n, h / block, w / block, c * block^2). Raises errors.UserError where that has a rest."""
    n, h, w, c = x.shape
    if h % block or w % block:
        raise errors.UserError(f"config.network.patch_size is {block}: it must divide the image size, {h}x{w}")
    x = x.reshape(n, h // block, block, w // block, block, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h // block, w // block, block * block * c)


def depth_to_space(x, block):
    """The inverse of space_to_depth."""
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, block, block, c // block**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h * block, w * block, c // block**2)


def from_config(module, config, **others):
    """A Linen module with the values of its section of a config but `name`, and the other fields as they are given."""
    fields = {name: value for name, value in vars(config).items() if name != "name"} | others
    if "dtype" in fields:
        fields["dtype"] = jnp.dtype(fields["dtype"])
    return module(**fields)
