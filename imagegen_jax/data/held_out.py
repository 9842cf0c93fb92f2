"""Combinations, such as of a colour and a class, that training never sees, to ask whether a model composes what it knows."""

import hashlib

from imagegen_jax import errors
from imagegen_jax.data import fingerprints


def chosen(combinations, share):
    """The combinations that are held out: so many of those that differ, always the same, by a hash of their names.

    Args:
      combinations: texts; '' is none and stays.
      share: of them in [0, 1), rounded to a whole number.

    Returns:
      A set of texts.
    """
    names = sorted({name for name in combinations if name}, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return set(names[: round(share * len(names))])


def remaining(source, share, spec):
    """A source without the records of held-out combinations.

    Args:
      source: a sources.Source that has `combinations`, a text for each record.
      share: see `chosen`.
      spec: how a config names it, for the error.

    Raises:
      errors.UserError: the source has no combinations.
    """
    combinations = getattr(source, "combinations", ())
    if not any(combinations):
        raise errors.UserError(
            f"config.data.hold_out is {share}, and nothing is combined in the images of {spec}: "
            "it is of tinted:SPEC, whose images have a colour and a class, and of emoji"
        )
    left_out = chosen(combinations, share)
    return Subset(source, [i for i, name in enumerate(combinations) if name not in left_out])


class Subset:
    """The records of these numbers of another source."""

    def __init__(self, source, numbers):
        self._source = source
        self._numbers = numbers
        self.image_shape = source.image_shape
        self.class_names = source.class_names
        self.skipped = source.skipped

    @property
    def labels(self):
        return self._chosen(self._source.labels)

    @property
    def captions(self):
        found = getattr(self._source, "captions", None)
        return found if found is None else self._chosen(found)

    @property
    def combinations(self):
        return self._chosen(self._source.combinations)

    @property
    def fingerprint(self):
        return fingerprints.of("subset", self._numbers, self._source.fingerprint)

    def __len__(self):
        return len(self._numbers)

    def __getitems__(self, indices):
        return self._source.__getitems__([self._numbers[i] for i in indices])

    def _chosen(self, values):
        return [values[i] for i in self._numbers]
