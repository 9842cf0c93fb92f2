"""What can be done with codes: paths between two, walks along one dimension, directions from one class to another.

The functions are of arrays; `Coder` makes the codes of images and the images of codes.
"""

import itertools
import math

import jax
import numpy as np

from imagegen_jax import conditions
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import progress
from imagegen_jax import rng
from imagegen_jax.algorithms import capabilities
from imagegen_jax.training import compiler
from imagegen_jax.training import sharding

_PARALLEL = 1e-6  # sine of the angle below which two vectors have no plane between them


class Coder:
    """Encodes and decodes with one trained state, in batches of one size over all devices; each is compiled once.

    Attributes:
      batch_size: images at once.
      dimensions: d, of a code.
    """

    def __init__(self, algorithm, state, mesh, batch_size):
        """Prepares both.

        Args:
          algorithm: one that decodes (capabilities.Decodes); `encode` is there for one that also encodes.
          state: its TrainState.
          mesh: the devices.
          batch_size: images at once, rounded up to a multiple of the number of devices.
        """
        self.batch_size = sharding.divisible(batch_size, mesh)
        self._mesh = mesh
        self._state = state
        self._takes_labels = algorithm.classes > 0
        compiled = dict(out_shardings=sharding.replicated(mesh), compiler_options=compiler.options())

        def encode(state, key, image, label, index):
            latents = algorithm.encode(state, {"image": image, "condition": {"label": label}, "index": index}, key)
            return latents.reshape(len(latents), -1)

        def decode(state, _, codes, label=None):
            latents = codes.reshape(-1, *algorithm.latent_shape)
            return images.to_uint8(algorithm.decode(state, latents, {} if label is None else {"label": label}))

        self._encode = jax.jit(encode, **compiled)
        self._decode = jax.jit(decode, **compiled)
        self.dimensions = math.prod(algorithm.latent_shape)

    def encode(self, image, label, index=None, key=None):
        """Codes of images: the most likely, or random ones of their posteriors.

        Args:
          image: (n, h, w, c) uint8.
          label: (n,) int32, which some families look at.
          index: (n,) int32, the images' numbers, on which random codes depend.
          key: of random codes; None for the most likely.

        Returns:
          (n, d) float32.
        """
        index = np.zeros_like(label) if index is None else index
        return self._in_batches(self._encode, key, image, label, index)

    def decode(self, codes, label):
        """The images, (..., h, w, c) uint8, of (..., d) codes with labels that can be broadcast to (...)."""
        shape = codes.shape[:-1]
        rows = [codes.reshape(-1, codes.shape[-1])]
        if self._takes_labels:
            rows.append(np.broadcast_to(label, shape).reshape(-1))
        made = self._in_batches(self._decode, None, *rows)
        return made.reshape(*shape, *made.shape[1:])

    def _in_batches(self, fn, key, *rows):
        """`fn` of the state, the key and rows; the last batch is filled up, so that nothing is compiled for it, and cut."""
        made = []
        for start in range(0, len(rows[0]), self.batch_size):
            pieces = [array[start : start + self.batch_size] for array in rows]
            filled = [sharding.put_filled(self._mesh, piece, self.batch_size) for piece in pieces]
            made.append(np.asarray(fn(self._state, key, *filled))[: len(pieces[0])])
        return np.concatenate(made)


def of_domain(coder, domain, num, seed=0, key=None):
    """Codes of at most so many images of a domains.Domain, a fair draw where it has more, behind a progress bar.

    Args:
      coder: a Coder.
      domain: the images.
      num: how many at most.
      seed: of the draw.
      key: see Coder.encode.

    Returns:
      (codes (n, d) float32, labels (n,) int32), in the order of the images.
    """
    numbers = np.sort(np.random.default_rng(seed).permutation(len(domain.source))[:num])
    found, labels = [], []
    with progress.Progress(len(numbers), "image", "encoding") as bar:
        for start in range(0, len(numbers), coder.batch_size):
            batch = domain.reader([int(i) for i in numbers[start : start + coder.batch_size]])
            labels.append(conditions.labels(batch))
            found.append(coder.encode(batch["image"], labels[-1], batch["index"], key))
            bar.update(len(labels[-1]))
    return np.concatenate(found), np.concatenate(labels)


def check_prior(algorithm):
    """Raises errors.UserError where the codes have no prior, or not the standard normal one."""
    if not (isinstance(algorithm, capabilities.Decodes) and algorithm.prior_is_normal):
        raise errors.UserError(
            "--input=seed:…: the codes of this run have no standard normal prior: "
            "give images instead, such as experiments.sample draws with --out=folder/"
        )


def of_prior(seeds, dimensions):
    """(n, d) float32 standard normal codes, each of one seed."""
    return np.stack([jax.random.normal(rng.stream(seed, "code"), (dimensions,)) for seed in seeds])


# ------------------------------------------------------------------------------------------------------------------ paths


def slerp(start, end, t):
    """Spherical linear interpolation (Shoemake 1985): the angle from `start` grows in proportion to t.

    The codes of a normal prior lie near a sphere, which straight lines leave (White 2016). Since they are not on it, lengths go
    linearly from one end's to the other's. Vectors that are parallel, opposite or 0 have no arc, and get the straight line.

    Args:
      start: (d,).
      end: (d,).
      t: (n,) in [0, 1]; at 0 and 1 the result is exactly `start` and `end`.

    Returns:
      (n, d) float32.
    """
    ends = np.stack([start, end]).astype(np.float64)
    t = np.asarray(t, np.float64)
    weights = np.stack([1 - t, t], -1)
    lengths = np.linalg.norm(ends, axis=-1)
    if lengths.all():
        a, b = ends / lengths[:, None]
        angle = 2 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b))  # precise where the arc cosine of a product is not
        if np.sin(angle) > _PARALLEL:
            weights = np.sin(weights * angle) / np.sin(angle) * (weights @ lengths)[:, None] / lengths
    return (weights @ ends).astype(np.float32)


def paths(codes, num):
    """From each of (n, d) codes to the next in `num` steps, both ends among them: (n - 1, num, d) float32."""
    t = np.linspace(0, 1, num)
    return np.stack([slerp(start, end, t) for start, end in itertools.pairwise(codes)])


def labels_of_paths(labels, num):
    """(n,) labels to (n - 1, num): those of the nearer end, since there is nothing between two classes."""
    return np.where(np.linspace(0, 1, num) < 0.5, labels[:-1, None], labels[1:, None])


def there_and_back(cells):
    """(rows, columns, ...) whose rows begin where the last one ended, as one loop: (2 rows (columns - 1), ...)."""
    path = np.concatenate([cells[0, :1], *(row[1:] for row in cells)])
    return np.concatenate([path, path[-2:0:-1]])


# ------------------------------------------------------------------------------------------------------------- directions


def traversals(code, deviations, dimensions, values):
    """One code with one dimension changed at a time.

    Args:
      code: (d,).
      deviations: (d,), the unit of each dimension.
      dimensions: numbers of k dimensions.
      values: (m,), what is added to each of them, in its deviations.

    Returns:
      (k, m, d) float32.
    """
    moved = np.tile(np.asarray(code, np.float32), (len(dimensions), len(values), 1))
    for row, dimension in zip(moved, dimensions):
        row[:, dimension] += np.asarray(values) * deviations[dimension]
    return moved


def direction(codes, labels, source, target):
    """The mean code of one class minus that of another: a direction of visible change (Larsen et al. 2016; White 2016).

    Args:
      codes: (n, d).
      labels: (n,).
      source: the class to come from.
      target: the class to go to.

    Returns:
      (d,) float32.

    Raises:
      errors.UserError: none of the images is of one of the classes.
    """
    means = []
    for flag, label in (("from", source), ("to", target)):
        if not (labels == label).any():
            raise errors.UserError(f"--{flag}={label}: none of {len(labels)} training images is of this class")
        means.append(codes[labels == label].mean(0, dtype=np.float64))
    return (means[1] - means[0]).astype(np.float32)


def shifts(codes, towards, strengths):
    """(n, d) codes moved in a (d,) direction by each of m strengths: (n, m, d) float32."""
    return codes[:, None] + np.asarray(strengths, np.float32)[:, None] * towards
