"""Metrics of features: closed forms, points placed by hand, simulations, and the packages that others use."""

import functools
import importlib
import importlib.util
import itertools
import operator
import sys
from unittest import mock

import numpy as np
import pytest
from scipy import linalg
from scipy import stats

from imagegen_jax import errors
from imagegen_jax.evaluation import all_pairs
from imagegen_jax.evaluation import distances
from imagegen_jax.evaluation import prdc


def draw(seed, n, d, shift=0.0):
    """(n, d) float32 of correlated features with variances that fall off, as those of networks do."""
    rng = np.random.default_rng(seed)
    mix = np.eye(d) + np.random.default_rng(99).normal(size=(d, d)) / np.sqrt(d)
    return ((rng.normal(size=(n, d)) @ mix + shift) / np.sqrt(1 + np.arange(d))).astype(np.float32)


def covariance(seed, d, rank=None):
    half = np.random.default_rng(seed).normal(size=(d, rank or d))
    return half @ half.T


def moments(mean, cov):
    return distances.Moments(None, np.asarray(mean, float), np.asarray(cov, float))


@pytest.mark.parametrize("sizes", [(1, 1, 1, 97), (100,), (33, 1, 66), (50, 50)])
def test_moments_are_those_of_numpy_whatever_the_parts(sizes):
    # A mean far from 0 is where the textbook formula fails.
    features = draw(0, 100, 7) + np.float32(1000)
    parts = [distances.Moments.of(part) for part in np.split(features, np.cumsum(sizes)[:-1])]
    for order in itertools.permutations(parts):
        total = functools.reduce(operator.add, order)
        assert total.count == 100
        np.testing.assert_allclose(total.mean, features.astype(np.float64).mean(0), rtol=1e-13)
        np.testing.assert_allclose(total.covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-10, atol=1e-10)


def test_moments_of_one_call_are_merged_in_blocks(monkeypatch):
    whole = distances.Moments.of(draw(0, 1000, 7))
    monkeypatch.setattr(all_pairs, "_HOST_BLOCK", 7 * 64)
    np.testing.assert_allclose(distances.Moments.of(draw(0, 1000, 7)).covariance, whole.covariance, rtol=1e-12, atol=1e-14)


def test_frechet_distance_where_covariances_commute():
    """|m1 - m2|^2 + sum of (s1 - s2)^2 over the common axes."""
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    s1, s2 = np.array([3.0, 2.0, 1.0, 0.5, 0.0]), np.array([1.0, 2.0, 0.0, 4.0, 0.0])
    a = moments(np.arange(5), axes * s1**2 @ axes.T)
    b = moments(np.ones(5), axes * s2**2 @ axes.T)
    expected = np.square(np.arange(5) - 1).sum() + np.square(s1 - s2).sum()
    np.testing.assert_allclose(distances.frechet_distance(a, b), expected, rtol=1e-7)


def test_frechet_distance_where_covariances_do_not_commute():
    """tr (S1 S2)^1/2 from the eigenvalues of a matrix that is not symmetric."""
    s1, s2 = covariance(1, 6), covariance(2, 6)
    assert np.abs(s1 @ s2 - s2 @ s1).max() > 1
    mean = np.arange(6.0)
    expected = 55 + np.trace(s1) + np.trace(s2) - 2 * np.sqrt(linalg.eigvals(s1 @ s2)).sum().real
    a, b = moments(mean, s1), moments(np.zeros(6), s2)
    np.testing.assert_allclose(distances.frechet_distance(a, b), expected, rtol=1e-12)
    np.testing.assert_allclose(distances.frechet_distance(b, a), expected, rtol=1e-12)
    np.testing.assert_allclose(distances.frechet_distance(a, b, quick=True), expected, rtol=1e-8)


@pytest.mark.parametrize("n, d", [(500, 32), (20, 64), (2, 3)])
def test_frechet_distance_of_a_set_to_itself_is_zero_in_any_order(n, d):
    features = 100 * draw(0, n, d)
    a = distances.Moments.of(features)
    b = distances.Moments.of(features[np.random.default_rng(0).permutation(n)])
    assert 0 <= distances.frechet_distance(a, a) < 1e-6
    assert 0 <= distances.frechet_distance(a, b) < 1e-6
    assert 0 <= distances.frechet_distance(a, b, quick=True) < 1e-7 * d * np.trace(a.covariance)
    other = distances.Moments.of(draw(1, 50, d, shift=1.0))
    np.testing.assert_allclose(distances.frechet_distance(a, other), distances.frechet_distance(b, other), rtol=1e-9)


def test_frechet_distance_of_singular_covariances():
    """Of a point: the mean squared distance from it. Of orthogonal lines: nothing in common."""
    point, line = moments([1, 0, 0], np.zeros((3, 3))), moments([0, 0, 0], np.diag([0.0, 4.0, 0.0]))
    across = moments([0, 0, 0], np.diag([0.0, 0.0, 9.0]))
    np.testing.assert_allclose(distances.frechet_distance(point, line), 5, rtol=1e-12)
    np.testing.assert_allclose(distances.frechet_distance(line, across), 13, rtol=1e-12)
    assert distances.frechet_distance(point, point) == 0
    low = moments(np.zeros(40), covariance(1, 40, rank=5))
    assert np.isfinite(distances.frechet_distance(low, moments(np.zeros(40), covariance(2, 40, rank=3))))


@pytest.mark.parametrize("n, d", [(60, 4), (12, 20)])
def test_frechet_influence_is_the_derivative(n, d):
    """Against Moments under weights that lean, a little, towards some of the rows."""
    x, other = draw(0, n, d).astype(np.float64), distances.Moments.of(draw(1, 40, d, shift=0.5))
    lean = np.random.default_rng(2).normal(size=n)
    lean -= lean.mean()

    def leaning(step):
        weights = (1 + step * lean) / n
        mean = weights @ x
        return distances.frechet_distance(moments(mean, (weights[:, None] * (x - mean)).T @ (x - mean)), other)

    centred = moments(x.mean(0), np.cov(x, rowvar=False, bias=True))
    slope = (leaning(1e-3) - leaning(-1e-3)) / 2e-3
    np.testing.assert_allclose(distances.frechet_influence(x, centred, other) @ lean / n, slope, rtol=1e-4, atol=1e-5)


def test_a_set_that_has_collapsed_has_no_influence():
    point, other = np.ones((5, 3), np.float32), distances.Moments.of(draw(0, 20, 3))
    np.testing.assert_array_equal(distances.frechet_influence(point, distances.Moments.of(point), other), 0)
    assert np.isfinite(distances.frechet_influence(draw(0, 20, 3), other, distances.Moments.of(point))).all()


def test_frechet_infinity_takes_away_the_bias():
    """Of samples of the reference's own distribution the distance is 0; at 400 samples it is not."""
    d = 16
    reference = moments(np.zeros(d), np.eye(d))
    biased, unbiased = [], []
    for seed in range(20):
        features = np.random.default_rng(seed).normal(size=(400, d))
        biased.append(distances.frechet_distance(distances.Moments.of(features), reference))
        limit, slope = distances.frechet_infinity(features, reference, seed=seed)
        # What is left is how far the last point lies from the line.
        np.testing.assert_allclose(limit + slope / 400, biased[-1], atol=0.06)
        unbiased.append(limit)
    assert np.mean(biased) > 0.15
    assert abs(np.mean(unbiased)) < 0.02


def kernel_by_loops(x, y):
    k = lambda a, b: (sum(p * q for p, q in zip(a, b)) / len(a) + 1) ** 3  # noqa: E731
    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_kernel_distance_is_the_unbiased_estimator():
    x, y = draw(0, 6, 3).tolist(), draw(1, 6, 3, shift=1.0).tolist()
    mean, deviation = distances.kernel_distance(np.array(x), np.array(y), subsets=3, subset_size=6)
    np.testing.assert_allclose(mean, kernel_by_loops(x, y), rtol=1e-6)
    assert deviation < 1e-6 * mean
    np.testing.assert_allclose(
        distances.kernel_influence(np.array(x), np.array(y[:4]))[0], kernel_by_loops(x, y[:4]), rtol=1e-6
    )


@pytest.mark.parametrize("mean, spread", [(0.0, 1.0), (10.0, 1.0), (0.45, 1e-3)])
def test_kernel_distances_of_many_rows_are_those_of_float64(mean, spread):
    """Far from 0, or with a kernel that is nearly the same for all pairs, float32 as it stands would have no digit right."""
    x, y = (mean + spread * draw(seed, n, 24, shift) for seed, n, shift in ((0, 1300, 0.0), (1, 700, 0.1)))
    within, across = [], []
    for z, other in ((x, y), (y, x)):
        own, cross = ((z.astype(np.float64) @ w.T.astype(np.float64) / 24 + 1) ** 3 for w in (z, other))
        within.append((own.sum(1) - np.diag(own)) / (len(z) - 1))
        across.append(cross.mean(1))
    expected = within[0].mean() + within[1].mean() - 2 * across[0].mean()
    distance, *influences = distances.kernel_influence(x, y)
    expected_influences = [2 * ((len(z) - 1) / (len(z) - 2) * a - b) for z, a, b in zip((x, y), within, across)]
    scale = expected_influences[0].std()
    np.testing.assert_allclose(distance, expected, atol=1e-6 * scale)
    for found, wanted in zip(influences, expected_influences):
        np.testing.assert_allclose(found, wanted - wanted.mean(), atol=1e-5 * scale)


def test_kernel_distance_is_unbiased():
    values = [distances.kernel_distance(draw(2 * s, 40, 4), draw(2 * s + 1, 40, 4), 1, 40)[0] for s in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))


def test_kernel_influence_is_what_leaving_a_row_out_would_change():
    x, y = draw(0, 200, 3), draw(1, 100, 3, shift=0.5)
    whole, of_x, of_y = distances.kernel_influence(x, y)
    for i in range(3):
        without = distances.kernel_influence(np.delete(x, i, 0), y)[0]
        np.testing.assert_allclose((whole - without) * 199, of_x[i], rtol=1e-4, atol=1e-3)
        without = distances.kernel_influence(x, np.delete(y, i, 0))[0]
        np.testing.assert_allclose((whole - without) * 99, of_y[i], rtol=1e-4, atol=1e-3)


def test_kernel_distance_depends_on_the_seed_alone():
    x, y = draw(0, 300, 4), draw(1, 200, 4)
    same = [distances.kernel_distance(x, y, 5, 100, seed) for seed in (1, 1, 2)]
    assert same[0] == same[1] != same[2]


def test_too_few_samples_are_the_caller_s_to_mend():
    with pytest.raises(errors.UserError, match="300 against 999 samples are too few .* subsets of 1000"):
        distances.kernel_distance(draw(0, 300, 4), draw(1, 999, 4))
    with pytest.raises(errors.UserError, match="extrapolation from 3 samples"):
        distances.frechet_infinity(draw(0, 3, 2), moments(np.zeros(2), np.eye(2)))
    with pytest.raises(errors.UserError, match="9 samples cannot be split into 10"):
        distances.inception_score(np.zeros((9, 3)))
    with pytest.raises(errors.UserError, match="3 samples are too few for 3 neighbours"):
        prdc.neighbours(draw(0, 3, 2), k=3)
    with pytest.raises(errors.UserError, match="at least 2"):
        prdc.pairwise_distance(draw(0, 1, 2))


def test_what_is_no_feature_is_the_caller_s_to_mend():
    features = draw(0, 10, 4)
    features[6, 2] = np.nan
    with pytest.raises(errors.UserError, match="sample 6 are not finite"):
        distances.Moments.of(features)
    with pytest.raises(errors.UserError, match="no samples"):
        distances.Moments.of(np.zeros((0, 4)))
    with pytest.raises(errors.UserError, match="4 features cannot be compared with those of 3"):
        distances.frechet_distance(moments(np.zeros(4), np.eye(4)), moments(np.zeros(3), np.eye(3)))


def test_inception_score_is_one_without_and_classes_with_certainty():
    np.testing.assert_allclose(distances.inception_score(np.zeros((100, 7))), (1, 0), atol=1e-12)
    certain = 1e4 * np.eye(7)[np.arange(700) % 7]
    np.testing.assert_allclose(distances.inception_score(certain, splits=1), (7, 0), atol=1e-9)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(distances.inception_score(np.log(np.eye(7)), splits=1), (7, 0), atol=1e-9)


def test_inception_score_of_two_kinds_of_images():
    """exp of the mutual information between the kind and the class."""
    p = np.array([[0.8, 0.2], [0.4, 0.6]])
    expected = np.exp((p * np.log(p / p.mean(0))).sum(1).mean())
    np.testing.assert_allclose(distances.inception_score(np.log(np.repeat(p, 50, 0)) + 3.0, splits=1)[0], expected, rtol=1e-12)


def test_class_coverage():
    even = distances.class_coverage(np.arange(100) % 10, 10)
    assert even == pytest.approx({"coverage": 1.0, "entropy": np.log(10), "relative_entropy": 1.0})
    half = distances.class_coverage(np.array([0, 0, 0, 3]), 4)
    assert half == pytest.approx(
        {"coverage": 0.5, "entropy": stats.entropy([3, 1]), "relative_entropy": stats.entropy([3, 1], base=4)}
    )
    assert distances.class_coverage(np.zeros(3, int), 1) == {"coverage": 1.0, "entropy": 0.0, "relative_entropy": 1.0}
    with pytest.raises(ValueError, match="label 4 of 4"):
        distances.class_coverage(np.array([4]), 4)


def test_neighbours_against_all_differences():
    x, y = draw(0, 50, 5), draw(1, 40, 5)
    apart = np.linalg.norm(x[:, None].astype(np.float64) - y[None], axis=-1)
    distance, index = prdc.neighbours(x, y, k=3)
    np.testing.assert_array_equal(index, np.argsort(apart, 1)[:, :3])
    np.testing.assert_allclose(distance, np.sort(apart, 1)[:, :3], rtol=1e-12)
    distance, index = prdc.neighbours(y, k=39)
    assert all(set(row) == set(range(40)) - {i} for i, row in enumerate(index))


def test_neighbours_of_batches_are_those_of_all_points():
    rng = np.random.default_rng(0)
    points = rng.integers(256, size=(23, 30), dtype=np.uint8)
    queries = points[[20, 3]].copy()
    queries[:, 0] ^= 1
    for k in (1, 5, 23):
        found = prdc.neighbours_of_batches(queries, np.array_split(points, 6), k)
        for ours, whole in zip(found, prdc.neighbours(queries, points, k)):
            np.testing.assert_allclose(ours, whole, rtol=1e-12)
        np.testing.assert_array_equal(found[1][:, 0], [20, 3])
        np.testing.assert_array_equal(found[0][:, 0], 1)
    with pytest.raises(errors.UserError, match="23 samples are too few for 24 neighbours"):
        prdc.neighbours_of_batches(queries, [points], 24)


def near_copies():
    """Two sets about three points, so near them that float32 cannot tell the distances; and copies of rows."""
    rng = np.random.default_rng(0)
    centres = 10 * rng.normal(size=(3, 6))
    x, y = (centres[rng.integers(3, size=n)] + 1e-5 * rng.normal(size=(n, 6)) for n in (90, 70))
    y[:10], x[50:55] = x[:10], x[:5]
    return x, y


def test_what_float32_cannot_decide_is_decided_in_float64():
    x, y = near_copies()
    apart, within = (np.linalg.norm(x[:, None] - z[None], axis=-1) for z in (y, x))
    np.fill_diagonal(within, np.inf)
    for k in (1, 4):
        for found, expected in ((prdc.neighbours(x, y, k), apart), (prdc.neighbours(x, k=k), within)):
            np.testing.assert_allclose(found[0], np.sort(expected, 1)[:, :k], rtol=1e-6, atol=1e-14)
    rows = prdc.prdc_rows(x, y, k=2, density_k=3)
    radii = np.sort(within, 1)
    slack = 1 + 1e-6
    own = np.sort(np.linalg.norm(y[:, None] - y[None], axis=-1), 1)[:, 2]
    np.testing.assert_array_equal(rows["precision"], (apart <= slack * radii[:, [1]]).any(0))
    np.testing.assert_array_equal(rows["density"], (apart <= slack * radii[:, [2]]).sum(0) / 3)
    np.testing.assert_array_equal(rows["recall"], (apart <= slack * own).any(1))
    np.testing.assert_array_equal(rows["coverage"], (apart <= slack * radii[:, [2]]).any(1))
    assert 0 < rows["precision"].mean() < 1 and 0 < rows["recall"].mean() < 1


def test_blocks_do_not_change_what_pairs_say(monkeypatch):
    sets = (draw(0, 1200, 5), draw(1, 1100, 5, shift=0.3)), near_copies()
    measure = lambda x, y: (prdc.prdc_rows(x, y), prdc.neighbours(x, k=4), distances.kernel_influence(x, y))  # noqa: E731
    whole = [measure(*two) for two in sets]
    monkeypatch.setattr(all_pairs, "_rows", lambda: 64)
    monkeypatch.setattr(all_pairs, "_HOST_BLOCK", 200 * 17)
    for first, (x, y) in zip(whole, sets):
        again = measure(x, y)
        for name, rows in first[0].items():
            np.testing.assert_array_equal(rows, again[0][name])
        for a, b in zip((*first[1], *first[2]), (*again[1], *again[2])):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_prdc_of_points_placed_by_hand():
    """Real points at 0, 1, 3 and 10 have first neighbours at distances 1, 1, 2 and 7."""
    real, fake = np.array([[0.0], [1.0], [3.0], [10.0]]), np.array([[-0.5], [0.5], [30.0], [2.0]])
    rows = prdc.prdc_rows(real, fake, k=1, density_k=1)
    # Balls: [-1, 1], [0, 2], [1, 5], [3, 17]. The last point lies on the surface of the second and in the third.
    np.testing.assert_array_equal(rows["precision"], [1, 1, 0, 1])
    np.testing.assert_array_equal(rows["density"], [1, 2, 0, 2])
    np.testing.assert_array_equal(rows["coverage"], [1, 1, 1, 0])
    # Generated balls: [-1.5, 0.5], [-0.5, 1.5], [2, 58], [0.5, 3.5].
    np.testing.assert_array_equal(rows["recall"], [1, 1, 1, 1])
    assert prdc.prdc(real, fake, 1, 1) == {"precision": 0.75, "recall": 1.0, "density": 1.25, "coverage": 0.75}


def test_prdc_of_a_set_against_itself_and_against_nothing_near():
    real = 50 + draw(0, 300, 20)
    # Each ball holds its centre and k neighbours, of which the last is on its surface.
    assert prdc.prdc(real, real) == pytest.approx({"precision": 1, "recall": 1, "density": 6 / 5, "coverage": 1})
    assert set(prdc.prdc(real, real + 100).values()) == {0.0}


def test_prdc_does_not_see_the_order_of_rows():
    real, fake, rng = draw(0, 200, 8), draw(1, 150, 8, shift=0.3), np.random.default_rng(0)
    shuffled = prdc.prdc(rng.permutation(real), rng.permutation(fake))
    assert prdc.prdc(real, fake) == pytest.approx(shuffled, abs=1e-9)


def test_memorisation_tells_copies_from_new_images():
    train, test, fresh = draw(0, 400, 8), draw(1, 100, 8), draw(2, 200, 8)
    honest = prdc.memorisation(fresh, train, test).scores()
    # Shares of 200 have a standard error of 0.035 at most.
    assert abs(honest["nearer"] - 0.5) < 0.14
    assert honest["chance"] == 0.8
    assert abs(honest["nearer_all"] - 0.8) < 0.14
    assert abs(honest["train"] / honest["test"] - 1) < 0.1

    copied = np.random.default_rng(0).choice(400, 200)
    thief = prdc.memorisation(train[copied], train, test)
    assert thief.scores()["nearer_all"] == 1
    # A quarter of the copied are among the hundred that are kept, and the others are as near to either.
    assert thief.scores()["nearer"] > 0.5
    assert prdc.memorisation(train[copied], train, draw(1, 400, 8)).scores()["nearer"] == 1
    assert prdc.memorisation(train[:50], train[:100], test=draw(1, 500, 8)).scores()["nearer"] == 1
    # As near to either counts for both.
    assert prdc.memorisation(train[:50], train, train).scores()["nearer"] == 0.5


def test_duplicate_rate():
    images = np.random.default_rng(0).integers(256, size=(10, 4, 4, 1), dtype=np.uint8)
    assert prdc.duplicate_rate(images) == 0
    images[3] = images[7]
    assert prdc.duplicate_rate(images) == 0.2
    features = np.array([[0.0], [0.1], [5.0], [9.0]])
    assert prdc.duplicate_rate(features, tolerance=0.11) == 0.5
    assert prdc.duplicate_rate(features, tolerance=0.09) == 0


def test_pairwise_distance():
    assert prdc.pairwise_distance(np.array([[0.0], [1.0], [3.0]])) == pytest.approx(2)
    # |x - y| of standard normal numbers is 2 / sqrt(pi) in the mean, with a variance of 2 - 4 / pi.
    x = np.random.default_rng(0).normal(size=(5000, 1))
    assert prdc.pairwise_distance(x, pairs=20_000) == pytest.approx(2 / np.sqrt(np.pi), abs=0.03)
    assert prdc.pairwise_distance(np.ones((500, 3))) == 0


def test_pairwise_ssim():
    rng = np.random.default_rng(0)
    one = rng.random((1, 16, 16, 1), np.float32)
    assert prdc.pairwise_ssim(np.repeat(one, 40, 0), pairs=50, batch_size=20) == pytest.approx(1, abs=1e-5)
    noise = prdc.pairwise_ssim(rng.random((40, 16, 16, 3), np.float32), pairs=50)
    assert abs(noise) < 0.1
    # Of two flat images only the term of the means is left: (2 a b + c) / (a^2 + b^2 + c).
    flat = np.stack([np.full((8, 8, 1), value, np.float32) for value in (0.25, 0.75)])
    assert prdc.pairwise_ssim(flat) == pytest.approx((0.375 + 1e-4) / (0.625 + 1e-4), abs=1e-4)


def test_bootstrap_of_a_mean_is_the_normal_interval():
    x = np.random.default_rng(0).normal(size=2000)
    low, high = distances.bootstrap(x, resamples=4000)
    np.testing.assert_allclose([low, high], x.mean() + np.array([-1.96, 1.96]) * x.std() / np.sqrt(2000), atol=3e-3)
    assert distances.bootstrap(x, resamples=100) == distances.bootstrap(x, resamples=100)
    y = np.random.default_rng(1).normal(size=500)
    low, high = distances.bootstrap(x, y, resamples=4000)
    np.testing.assert_allclose(high - low, 3.92 * np.sqrt(x.var() / 2000 + y.var() / 500), rtol=0.06)


def coverage(truth, simulate, repeats=150):
    """How often the interval of simulate(rng) -> (low, high) holds the truth."""
    intervals = [simulate(np.random.default_rng(seed)) for seed in range(repeats)]
    return np.mean([low <= truth <= high for low, high in intervals])


# Of 150 intervals 142.5 hold the truth; 134 or fewer by chance once in a thousand times.
ENOUGH = 0.9


def frechet_interval(x, y):
    a, b = distances.Moments.of(x), distances.Moments.of(y)
    near = distances.frechet_distance(a, b)
    return distances.bootstrap(near + distances.frechet_influence(x, a, b), distances.frechet_influence(y, b, a), resamples=200)


def test_frechet_intervals_hold_the_closed_form():
    """Of two Gaussians, with so many samples that the bias is small: 1000 in 2 dimensions."""
    scale, shift = np.array([1.0, 2.0]), np.array([1.0, -1.0])
    truth = 2 + np.square(scale - 1).sum()

    def simulate(rng):
        return frechet_interval(rng.normal(size=(1000, 2)) * scale + shift, rng.normal(size=(1000, 2)))

    assert coverage(truth, simulate) >= ENOUGH


def test_frechet_intervals_hold_the_expectation_with_fewer_samples_than_features():
    """Where resampling rows and measuring again puts every replicate above the estimate."""

    def sets(rng):
        return 1.5 * rng.normal(size=(24, 32)) + 0.3, rng.normal(size=(20, 32))

    def distance(x, y):
        return distances.frechet_distance(distances.Moments.of(x), distances.Moments.of(y))

    truth = np.mean([distance(*sets(np.random.default_rng(10_000 + seed))) for seed in range(1000)])
    assert coverage(truth, lambda rng: frechet_interval(*sets(rng))) >= ENOUGH

    rng = np.random.default_rng(0)
    x, y = sets(rng)
    naive = [distance(x[rng.integers(24, size=24)], y[rng.integers(20, size=20)]) for _ in range(100)]
    assert min(naive) > distance(x, y)


def test_kernel_intervals_hold_the_closed_form():
    """In one dimension E k(x, y) is a polynomial in the moments, here of N(1/2, 1) and N(0, 1)."""
    first, second = ([float(stats.norm(mean).moment(j)) if j else 1.0 for j in range(4)] for mean in (0.5, 0.0))
    k = lambda p, q: p[0] * q[0] + 3 * p[1] * q[1] + 3 * p[2] * q[2] + p[3] * q[3]  # noqa: E731
    truth = k(first, first) + k(second, second) - 2 * k(first, second)

    def simulate(rng):
        distance, of_x, of_y = distances.kernel_influence(rng.normal(0.5, 1, (400, 1)), rng.normal(0, 1, (400, 1)))
        return distances.bootstrap(distance + of_x, of_y, resamples=200)

    assert coverage(truth, simulate) >= ENOUGH


@pytest.fixture(scope="module")
def fidelity():
    """'fid' -> torch_fidelity.metric_fid. The package imports torchvision too, which these modules need nothing of: a mock."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("", ".datasets", ".transforms", ".transforms.functional"):
            patch.setitem(sys.modules, f"torchvision{name}", mock.MagicMock())
        yield lambda name: importlib.import_module(f"torch_fidelity.metric_{name}")
    # What was imported with it is not for other tests.
    for name in set(sys.modules) - before:
        if name.startswith("torch_fidelity"):
            del sys.modules[name]


@pytest.mark.parity
def test_frechet_distance_of_torch_fidelity(fidelity):
    import torch

    theirs = fidelity("fid")
    x, y = (draw(seed, 500, 24, shift).astype(np.float64) for seed, shift in ((0, 0.0), (1, 0.3)))
    statistics = [theirs.fid_features_to_statistics(torch.from_numpy(z)) for z in (x, y)]
    expected = theirs.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    ours = distances.frechet_distance(distances.Moments.of(x), distances.Moments.of(y))
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


@pytest.mark.parity
def test_kernel_distance_of_torch_fidelity(fidelity):
    import torch

    theirs = fidelity("kid")
    x, y = (draw(seed, n, 24, shift).astype(np.float64) for seed, n, shift in ((0, 500, 0.0), (1, 400, 0.3)))
    expected = theirs.kid_features_to_metric(
        torch.from_numpy(x), torch.from_numpy(y), kid_subsets=10, kid_subset_size=100, rng_seed=2020, verbose=False
    )
    ours = distances.kernel_distance(x, y, subsets=10, subset_size=100)
    np.testing.assert_allclose(ours, list(expected.values()), rtol=1e-6)


@pytest.mark.parity
def test_inception_score_of_torch_fidelity(fidelity):
    import torch

    theirs = fidelity("isc")
    logits = 3 * np.random.default_rng(0).normal(size=(503, 10))
    expected = theirs.isc_features_to_metric(torch.from_numpy(logits), splits=10, shuffle=True, rng_seed=2020)
    np.testing.assert_allclose(distances.inception_score(logits), list(expected.values()), rtol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("k", [1, 3, 5])
def test_prdc_of_its_authors(k):
    import prdc as authors

    real, fake = (draw(seed, n, 8, shift).astype(np.float64) for seed, n, shift in ((0, 300, 0.0), (1, 200, 0.3)))
    expected = authors.compute_prdc(real, fake, nearest_k=k)
    assert 0 < expected["precision"] < 1
    assert prdc.prdc(real, fake, k, k) == pytest.approx({name: float(value) for name, value in expected.items()})
