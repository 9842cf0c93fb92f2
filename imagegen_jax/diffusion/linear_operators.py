"""What an image loses, as linear operators: y = A x + noise, with A, its transpose and its pseudo-inverse.

    masking     pixels are hidden                   inpainting, outpainting
    averaging   of squares of pixels the mean       enlarging
    bicubic     the same by bicubic interpolation   enlarging
    luminance   of colours the grey                 colouring
    blurring    with a Gaussian                     deblurring

Each is kept by its singular value decomposition A = U S V^T (as Kawar et al. 2022, section 4, have theirs), of which U and V
are products of small matrices along height, width and channels. With it

    A x = U S V^T x        A^T y = V S U^T y        A^+ y = V S^+ U^T y        S^+ = 1 / S, and 0 where S is 0

and whatever a method does to the components of an image it does elementwise. Images are (n, height, width, channels).
"""

from typing import NamedTuple

from jax import numpy as jnp
import numpy as np

from imagegen_jax import errors

# Of the greatest. What is smaller is lost in 8 bits: of a component that spans all of [-1, 1] it leaves a grey level.
_LEAST_SINGULAR_VALUE = 0.01
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601-2, of which Pillow makes grey


class Operator(NamedTuple):
    """A = U S V^T.

    Attributes:
      left: of U, along height, width and channels: (m, r) with orthonormal columns each, or None for the identity.
      singular: S, (1 or n, r_height, r_width, r_channels) float32, not negative: of all images, or of each.
      right: of V, (k, r) each, likewise.
      least: the least of S that is not 0, a float.
    """

    left: tuple[np.ndarray | None, ...]
    singular: np.ndarray
    right: tuple[np.ndarray | None, ...]
    least: float = 1.0

    def components(self, x):
        """V^T x, of images."""
        return _along(self.right, x, transposed=True)

    def image(self, components):
        """V c."""
        return _along(self.right, components)

    def observed(self, y):
        """U^T y, the components of an observation."""
        return _along(self.left, y, transposed=True)

    def observation(self, components):
        """U c."""
        return _along(self.left, components)

    def observed_shape(self, shape):
        """(h, w, c) of the observation of an (h, w, c) image."""
        return tuple(side if u is None else len(u) for u, side in zip(self.left, shape))

    @property
    def inverse_singular(self):
        """S^+."""
        return jnp.where(self.singular > 0, 1 / jnp.where(self.singular > 0, self.singular, 1.0), 0.0)


def apply(a: Operator, x):
    """A x."""
    return a.observation(a.singular * a.components(x))


def transpose(a: Operator, y):
    """A^T y."""
    return a.image(a.singular * a.observed(y))


def pseudo_inverse(a: Operator, y):
    """A^+ y, the smallest of the images whose A x is nearest to y."""
    return a.image(a.inverse_singular * a.observed(y))


def projected(a: Operator, x, y):
    """A^+ y + (I - A^+ A) x: the image nearest to x of those whose A x is y (Wang et al. 2023, algorithm 1)."""
    return x + pseudo_inverse(a, y - apply(a, x))


def masking(kept, channels):
    """Keeps pixels as they are, and makes the others 0.

    Args:
      kept: (1 or n, height, width) bool.
      channels: of the images.
    """
    return Operator((None,) * 3, np.repeat(np.asarray(kept, np.float32)[..., None], channels, -1), (None,) * 3)


def averaging(shape, factor):
    """The means of squares with this side: (h, w, c) to (h / factor, w / factor, c), where it divides both."""
    means = [np.repeat(np.eye(side // factor), factor, 1) / factor for side in shape[:2]]
    return _separable(shape, *means)


def bicubic(shape, factor):
    """As `averaging`, by the kernel of Keys 1981 (a = -1/2) at `factor` times its width: what Pillow and MATLAB resize by."""

    def matrix(side):
        centres = factor * (np.arange(side // factor) + 0.5)
        t = np.abs(np.arange(side) + 0.5 - centres[:, None]) / factor
        near, far = (1.5 * t - 2.5) * t**2 + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
        kernel = np.where(t <= 1, near, np.where(t < 2, far, 0.0))
        return kernel / kernel.sum(1, keepdims=True)

    return _separable(shape, *map(matrix, shape[:2]))


DOWNSCALING = {"box": averaging, "bicubic": bicubic}


def check_factor(factor, shape, name):
    """Raises errors.UserError where the factor, which a person knows by this name, does not divide (h, w, c) images."""
    if shape[0] % factor or shape[1] % factor:
        raise errors.UserError(f"{name}={factor} does not divide the {shape[0]}x{shape[1]} pixels of the images")


def luminance(shape):
    """The grey of colours: (h, w, 3) to (h, w, 1)."""
    return _separable(shape, None, None, np.array([_LUMINANCE]))


def blurring(shape, deviation):
    """Convolves with a Gaussian of this standard deviation in pixels, cut off at four; images go on as in a mirror."""
    radius = int(np.ceil(4 * deviation))
    kernel = np.exp(-np.square(np.arange(-radius, radius + 1) / deviation) / 2)

    def matrix(side):
        seen = np.pad(np.arange(side), radius, mode="symmetric")
        found = np.zeros((side, side))
        for row in range(side):
            np.add.at(found[row], seen[row : row + len(kernel)], kernel / kernel.sum())
        return found

    return _separable(shape, *map(matrix, shape[:2]))


def _separable(shape, *matrices):
    """The operator of a matrix along each axis of (h, w, c) images; None, and what is left out, leaves an axis as it is."""
    left, singular, right = [], np.ones((1, 1, 1, 1)), []
    for axis, side in enumerate(shape):
        matrix = matrices[axis] if axis < len(matrices) else None
        u, s, vt = (None, np.ones(side), None) if matrix is None else np.linalg.svd(matrix, full_matrices=False)
        left.append(u if u is None else u.astype(np.float32))
        right.append(vt if vt is None else vt.T.astype(np.float32))
        singular = singular * s.reshape([-1 if i == axis else 1 for i in range(3)])
    singular = np.where(singular < _LEAST_SINGULAR_VALUE * singular.max(), 0.0, singular)
    return Operator(tuple(left), singular.astype(np.float32), tuple(right), float(singular[singular > 0].min()))


def _along(matrices, x, transposed=False):
    """x (n, h, w, c) by a matrix along each axis behind the first."""
    for axis, matrix in enumerate(matrices, 1):
        if matrix is not None:
            matrix = matrix.T if transposed else matrix
            x = jnp.moveaxis(jnp.tensordot(x, matrix, (axis, 1), precision="highest"), -1, axis)
    return x
