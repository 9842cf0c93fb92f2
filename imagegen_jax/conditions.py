"""What images are to show: their class, and later the words of a text, a smaller image, a mask.

A batch and a request carry `condition`, {name: array with a row for each image}. images.Spec.conditions describes each by its
name, so that leaving conditions out in training (Ho & Salimans 2022, algorithm 1) and guidance need not know what they are.
"""

from collections.abc import Mapping
import dataclasses
from typing import Protocol

import jax
from jax import numpy as jnp
import numpy as np


class Condition(Protocol):
    """A kind of condition."""

    def null(self, n: int) -> jax.Array:
        """The value of n images that shows nothing in particular, as the arrays of this condition have it."""


@dataclasses.dataclass(frozen=True)
class Label:
    """A class, (n,) int32 in [0, classes). The null condition is the number behind the last, of which a one-hot code is 0."""

    classes: int

    def null(self, n):
        """See Condition."""
        return jnp.full(n, self.classes, jnp.int32)


def dropped(condition: Mapping[str, jax.Array], kinds: Mapping[str, Condition], chosen: jax.Array) -> dict[str, jax.Array]:
    """The condition with the null one in the rows that are `chosen`, (n,) bool."""
    n = len(chosen)
    return {
        name: jnp.where(chosen.reshape(n, *[1] * (value.ndim - 1)), kinds[name].null(n), value)
        for name, value in condition.items()
    }


def labels(batch) -> np.ndarray:
    """(n,) int32, the classes of a batch's images on the host; -1 where they have none."""
    return batch["condition"].get("label", np.full(len(batch["index"]), -1, np.int32))
