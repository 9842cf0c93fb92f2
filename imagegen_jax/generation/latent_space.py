"""The algebra of latents: paths between two, traversals of single dimensions, directions from one class to another.

The functions are of arrays, in which the latents of an image are one vector; a `Codec` encodes and decodes.
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
from imagegen_jax.training import compiler
from imagegen_jax.training import sharding

_PARALLEL = 1e-6  # sine of the angle below which two vectors have no plane between them


class Codec:
    """Encodes and decodes with one trained state, in batches of one size over all devices; each is compiled once.

    Attributes:
      batch_size: images at once.
      dimensions: d, of an image's latents.
      prior_is_normal: see capabilities.Decodes.
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

        def decode(state, _, latents, label=None):
            latents = latents.reshape(-1, *algorithm.latent_shape)
            return images.to_uint8(algorithm.decode(state, latents, {} if label is None else {"label": label}))

        self._encode = jax.jit(encode, **compiled)
        self._decode = jax.jit(decode, **compiled)
        self.dimensions = math.prod(algorithm.latent_shape)
        self.prior_is_normal = algorithm.prior_is_normal

    def encode(self, image, label, index=None, key=None):
        """Latents of images: the most likely, or random ones of their posteriors.

        Args:
          image: (n, h, w, c) uint8.
          label: (n,) int32, which some families look at.
          index: (n,) int32, the images' numbers, on which random latents depend.
          key: of random latents; None for the most likely.

        Returns:
          (n, d) float32.
        """
        index = np.zeros_like(label) if index is None else index
        return self._in_batches(self._encode, key, image, label, index)

    def decode(self, latents, label):
        """The images, (..., h, w, c) uint8, of (..., d) latents with labels that can be broadcast to (...)."""
        shape = latents.shape[:-1]
        rows = [latents.reshape(-1, latents.shape[-1])]
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


def of_domain(codec, domain, num, seed=0, key=None):
    """Latents of at most so many images of a domains.Domain, a fair draw where it has more, behind a progress bar.

    Args:
      codec: a Codec.
      domain: the images.
      num: how many at most.
      seed: of the draw.
      key: see Codec.encode.

    Returns:
      (latents (n, d) float32, labels (n,) int32), in the order of the images.
    """
    numbers = np.sort(np.random.default_rng(seed).permutation(len(domain.source))[:num])
    found, labels = [], []
    with progress.Progress(len(numbers), "image", "encoding") as bar:
        for start in range(0, len(numbers), codec.batch_size):
            batch = domain.reader([int(i) for i in numbers[start : start + codec.batch_size]])
            labels.append(conditions.labels(batch))
            found.append(codec.encode(batch["image"], labels[-1], batch["index"], key))
            bar.update(len(labels[-1]))
    return np.concatenate(found), np.concatenate(labels)


def of_prior(seeds, dimensions):
    """(n, d) float32 standard normal latents, each of one seed."""
    return np.stack([jax.random.normal(rng.stream(seed, "code"), (dimensions,)) for seed in seeds])


# ------------------------------------------------------------------------------------------------------------------ paths


def slerp(start, end, t):
    """Spherical linear interpolation (Shoemake 1985): the angle from `start` grows in proportion to t.

    Latents of a normal prior lie near a sphere, which straight lines leave (White 2016). Since they are not on it, lengths go
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


def paths(latents, num):
    """From each of n latents (n, d) to the next in `num` steps, both ends among them: (n - 1, num, d) float32."""
    t = np.linspace(0, 1, num)
    return np.stack([slerp(start, end, t) for start, end in itertools.pairwise(latents)])


def blended(latents, weights):
    """The mean of n latents (n, d) by weights (n,): (d,) float32, as long as they are on average.

    Of two alike that is the middle of `slerp`.
    """
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    mean = shares @ latents.astype(np.float64)
    length = np.linalg.norm(mean)
    return (mean * (shares @ np.linalg.norm(latents, axis=-1) / length if length else 1.0)).astype(np.float32)


def labels_of_paths(labels, num):
    """(n,) labels to (n - 1, num): those of the nearer end, since there is nothing between two classes."""
    return np.where(np.linspace(0, 1, num) < 0.5, labels[:-1, None], labels[1:, None])


# ------------------------------------------------------------------------------------------------------------- directions


def traversals(latents, deviations, dimensions, values):
    """The latents of an image with one dimension changed at a time.

    Args:
      latents: (d,).
      deviations: (d,), the unit of each dimension.
      dimensions: numbers of k dimensions.
      values: (m,), what is added to each of them, in its deviations.

    Returns:
      (k, m, d) float32.
    """
    units = np.eye(len(latents))[dimensions] * deviations
    return (latents + np.asarray(values)[:, None] * units[:, None]).astype(np.float32)


def direction(latents, labels, source, target):
    """The mean latents of one class minus those of another: a direction of visible change (Larsen et al. 2016; White 2016).

    Args:
      latents: (n, d).
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
        means.append(latents[labels == label].mean(0, dtype=np.float64))
    return (means[1] - means[0]).astype(np.float32)


def shifts(latents, towards, strengths):
    """(n, d) latents moved in a (d,) direction by each of m strengths: (n, m, d) float32."""
    return latents[:, None] + np.asarray(strengths, np.float32)[:, None] * towards
