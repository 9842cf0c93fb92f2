"""Drawing images from a trained state: in batches, over all devices, image i the same whatever the batch size."""

import functools

import jax
import numpy as np

from imagegen_jax import images
from imagegen_jax import rng
from imagegen_jax.training import compiler
from imagegen_jax.training import sharding


class Drawer:
    """Draws numbered images; compiled once for each algorithm, batch shape and kind of request."""

    def __init__(self, algorithm, mesh, batch_size, draw=None):
        """Prepares the drawing.

        Args:
          algorithm: one that draws (capabilities.Draws), or whose latents are drawn from by `draw`.
          mesh: the devices.
          batch_size: images drawn at once, rounded up to a multiple of the number of devices.
          draw: (state, keys, condition, request) -> images; by default algorithm.sample.
        """
        self._mesh = mesh
        self._batch_size = sharding.divisible(batch_size, mesh)
        self._classes = algorithm.classes
        self._text = algorithm.text
        self._request = algorithm.Request
        self._sample = _compiled(draw or algorithm.sample, mesh)

    def batches(self, state, seed, num, first=0, label=None, shares=None, texts=None, **options):
        """Yields (n, h, w, c) uint8 arrays, images `first` to num - 1: image i depends on (seed, i) and the options alone.

        Args:
          state: TrainState whose params are drawn with.
          seed: of the stream 'sample'.
          num: how many, if the first is 0.
          first: number of the first; those before it are left out.
          label: see `labels`.
          shares: see `labels`.
          texts: (k, length) int32 tokens of what is to be shown, in turn; None for no words.
          **options: fields of algorithm.Request.
        """
        request = self._request(**options)
        key = sharding.key(self._mesh, seed, "sample")
        for start in range(first, num, self._batch_size):
            # The last batch is drawn whole, so that nothing is compiled for it, and cut.
            rows = np.arange(start, start + self._batch_size, dtype=np.int32)
            index = sharding.put_rows(self._mesh, rows)
            wanted = labels(rows, self._classes, label, shares)
            condition = {} if wanted is None else {"label": wanted}
            if self._text:
                condition["text"] = self._text.rows("", len(rows)) if texts is None else texts[rows % len(texts)]
            condition = {name: sharding.put_rows(self._mesh, value) for name, value in condition.items()}
            drawn = self._sample(state, key, index, condition, request=request)
            yield np.asarray(drawn)[: num - start]


@functools.lru_cache(maxsize=8)
def _compiled(draw, mesh):
    """The compiled (state, key, index, condition, request) -> images: one, however often a run is asked."""

    def drawn(state, key, index, condition, request):
        return images.to_uint8(draw(state, rng.per_index(key, index), condition, request))

    return jax.jit(
        drawn,
        static_argnames="request",
        out_shardings=sharding.replicated(mesh),
        compiler_options=compiler.options(),
    )


def labels(index, classes, label=None, shares=None):
    """The classes of images of these numbers: the one that is wanted, or all of them.

    With shares, image i is of the class in whose part of [0, 1) the fraction of (i + 1/2) times the golden ratio lies. These
    fractions fill the interval more evenly than chance (Kuipers and Niederreiter 1974, section 2.3): of the first n images a
    class has its share, give or take two or three.

    Args:
      index: (n,) numbers of images.
      classes: that the algorithm is told of; 0 where it takes no labels.
      label: the class that is wanted; None for all.
      shares: (classes,) numbers of sum 1, how often each is drawn; None for each in turn.

    Returns:
      (n,) int32, or None where there is neither a class to choose of nor one wanted.
    """
    if label is not None:
        return np.full(len(index), label, np.int32)
    if not classes:
        return None
    if shares is None:
        return (index % classes).astype(np.int32)
    fractions = (np.asarray(index, np.float64) + 0.5) * ((np.sqrt(5) - 1) / 2) % 1
    found = np.searchsorted(np.cumsum(shares), fractions, side="right")
    return np.minimum(found, np.flatnonzero(shares)[-1]).astype(np.int32)


def rows(num, labels, texts):
    """(num,) int32, the row of a grid that each image belongs to: of its label, or of its text; None for no such order."""
    if labels is None and texts is not None and len(texts) > 1:
        return np.arange(num, dtype=np.int32) % len(texts)
    return labels


def compiled_translation(algorithm, direction, out_sharding=None):
    """(state, (n, h, w, c) uint8 of one domain) -> (n, h, w, c') uint8 of the other, compiled at the first call.

    Args:
      algorithm: one that translates (capabilities.Translates).
      direction: one of its directions.
      out_sharding: of the result; None for that of the arguments.
    """

    def translate(state, image):
        return images.to_uint8(algorithm.translate(state, direction, images.to_float(image)))

    return jax.jit(translate, out_shardings=out_sharding, compiler_options=compiler.options())


class Translations:
    """The images of one domain as those of the other; compiled once."""

    def __init__(self, algorithm, mesh, direction, batch_size):
        """`batch_size` images are translated at once, rounded up to a multiple of the number of devices."""
        self._mesh = mesh
        self._batch_size = sharding.divisible(batch_size, mesh)
        self._translate = compiled_translation(algorithm, direction, sharding.replicated(mesh))

    def batches(self, state, batches):
        """Yields the translations by state.params of (n, h, w, c) uint8 arrays, in pieces of their own size."""
        for batch in batches:
            for start in range(0, len(batch), self._batch_size):
                piece = batch[start : start + self._batch_size]
                translated = self._translate(state, sharding.put_filled(self._mesh, piece, self._batch_size))
                yield np.asarray(translated)[: len(piece)]


class Restorations:
    """Held-out images, degraded as in training and restored; compiled once."""

    def __init__(self, algorithm, mesh, batch_size, seed):
        """`batch_size` images are restored at once, rounded up to a multiple of the number of devices."""
        self._mesh = mesh
        self._batch_size = sharding.divisible(batch_size, mesh)
        self._rng = sharding.key(mesh, seed, "sample")
        self._restore = jax.jit(
            lambda state, batch, rng: images.to_uint8(algorithm.restore(state, batch, rng)),
            out_shardings=sharding.replicated(mesh),
            compiler_options=compiler.options(),
        )

    def batches(self, state, batches, first):
        """Yields those by state.params of (images (n, h, w, c) uint8, labels (n,)), of which `first` is the first's number."""
        for image, label in batches:
            for start in range(0, len(image), self._batch_size):
                pieces = [rows[start : start + self._batch_size] for rows in (image, label)]
                number = np.arange(first, first + len(pieces[0]), dtype=np.int32)
                filled = [sharding.put_filled(self._mesh, piece, self._batch_size) for piece in (*pieces, number)]
                batch = {"image": filled[0], "condition": {"label": filled[1]}, "index": filled[2]}
                yield np.asarray(self._restore(state, batch, self._rng))[: len(number)]
                first += len(number)


class Panels:
    """Pictures of what becomes of held-out images, such as their translations: algorithm.columns of each, one row an image."""

    def __init__(self, algorithm, mesh, num, batch_size, seed):
        """`num` images are shown, `batch_size` at once, rounded up to a multiple of the number of devices."""
        self.num = num
        self.batch_size = sharding.divisible(min(batch_size, num), mesh)
        self._mesh = mesh
        self._rng = sharding.key(mesh, seed, "panel")
        self._panel = jax.jit(
            lambda state, batch, rng: images.to_uint8(algorithm.panel(state, batch, rng)),
            out_shardings=sharding.replicated(mesh),
            compiler_options=compiler.options(),
        )

    def batches(self, state, batches):
        """Yields (n * columns, h, w, c) uint8 arrays for the (batch, mask) of domains.eval_batches."""
        left = self.num
        for batch, _ in batches:
            panel = np.asarray(self._panel(state, sharding.put_batch(self._mesh, batch), self._rng))[:left]
            left -= len(panel)
            yield panel.reshape(-1, *panel.shape[2:])
