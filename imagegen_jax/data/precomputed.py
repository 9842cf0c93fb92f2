"""Batches of what was read, or computed of the images, once."""

import numpy as np


class Reader:
    """Reads rows of arrays of all records, with the condition that comes with the images.

    Attributes:
      captions: as pipeline.Reader has them.
    """

    def __init__(self, reader, labels, arrays):
        """`reader` is that of the images, `labels` the number of each record's class, `arrays` {name: a row for each}."""
        self.captions = reader.captions
        self._reader = reader
        self._labels = np.asarray(labels)
        self._arrays = arrays

    @property
    def skipped(self):
        """See pipeline.Reader."""
        return self._reader.skipped

    @property
    def rows(self):
        """See pipeline.Reader."""
        return {name: (array.shape[1:], array.dtype) for name, array in self._arrays.items()}

    def __call__(self, indices, positions=None):
        """See pipeline.Reader, with the arrays' rows in place of 'image'."""
        rows = {name: np.asarray(array[indices]) for name, array in self._arrays.items()}
        return rows | self.told(self._labels[indices], indices, positions)

    def told(self, labels, indices, positions=None):
        """See pipeline.Reader."""
        return self._reader.told(labels, indices, positions)
