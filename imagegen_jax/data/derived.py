"""Sources that are made of others."""

from imagegen_jax.data import fingerprints


class Derived:
    """The records of another source with other images."""

    def __init__(self, source, kind, image_shape, changed):
        """Prepares them; nothing is read.

        Args:
          source: a sources.Source.
          kind: tuple of what they depend on beside the source, such as ('edges',).
          image_shape: of the images that are made.
          changed: (image, number of the record) -> such an image.
        """
        self._source, self._kind, self._changed = source, kind, changed
        self.image_shape = image_shape
        self.class_names = source.class_names
        self.skipped = source.skipped
        self.names = getattr(source, "names", None)

    @property
    def labels(self):
        return self._source.labels

    @property
    def fingerprint(self):
        return fingerprints.of(*self._kind, self._source.fingerprint)

    def __len__(self):
        return len(self._source)

    def __getitems__(self, indices):
        records = self._source.__getitems__(indices)
        return [dict(record, image=self._changed(record["image"], i)) for record, i in zip(records, indices)]
