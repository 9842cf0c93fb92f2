"""Batches of what was computed of the images once, in their place."""

import numpy as np


class Reader:
    """Reads rows of arrays of all records, with the condition that comes with the images.

    Attributes:
      captions: as pipeline.Reader has them.
      skipped: likewise; nothing is.
    """

    skipped = frozenset()

    def __init__(self, source, captions, arrays):
        """`arrays` are {name: an array with a row for each record of the source}."""
        self._labels = np.asarray(source.labels, np.int32) if source.class_names else None
        self.captions = captions
        self._arrays = arrays

    @property
    def rows(self):
        """See pipeline.Reader."""
        return {name: (array.shape[1:], array.dtype) for name, array in self._arrays.items()}

    def __call__(self, indices, positions=None):
        """See pipeline.Reader, with the arrays' rows in place of 'image'."""
        condition = {}
        if self._labels is not None:
            condition["label"] = self._labels[indices]
        if self.captions:
            condition["text"] = self.captions(indices, positions)
        rows = {name: np.asarray(array[indices]) for name, array in self._arrays.items()}
        return rows | {"condition": condition, "index": np.array(indices, np.int32)}
