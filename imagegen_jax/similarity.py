"""How alike the images of pairs are."""

import dm_pix as pix
import jax
from jax import numpy as jnp
import numpy as np

_TINY = 1e-8  # keeps the gradient of a length finite where the features are 0


def l1(x, y):
    """(n,) mean absolute difference of images in [-1, 1], on the scale of [0, 1]."""
    return 0.5 * jnp.abs(x - y).mean((1, 2, 3))


def ssim(x, y):
    """(n,) structural similarity (Wang et al. 2004) of images in [0, 1], in windows of 11 pixels, or as many as there are."""
    return pix.ssim(x, y, filter_size=min(11, *x.shape[1:3]))


def perceptual(x, y, weights=None):
    """(n,) distance in a network's features (Zhang et al. 2018, equation 1).

    At each place the features of a level are divided by their length; their squared differences, weighted by channel, are added
    up, averaged over places, and added up over levels.

    Args:
      x: maps (n, h, w, c) of each level, of the one image of each pair.
      y: the same of the other.
      weights: (c,) of each level; None for all 1.
    """
    squared = [jnp.square(_unit(a) - _unit(b)) for a, b in zip(x, y, strict=True)]
    if weights is not None:
        squared = [one * w for one, w in zip(squared, weights, strict=True)]
    return sum(one.sum(-1).mean((1, 2)) for one in squared)


def _unit(features):
    features = features.astype(jnp.float32)
    return features * jax.lax.rsqrt(jnp.square(features).sum(-1, keepdims=True) + _TINY)


def scores(image, truth):
    """How near images come to the true ones.

    Args:
      image: (n, h, w, c) in [-1, 1].
      truth: the same.

    Returns:
      {'l1', 'psnr', 'ssim'}, each (n,), of images scaled to [0, 1]: mean absolute difference, peak signal-to-noise ratio in dB,
      and structural similarity.
    """
    unit = [(x + 1) / 2 for x in (image, truth)]
    return {"l1": l1(image, truth), "psnr": pix.psnr(*unit), "ssim": ssim(*unit)}


def reconstruction_errors(image, made):
    """How far reconstructions are from their images, both (n, h, w, c) uint8; on the host, in float64.

    Returns:
      (squared error on the scale of [-1, 1] averaged over pixels, peak signal-to-noise ratio in dB), (n,) float64 each; the
      second is infinite where the first is 0.
    """
    difference = (image.astype(np.float64) - made) / 127.5
    squared = np.square(difference).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return squared, 10 * np.log10(2**2 / squared)
