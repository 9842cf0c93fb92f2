"""Precision, recall, density, coverage; and what else the neighbours of samples say: copies of training images, diversity.

All distances are Euclidean, as exact as in float64 (`all_pairs`). With B(x) the ball about x through its k-th neighbour
in its own set, itself not counted,

    precision   share of the generated samples in a ball of a real one                Kynkaanniemi et al. 2019, equation 2
    recall      share of the real samples in a ball of a generated one                the same
    density     mean number of real samples' balls that hold a generated one, over k  Naeem et al. 2020, section 3
    coverage    share of the real samples whose ball holds a generated one            the same

A sample on the surface of a ball is in it, whatever the rounding.
"""

import dataclasses

import jax
import numpy as np

from imagegen_jax import errors
from imagegen_jax import similarity
from imagegen_jax.evaluation import all_pairs
from imagegen_jax.evaluation import distances
from imagegen_jax.training import compiler

# A distance is rounded by about 1e-16 of the greatest |x|. Features are float32, and less exact by far.
_ROUNDING = 1e-13


def neighbours(queries, points=None, k=1):
    """The nearest points of each query.

    Args:
      queries: (n, d).
      points: (m, d); by default the queries themselves, of which none is its own neighbour.
      k: how many, at most m, or n - 1.

    Returns:
      (distances, indices), each (n, k), nearest first; equal rows have a distance of exactly 0.

    Raises:
      errors.UserError: where there are fewer than k.
    """
    queries = distances.checked(queries)
    among = points is None
    points = (queries if among else distances.checked(points)).astype(np.float64)
    if k > len(points) - among:
        raise errors.UserError(f"{len(points)} samples are too few for {k} neighbours: give more")
    # Near the origin fewer digits cancel.
    centre = points.mean(0)
    points -= centre
    return all_pairs.nearest(points if among else queries - centre, points, k, among)


def neighbours_of_batches(queries, batches, k):
    """What `neighbours` finds among points of which one batch at a time is in memory.

    Args:
      queries: (n, d).
      batches: iterable over (m, d) points.
      k: how many, at most the points of all batches.

    Returns:
      (distances, indices), each (n, k), nearest first; indices count through all batches.

    Raises:
      errors.UserError: where there are fewer than k.
    """
    apart, index = np.empty((len(queries), 0)), np.empty((len(queries), 0), np.int64)
    seen = 0
    for points in batches:
        found = neighbours(queries, points, min(k, len(points)))
        apart, index = np.hstack([apart, found[0]]), np.hstack([index, found[1] + seen])
        order = np.argsort(apart, 1, kind="stable")[:, :k]
        apart, index = (np.take_along_axis(both, order, 1) for both in (apart, index))
        seen += len(points)
    if seen < k:
        raise errors.UserError(f"{seen} samples are too few for {k} neighbours: give more")
    return apart, index


def prdc_rows(real, fake, k=3, density_k=5):
    """What each sample adds to precision, recall, density and coverage; `distances.bootstrap` takes these numbers.

    The intervals that it gives are those of scores against these balls: that the balls are random too is left out.

    Args:
      real: (n, d).
      fake: (m, d).
      k: the neighbour on the surface of a ball, for precision and recall.
      density_k: the same, for density and coverage.

    Returns:
      {'precision': (m,), 'recall': (n,), 'density': (m,), 'coverage': (n,)} float64, of which the means are the scores.

    Raises:
      errors.UserError: where a set has no more samples than neighbours are asked of it.
    """
    radii, _ = neighbours(real, k=max(k, density_k))
    fake_radii = neighbours(fake, k=k)[0][:, -1]
    centre = real.mean(0, dtype=np.float64)
    inside, held, near = all_pairs.balls(
        fake - centre, real - centre, fake_radii, radii[:, [k - 1, density_k - 1]].T, _ROUNDING
    )
    rows = {"precision": inside[0] > 0, "recall": near, "density": inside[1] / density_k, "coverage": held[1]}
    return {name: row.astype(float) for name, row in rows.items()}


def prdc(real, fake, k=3, density_k=5):
    """{'precision', 'recall', 'density', 'coverage'} as floats: the means of `prdc_rows`."""
    return {name: float(rows.mean()) for name, rows in prdc_rows(real, fake, k, density_k).items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Memorisation:
    """Where samples lie between the training and the test features; a row a sample.

    Attributes:
      train: (n,) distances to the nearest training features, among as many as there are test features.
      test: (n,) distances to the nearest test features, among as many as there are training features.
      nearer: (n,) 1 where train is nearer than test, 1/2 where both are as near, else 0.
      nearer_all: (n,) the same, among all of both sets, which misses no copy.
      chance: what the mean of nearer_all would be without memorisation: the training set's share. That of nearer is 1/2.
    """

    train: np.ndarray
    test: np.ndarray
    nearer: np.ndarray
    nearer_all: np.ndarray
    chance: float

    def scores(self):
        """The means by name, as floats, and 'chance'."""
        names = ("train", "test", "nearer", "nearer_all")
        return {name: float(getattr(self, name).mean()) for name in names} | {"chance": self.chance}


def memorisation(fake, train, test, seed=0):
    """Whether samples are nearer to training images than to test images, which a model that memorises nothing cannot favour.

    A larger set has nearer neighbours whatever is generated. So distances are compared after dropping random rows, by position,
    from the larger. What is dropped may be what was copied: the comparison with all rows has the larger set's share as chance.

    Args:
      fake: (n, d).
      train: (m, d).
      test: (l, d).
      seed: of the rows that are kept.

    Returns:
      Memorisation.
    """
    sets = {"train": train, "test": test}
    every = {name: neighbours(fake, rows)[0][:, 0] for name, rows in sets.items()}
    equal = dict(every)
    small, large = sorted(sets, key=lambda name: len(sets[name]))
    if len(sets[small]) < len(sets[large]):
        kept = np.random.default_rng(seed).choice(len(sets[large]), len(sets[small]), replace=False)
        equal[large] = neighbours(fake, sets[large][np.sort(kept)])[0][:, 0]
    return Memorisation(
        **equal,
        nearer=_first_nearer(**equal),
        nearer_all=_first_nearer(**every),
        chance=len(train) / (len(train) + len(test)),
    )


def _first_nearer(train, test):
    return (1 + np.sign(test - train)) / 2


def duplicate_rate(rows, tolerance=0.0):
    """The share of samples that have another one within `tolerance`: 0 for all different, 1 where each occurs twice.

    Args:
      rows: (n, …), n >= 2, features or images of any type; distances are those of rows made flat.
      tolerance: greatest Euclidean distance at which two count as the same.

    Returns:
      float in [0, 1].
    """
    rows = np.asarray(rows)
    return float(np.mean(neighbours(rows.reshape(len(rows), -1))[0] <= tolerance))


def _random_pairs(n, pairs, seed):
    """Two (p,) arrays of row numbers that differ: all n (n - 1) / 2 pairs if they are no more than `pairs`."""
    if n < 2:
        raise errors.UserError("diversity is that of pairs: give at least 2 samples")
    if n * (n - 1) // 2 <= pairs:
        return np.triu_indices(n, 1)
    rng = np.random.default_rng(seed)
    first = rng.integers(n, size=pairs)
    return first, (first + rng.integers(1, n, size=pairs)) % n


def pairwise_distance(features, pairs=10_000, seed=0):
    """Mean Euclidean distance between the features of two samples: the greater, the more diverse.

    Args:
      features: (n, d), n >= 2.
      pairs: of rows, drawn at random by position; all there are if those are no more.
      seed: of the pairs.

    Returns:
      float.
    """
    features = distances.checked(features)
    first, second = _random_pairs(len(features), pairs, seed)
    parts = all_pairs.chunks(len(first), features.shape[1])
    apart = [np.linalg.norm(features[first[p]].astype(np.float64) - features[second[p]], axis=1) for p in parts]
    return float(np.concatenate(apart).mean())


def pairwise_ssim(images, pairs=1000, seed=0, batch_size=100):
    """Mean structural similarity (`similarity.ssim`) of two samples' images: the less, the more diverse.

    Args:
      images: (n, h, w, c) float in [0, 1], n >= 2.
      pairs: of images, drawn at random by position; all there are if those are no more.
      seed: of the pairs.
      batch_size: pairs at a time on the device.

    Returns:
      float in [-1, 1].
    """
    first, second = _random_pairs(len(images), pairs, seed)
    ssim = jax.jit(similarity.ssim, compiler_options=compiler.options())
    values = []
    for start in range(0, len(first), batch_size):
        # The last batch is filled up from the first, to be compiled once.
        place = np.arange(start, start + batch_size) % len(first)
        with jax.default_matmul_precision("highest"):
            values.append(np.asarray(ssim(images[first[place]], images[second[place]]), np.float64))
    return float(np.concatenate(values)[: len(first)].mean())
