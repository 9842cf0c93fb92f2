"""Batches of what was computed of the images once, in their place."""

import numpy as np


class Reader:
    """Reads rows of arrays of all records, with the condition that comes with the images.

    Attributes:
      captions: as pipeline.Reader has them.
      skipped: likewise; nothing is.
    """

    skipped = frozenset()

    def __init__(self, reader, labels, arrays):
        """`reader` is that of the images, `labels` the number of each record's class, `arrays` {name: a row for each}."""
        self.captions = reader.captions
        self._reader = reader
        self._labels = np.asarray(labels)
        self._arrays = arrays

    @property
    def rows(self):
        """See pipeline.Reader."""
        return {name: (array.shape[1:], array.dtype) for name, array in self._arrays.items()}

    def __call__(self, indices, positions=None):
        """See pipeline.Reader, with the arrays' rows in place of 'image'."""
        rows = {name: np.asarray(array[indices]) for name, array in self._arrays.items()}
        return rows | self._reader.told(self._labels[indices], indices, positions)
