"""All pairs of the rows of two sets, a block at a time: in float32 on the device, as exact as in float64.

Of n and m features of d dimensions there are n m pairs, each of d products: 10^13 operations for 50,000 and 50,000 Inception
features, which accelerators, and processors with many cores, do in float32 alone. Both sets are centred in float64 first, where
digits would cancel. Then

    sums        are over terms in which nothing cancels, added up in float32 within 1024, and beyond in float64: they are right
                to about 1e-7 of the mean size of a term
    decisions   (which is nearer, which is within a ball) are left to float64 on the host where the rounding of float32, of
                which `_rounding` is a bound, could turn them: they are those of float64

A program takes a block of rows and goes through the points by tiles, so that what it makes of a block and a tile stays in the
caches of a processor: it takes a seventh of the time of doing so with all points at once.
"""

import functools

import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax import progress
from imagegen_jax.training import compiler

_TILE = 1024  # points at a time; their number is filled up to a multiple, so that few shapes are compiled
_HOST_BLOCK = 2**24  # numbers at a time on the host: 128 MiB of float64
_SPARE = 8  # so many more candidates than neighbours
LONG = 1e11  # products from which on there is a bar


def chunks(rows, width):
    """Slices of range(rows) of which each, times `width` float64, stays within 128 MiB."""
    step = max(1, _HOST_BLOCK // max(width, 1))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


@functools.cache
def _compiled(fn, static=()):
    return jax.jit(fn, static_argnames=static, compiler_options=compiler.options())


def _rows():
    """How many are in a block."""
    return 512 if jax.default_backend() == "cpu" else 8192


def _filled(rows, size, value=0.0):
    """float32 rows, filled up with a value to a multiple of a size."""
    missing = -len(rows) % size
    return np.pad(rows.astype(np.float32), [(0, missing)] + [(0, 0)] * (rows.ndim - 1), constant_values=value)


def _tiled(rows, value=0.0):
    """(tiles, _TILE, ...) float32 on the device."""
    return jax.device_put(_filled(rows, _TILE, value).reshape(-1, _TILE, *rows.shape[1:]))


def _blocks(n, m, d, what):
    """Slices of range(n), behind a bar where all pairs with m rows of d numbers take long."""
    parts = [slice(start, min(start + _rows(), n)) for start in range(0, n, _rows())]
    return progress.each(parts, len(parts), "block", what, shown=float(n) * m * d > LONG)


def _over_tiles(fn, tiles):
    """fn(number of the first point, *arrays of a tile), stacked over the tiles."""
    first = jnp.arange(0, len(tiles[0]) * _TILE, _TILE)
    return jax.lax.map(lambda tile: fn(*tile), (first, *tiles))


def _itself(first, rows, column):
    """(n, _TILE) bool: whether row `first` + i is point `column` + j."""
    return first + jnp.arange(len(rows))[:, None] == column + jnp.arange(_TILE)


def _products(x, y):
    return jnp.dot(x, y.T, precision=jax.lax.Precision.HIGHEST)


def _rounding(d, norms, greatest):
    """(n,) bound of what |x - y|^2 = |x|^2 + |y|^2 - 2 x.y is off by in float32, for |x| = norms and |y| <= greatest.

    Of a sum of d products in any order, within d 2^-24 of the sum of their sizes (Higham 2002, equation 3.5), which is at most
    |x| |y|. Rounding the arguments, the squares and what these are compared with adds less than 16 of the d; the rest is
    a margin for hardware whose float32 products are rounded once more.
    """
    return (d + 16) * 2.0**-23 * np.square(norms + greatest)


# ----------------------------------------------------------------------------------------------------------------- kernel sums


class Cubic:
    """Sums of the kernel k(x, y) = (x.y / d + 1)^3, less what no comparison of two sets can see.

    With a = (x - c) / sqrt d, p = (x - c).c / d, the same of y, b and q, and e = c.c / d + 1 is x.y / d + 1 = a.b + p + q + e.
    k(x, c) = (p + e)^3 depends on x alone. Twice the mean of it over x is in the pairs within x, and likewise in those across,
    so that it drops out of the maximum mean discrepancy. What is left of the kernel is, with u = a.b and s = e + p + q,

        k(x, y) - k(x, c) - k(c, y) + k(c, c)  =  u (3 s^2 + 3 s u + u^2)  +  3 p q (e + s),

    in which nothing cancels: where features differ little from their mean c, k is 1 in all digits and this is small.
    """

    def __init__(self, *sets):
        """Prepares (n, d) sets, of which c is the mean.

        Attributes:
          sets: ((n, d), (n,)) float32 of each: a and p of its rows.
        """
        d = sets[0].shape[1]
        centre = np.sum([z.sum(0, dtype=np.float64) for z in sets], 0) / sum(map(len, sets))
        self._shift = float(centre @ centre / d + 1)
        self.sets = []
        for z in sets:
            centred = z - centre
            rows = (centred / np.sqrt(d)).astype(np.float32), (centred @ centre / d).astype(np.float32)
            self.sets.append(rows)

    def sums(self, x, y, among=False, what="kernel distance"):
        """What is left of the kernel, summed over pairs.

        Args:
          x: (rows, numbers) of one of `sets`, or some of both.
          y: the same.
          among: whether x and y are one set; then no row is paired with itself.
          what: for the bar.

        Returns:
          ((n,) float64 sums over y, (m,) float64 sums over x).
        """
        tiles = tuple(map(_tiled, y))
        of_x, of_y = np.zeros(len(x[0])), np.zeros(tiles[1].size)
        for part in _blocks(len(x[0]), *y[0].shape, what):
            rows, p = (_filled(array[part], _rows()) for array in x)
            across, down = _compiled(_cubic)(rows, p, tiles, np.float32(self._shift), part.start if among else None)
            of_x[part] = np.asarray(across).sum(0, dtype=np.float64)[: part.stop - part.start]
            of_y += np.asarray(down).ravel()
        return of_x, of_y[: len(y[0])]


def _cubic(x, p, tiles, e, first):
    """((tiles, n), (tiles, _TILE)) partial sums; rows that are 0, which fill up, add nothing."""

    def tile(column, y, q):
        u = _products(x, y)
        s = e + p[:, None] + q
        k = u * (3 * s * s + 3 * s * u + u * u) + 3 * p[:, None] * q * (e + s)
        k = k if first is None else jnp.where(_itself(first, x, column), 0, k)
        return k.sum(1), k.sum(0)

    return _over_tiles(tile, tiles)


# ------------------------------------------------------------------------------------------------------------------ neighbours


def nearest(queries, points, k, among):
    """The nearest points of each query.

    Args:
      queries: (n, d) float64, centred as the points are.
      points: (m, d) float64.
      k: how many.
      among: whether they are one set; then no row is its own neighbour.

    Returns:
      (distances (n, k) float64, indices (n, k) int64), nearest first, exact.
    """
    n, d = queries.shape
    squares = np.square(points).sum(1)
    norms = np.sqrt(np.square(queries).sum(1))
    bound = _rounding(d, norms, np.sqrt(squares.max()))
    taken = min(k + _SPARE, len(points) - among)
    found = np.empty((n, k)), np.empty((n, k), np.int64)
    tiles = _tiled(points), _tiled(squares, np.inf)
    candidates = _compiled(_candidates, ("taken",))
    for part in _blocks(n, len(points), d, "neighbours"):
        rows = queries[part]
        first = part.start if among else None
        apart, index = map(np.asarray, candidates(_filled(rows, _rows()), tiles, first, taken=taken))
        apart, index = apart[: len(rows)], index[: len(rows)]
        # No point that was left out is nearer than this.
        beyond = apart[:, -1] + norms[part] ** 2 - bound[part] if taken < len(points) - among else np.full(len(rows), np.inf)
        for some in chunks(len(rows), taken * d):
            found[0][part][some], found[1][part][some] = _ordered(rows[some], points, index[some], k)
        last = found[0][part][:, -1]
        unsure = part.start + np.flatnonzero((last**2 > beyond) & (last > 0))
        for some in chunks(len(unsure), max(len(points), k * d)):
            which = unsure[some]
            found[0][which], found[1][which] = _on_host(queries[which], points, squares, k, which if among else None)
    return found


def _candidates(rows, tiles, first, taken):
    """(|y|^2 - 2 x.y, indices), each (n, taken), the least first."""

    def tile(column, points, squares):
        nearness = 2 * _products(rows, points) - squares
        nearness = nearness if first is None else jnp.where(_itself(first, rows, column), -jnp.inf, nearness)
        most, index = jax.lax.top_k(nearness, min(taken, _TILE))
        return most, column + index

    most, index = (jnp.concatenate(found, 1) for found in _over_tiles(tile, tiles))
    most, at = jax.lax.top_k(most, taken)
    return -most, jnp.take_along_axis(index, at, 1)


def _ordered(rows, points, index, k):
    """(distances, indices), each (n, k), of the k nearest of the candidates (n, c)."""
    exact = np.linalg.norm(rows[:, None] - points[index], axis=-1)
    order = np.argsort(exact, 1, kind="stable")[:, :k]
    return np.take_along_axis(exact, order, 1), np.take_along_axis(index, order, 1)


def _on_host(rows, points, squares, k, itself):
    """The same among all points; row i is point itself[i], where that is not None."""
    apart = rows @ points.T
    apart *= -2
    apart += squares
    if itself is not None:
        apart[np.arange(len(rows)), itself] = np.inf
    return _ordered(rows, points, np.argpartition(apart, k - 1, axis=1)[:, :k], k)


# ----------------------------------------------------------------------------------------------------------------------- balls


def balls(queries, points, own_radii, radii, slack):
    """Which queries are in which balls about points, and which points in which balls about queries; surfaces count.

    Args:
      queries: (n, d) float64, centred as the points are.
      points: (m, d) float64.
      own_radii: (n,) of the balls about queries.
      radii: (r, m) of the balls about points, of r kinds.
      slack: how much farther than a radius, as a share of the greatest |x| + |y|, is still the surface.

    Returns:
      (counts (r, n): of the balls of each kind that hold a query; held (r, m) bool: whether a ball holds any query;
      near (m,) bool: whether a point is in any query's ball).
    """
    n, d = queries.shape
    squares, own = np.square(points).sum(1), np.square(queries).sum(1)
    bound = _rounding(d, np.sqrt(own), np.sqrt(squares.max()))
    surface = slack * (np.sqrt(own) + np.sqrt(squares.max()))
    counts, held, near = np.zeros((len(radii), n)), np.zeros(radii.shape, bool), np.zeros(len(points), bool)
    tiles = _tiled(points), _tiled(squares, np.inf), _tiled(np.square(radii).T)
    for part in _blocks(n, len(points), d, "precision and recall"):
        of_rows = (_filled(array[part], _rows()) for array in (queries, bound, np.square(own_radii)))
        found, any_held, any_near, undecided, lines = map(
            np.asarray, _compiled(_decided)(*of_rows, _filled(own[part], _rows(), np.inf), tiles)
        )
        counts[:, part] = found.sum(0)[:, : part.stop - part.start]
        held |= np.concatenate(any_held, 1)[:, : len(points)]
        near |= any_near.ravel()[: len(points)]
        tile, line = np.nonzero(lines)
        at, column = np.nonzero(undecided[tile, line])
        row, column = part.start + line[at], tile[at] * _TILE + column
        for some in chunks(len(row), d):
            i, j = row[some], column[some]
            apart = np.linalg.norm(queries[i] - points[j], axis=1) - surface[i]
            for kind, radius in enumerate(radii):
                inside = apart <= radius[j]
                np.add.at(counts[kind], i[inside], 1)
                held[kind, j[inside]] = True
            near[j[apart <= own_radii[i]]] = True
    return counts, held, near


def _decided(rows, bound, own_radii, own, tiles):
    """What float32 decides of the pairs with each tile, and which it does not.

    Returns:
      (counts (tiles, r, n), held (tiles, r, _TILE), near (tiles, _TILE), undecided (tiles, n, _TILE), whether a row has such
      (tiles, n)).
    """

    def tile(_, points, squares, radii):
        apart = own[:, None] + squares - 2 * _products(rows, points)
        limits = [own_radii[:, None], *radii.T]
        undecided = functools.reduce(jnp.logical_or, (jnp.abs(apart - limit) <= bound[:, None] for limit in limits))
        near, *inside = ((apart < limit) & ~undecided for limit in limits)
        counts = jnp.stack([one.sum(1, dtype=jnp.int32) for one in inside])
        return counts, jnp.stack([one.any(0) for one in inside]), near.any(0), undecided, undecided.any(1)

    return _over_tiles(tile, tiles)
