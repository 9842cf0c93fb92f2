"""How images become the size that a published network takes, as three communities do it; scores differ with it (Parmar 2022).

    legacy_tensorflow   TensorFlow 1's bilinear, with which the FID was defined: pixel i of the result lies at i * in / out
    clean               clean-fid's: Pillow's bicubic on float channels, which filters before it shrinks
    legacy_pytorch      pytorch-fid's bilinear, F.interpolate(align_corners=False): at (i + 1/2) * in / out - 1/2

The first and the last take four neighbours whatever the ratio, so that small patterns alias when an image shrinks. Each
function takes (n, h, w, 3) uint8 and a size and returns (n, size, size, 3) float32 in [0, 255], not rounded.
"""

from jax import numpy as jnp
import numpy as np
from PIL import Image


def legacy_tensorflow(images, size):
    """Bilinear between the neighbours of i * in / out (tf.image.resize_bilinear of TensorFlow 1); pure jnp."""
    return _bilinear(images, size, lambda i, scale: i * scale)


def legacy_pytorch(images, size):
    """Bilinear between the neighbours of (i + 1/2) * in / out - 1/2, cut off at 0 (PyTorch's F.interpolate); pure jnp."""
    return _bilinear(images, size, lambda i, scale: np.maximum((i + 0.5) * scale - 0.5, 0))


def clean(images, size):
    """Pillow's bicubic with its filter as wide as the ratio (Parmar et al. 2022, their resize.py); on the host, NumPy."""
    resized = [_clean_channel(channel, size) for image in np.asarray(images) for channel in np.moveaxis(image, -1, 0)]
    return np.moveaxis(np.reshape(resized, (-1, images.shape[-1], size, size)), 1, -1)


PROTOCOLS = {"legacy_tensorflow": legacy_tensorflow, "clean": clean, "legacy_pytorch": legacy_pytorch}


def _clean_channel(channel, size):
    resized = Image.fromarray(channel.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized).clip(0, 255)  # bicubic overshoots


def _bilinear(images, size, position):
    """`position` takes indices in the result and in / out to places in the image."""
    x = images.astype(jnp.float32)
    for axis in (2, 1):
        length = images.shape[axis]
        scale = np.float64(np.float32(length) / np.float32(size))
        # Steep edges show how places are rounded: as both references do on CPU, the ratio to float32, then the result once.
        places = position(np.arange(size), scale).astype(np.float32)
        low = places.astype(np.int32)
        share = (places - low).reshape([-1 if i == axis else 1 for i in range(4)])
        below, above = (jnp.take(x, i, axis) for i in (low, np.minimum(low + 1, length - 1)))
        x = below + (above - below) * share
    return x
