"""How far apart two sets of features are; and the interval in which such a number can be trusted.

With moments m, S of each set, the Fréchet distance (Heusel et al. 2017, equation 6; Dowson and Landau 1982) is

    |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1^1/2 S2 S1^1/2)^1/2.                                                          (1)

Let F F' = S by Cholesky decomposition with pivots, which ends at the rank. As F1' S2 F1 has the eigenvalues other than 0 of
S1^1/2 S2 S1^1/2, the last trace is the sum of the singular values of F1' F2. That needs no square root of a matrix, loses no
digits to squaring, and is as exact for singular covariances.

The kernel distance (Binkowski et al. 2018, section 4) is the squared maximum mean discrepancy with k(x, y) = (x.y / d + 1)^3,

    mean over i != j of k(x_i, x_j)  +  mean over i != j of k(y_i, y_j)  -  2 mean over i, j of k(x_i, y_j),             (2)

of which the expectation is free of the number of samples. That of (1) is not: it grows by about c / n.

Means over samples are in float64 on the host: (1) takes roots of covariances, which would show the rounding of float32. Means
over pairs of samples, as (2), are made on the device (`all_pairs`).

Intervals. A bootstrap of (1) or (2) repeats rows, which shrinks covariances and pairs a row with itself, and so is biased by as
much again as the estimate: its percentile interval can miss the estimate. Here, rather, a distance D is replaced by the plane
that touches it at the data (von Mises 1947), D + mean(u_i) + mean(v_j), where u_i says what more weight on row i would change
(Jaeckel 1972, the infinitesimal jackknife), and `bootstrap` resamples these numbers. That is centred on the estimate, costs
one evaluation, and holds for any dimension, with fewer samples than features too. The interval is for the expectation of the
estimate at these numbers of samples, the number that a protocol fixes; the bias of (1) is what `frechet_infinity` shows.
"""

import dataclasses
import functools

import numpy as np
from scipy import linalg
from scipy import special

from imagegen_jax import errors
from imagegen_jax import progress
from imagegen_jax.evaluation import all_pairs


def checked(features):
    """(n, d) features as an array, of the type that they have.

    Raises:
      errors.UserError: where one is not finite, or there is none.
    """
    features = np.asarray(features)
    if features.ndim != 2:
        raise ValueError(f"features are (n, d), not {features.shape}")
    if not features.size:
        raise errors.UserError("there are no samples to measure: give at least one")
    finite = np.isfinite(features).all(1)
    if not finite.all():
        raise errors.UserError(f"the features of sample {np.argmin(finite)} are not finite: look for NaN among its pixels")
    return features


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """The mean and covariance of features; those of a union are the sum, whatever the parts and their order.

    Attributes:
      count: how many samples; None in published statistics, which do not say, and which cannot be added to.
      mean: (d,) float64.
      covariance: (d, d) float64, with a divisor of count - 1; zero for one sample.
    """

    count: int | None
    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features):
        """Those of (n, d) features, n >= 1. Raises errors.UserError where one is not finite."""
        features = checked(features)
        return functools.reduce(cls.__add__, (cls._of(features[part]) for part in all_pairs.chunks(*features.shape)))

    @classmethod
    def _of(cls, features):
        centred = features.astype(np.float64)
        mean = centred.mean(0)
        centred -= mean
        return cls(len(features), mean, centred.T @ centred / max(len(features) - 1, 1))

    def __add__(self, other):
        """The pairwise update of Chan, Golub and LeVeque 1983."""
        count = self.count + other.count
        step = other.mean - self.mean
        scatter = (self.count - 1) * self.covariance + (other.count - 1) * other.covariance
        scatter += np.outer(step, step * (self.count * other.count / count))
        return Moments(count, self.mean + step * (other.count / count), scatter / (count - 1))

    @functools.cached_property
    def _cholesky(self):
        """((d, r) F with F F' = covariance and r its numerical rank, (r,) rows of F that make a lower triangle)."""
        tolerance = len(self.mean) * np.finfo(np.float64).eps * np.max(np.diag(self.covariance))
        triangle, pivots, rank, _ = linalg.lapack.dpstrf(self.covariance, tol=tolerance, lower=1)
        # Without variance LAPACK returns early, and leaves the rank to us.
        rank = rank if tolerance > 0 else 0
        factor = np.empty((len(self.mean), rank))
        factor[pivots - 1] = np.tril(triangle)[:, :rank]
        return factor, pivots[:rank] - 1


def _overlap(a, b):
    """(r, s) F1' F2 of equation 1. Raises errors.UserError where the features differ in number."""
    if len(a.mean) != len(b.mean):
        raise errors.UserError(
            f"statistics of {len(a.mean)} features cannot be compared with those of {len(b.mean)}: use one feature network"
        )
    return a._cholesky[0].T @ b._cholesky[0]


def frechet_distance(a, b, quick=False):
    """Equation 1 as a float, never negative; exact for singular covariances.

    Args:
      a: Moments.
      b: Moments of as many features. Both keep their decompositions, so that a reference is decomposed once.
      quick: take the singular values from the eigenvalues of the square. That takes a fifth of the time of 2,048 features, and
        loses half of the digits: each value is off by 1e-8 of the greatest at most.

    Raises:
      errors.UserError: where they have different numbers of features.
    """
    overlap = _overlap(a, b)
    if not overlap.size:
        fidelity = 0.0
    elif quick:
        fidelity = np.sqrt(np.maximum(linalg.eigvalsh(overlap @ overlap.T), 0)).sum()
    else:
        fidelity = linalg.svdvals(overlap).sum()
    apart = np.square(a.mean - b.mean).sum()
    return float(max(0.0, apart + np.trace(a.covariance) + np.trace(b.covariance) - 2 * fidelity))


def frechet_influence(features, own, other):
    """What more weight on a row would add to the Fréchet distance: the u_i for `bootstrap`.

    The gradient of equation 1 is 2 (m1 - m2) in m1 and I - T in S1, where T = S1^-1/2 (S1^1/2 S2 S1^1/2)^1/2 S1^-1/2 is the
    optimal transport map (Olkin and Pukelsheim 1982), with the inverse on the span of the features.

    Args:
      features: (n, d).
      own: their Moments.
      other: the Moments of what they are compared with.

    Returns:
      (n,) float64 of mean 0.
    """
    features = checked(features)
    overlap = _overlap(own, other)
    factor, pivots = own._cholesky
    if not factor.size:
        return np.zeros(len(features))
    # T = F^-T (F' S2 F)^1/2 F^-1 is the same for any F: rows are whitened, then turned to where the root is diagonal.
    values, vectors = linalg.eigh(overlap @ overlap.T, driver="evd")
    roots = np.sqrt(np.maximum(values, 0))
    whiten = linalg.solve_triangular(factor[pivots], vectors, trans="T", lower=True)
    influence = np.empty(len(features))
    for part in all_pairs.chunks(*features.shape):
        centred = features[part] - own.mean
        transported = np.square(centred[:, pivots] @ whiten) @ roots
        influence[part] = 2 * centred @ (own.mean - other.mean) + np.square(centred).sum(1) - transported
    return influence - influence.mean()


def frechet_infinity(features, reference, points=15, smallest=None, seed=0):
    """The Fréchet distance that unlimited samples would have (Chong and Forsyth 2020).

    A straight line through the distances of random subsets of several sizes, over 1 / size, and its value at 0. The bias that
    the reference has of its own stays. With fewer than 2 d samples the line is not straight yet, and ends too low. Subsets are
    drawn by position: another order of the rows draws others.

    Args:
      features: (n, d).
      reference: Moments.
      points: number of sizes, equally spaced up to n.
      smallest: the least size; by default a tenth of n, or d if that is more, but no more than half of n.
      seed: of the subsets.

    Returns:
      (distance, slope): at infinity, which noise can make negative; and the bias times n, so that slope / n is that at n.

    Raises:
      errors.UserError: where there are fewer than 4 samples.
    """
    features = checked(features)
    n, d = features.shape
    if n < 4:
        raise errors.UserError(f"an extrapolation from {n} samples is not possible: give at least 4, better {2 * d}")
    smallest = smallest or max(2, min(max(n // 10, d), n // 2))
    rng = np.random.default_rng(seed)
    sizes = np.unique(np.linspace(smallest, n, points).astype(int))
    subsets = (features[np.sort(rng.choice(n, size, replace=False))] for size in sizes)
    shown = progress.each(subsets, len(sizes), "subset", "distance of unlimited samples", d**3 * len(sizes) > all_pairs.LONG)
    # Beside the noise of a line through subsets, digits that are lost count for nothing.
    distances = [frechet_distance(Moments.of(subset), reference, quick=True) for subset in shown]
    slope, limit = np.polyfit(1 / sizes, distances, 1)
    return float(limit), float(slope)


def kernel_distance(x, y, subsets=100, subset_size=1000, seed=2020):
    """Equation 2, averaged over random subsets, as torch-fidelity does, with its subsets too.

    Args:
      x: (n, d), the generated ones.
      y: (m, d).
      subsets: how many pairs of subsets.
      subset_size: samples in each, drawn by position: another order of the rows draws others.
      seed: of the subsets.

    Returns:
      (mean, standard deviation) over the subsets, floats. The deviation is that of a subset's, not of their mean.

    Raises:
      errors.UserError: where a set is smaller than a subset.
    """
    x, y = checked(x), checked(y)
    if min(len(x), len(y)) < subset_size or subset_size < 2:
        raise errors.UserError(
            f"{len(x)} against {len(y)} samples are too few for kernel distances over subsets of {subset_size}: "
            f"give more samples, or ask for subsets of 2 to {min(len(x), len(y))}"
        )
    rng = np.random.RandomState(seed)
    cubic = all_pairs.Cubic(x, y)
    values = []
    long = 3 * subsets * subset_size**2 * x.shape[1] > all_pairs.LONG
    for _ in progress.each(range(subsets), subsets, "subset", "kernel distance", long):
        chosen = [rng.choice(len(z), subset_size, replace=False) for z in (x, y)]
        a, b = (tuple(part[rows] for part in z) for z, rows in zip(cubic.sets, chosen))
        within = sum(cubic.sums(z, z, among=True)[0].sum() for z in (a, b)) / (subset_size * (subset_size - 1))
        values.append(within - 2 * cubic.sums(a, b)[0].sum() / subset_size**2)
    return float(np.mean(values)), float(np.std(values))


def kernel_influence(x, y):
    """Equation 2 over all rows at once, and the u_i and v_j for `bootstrap`: n - 1 times what a row adds to it.

    Args:
      x: (n, d), n >= 3.
      y: (m, d), m >= 3. Takes (n + m)^2 d operations.

    Returns:
      (distance, (n,), (m,)): a float, and float64 of mean 0.
    """
    cubic = all_pairs.Cubic(checked(x), checked(y))
    within = [cubic.sums(z, z, among=True)[0] / (len(z[0]) - 1) for z in cubic.sets]
    across = [sums / len(other) for sums, other in zip(cubic.sums(*cubic.sets), (y, x))]
    distance = within[0].mean() + within[1].mean() - 2 * across[0].mean()
    # Each row is in two places of a mean over pairs.
    influences = [2 * ((len(own) - 1) / (len(own) - 2) * own - other) for own, other in zip(within, across)]
    return float(distance), *(u - u.mean() for u in influences)


def inception_score(logits, splits=10, seed=2020):
    """exp of the mean divergence of p(class | image) from p(class) (Salimans et al. 2016, section 4), as torch-fidelity has it.

    Args:
      logits: (n, classes), without the bias for the published number; the logarithms of probabilities are logits too.
      splits: parts of equal size, each a score of its own.
      seed: of the permutation before splitting, torch-fidelity's; one split is free of the order of the rows.

    Returns:
      (mean, standard deviation) over the splits, floats in [1, classes] if n is at least that.

    Raises:
      errors.UserError: where there are fewer samples than splits.
    """
    n = len(logits)
    if n < splits:
        raise errors.UserError(f"{n} samples cannot be split into {splits} for an Inception score: give more, or fewer splits")
    probabilities = special.softmax(np.asarray(logits, np.float64)[np.random.RandomState(seed).permutation(n)], axis=1)
    parts = (probabilities[i * n // splits : (i + 1) * n // splits] for i in range(splits))
    scores = [np.exp(special.rel_entr(part, part.mean(0)).sum(1).mean()) for part in parts]
    return float(np.mean(scores)), float(np.std(scores))


def class_coverage(labels, classes):
    """How evenly labels, given by a classifier or asked of a generator, spread over the classes.

    Args:
      labels: (n,) integers in [0, classes).
      classes: how many there are.

    Returns:
      {'coverage': share of the classes that occur, 'entropy': of the histogram in nats, 'relative_entropy': over log(classes)},
      floats; the last is 1 for one class.
    """
    share = np.bincount(labels, minlength=classes) / len(labels)
    if len(share) > classes:
        raise ValueError(f"label {len(share) - 1} of {classes} classes")
    entropy = float(special.entr(share).sum())
    relative = entropy / np.log(classes) if classes > 1 else 1.0
    return {"coverage": float(np.mean(share > 0)), "entropy": entropy, "relative_entropy": float(relative)}


def bootstrap(*values, resamples=1000, seed=0, level=0.95):
    """The percentile interval of a sum of means (Efron and Tibshirani 1993, chapter 13).

    For a share or a mean, `values` are its one number a row (`prdc.prdc_rows`, `prdc.Memorisation`). For a distance:

        bootstrap(distance + frechet_influence(fake, a, b), frechet_influence(real, b, a))

    or without the second where the reference is taken for exact. A share of exactly 0 or 1 has an interval without width.

    Args:
      *values: (n,) numbers, of independent sets whose means add up; each set is resampled by itself.
      resamples: how many.
      seed: of the resamples; they are drawn by position.
      level: how often the interval is to hold the expectation.

    Returns:
      (low, high), floats.
    """
    rng = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for rows in values:
        rows = np.asarray(rows, np.float64)
        means += [rows[rng.integers(len(rows), size=len(rows))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
