"""Drawing codes, each one of K, of a network's logits: which of them may be drawn, and in which order an image's codes are.

That is one after the other, as of any autoregressive model, or many at once, of which the likeliest stay and the others are
masked again (MaskGIT: Chang et al. 2022, section 3.2).
"""

import dataclasses
import math
from typing import Annotated

import jax
from jax import numpy as jnp

from imagegen_jax import keys


@dataclasses.dataclass(frozen=True)
class Sampler:
    """How codes are drawn: the section `sampler` of a prior over codes, and its options of drawing."""

    temperature: Annotated[float, "Prior of codes: divisor of the logits.", keys.Above(0)] = 1.0
    top_k: Annotated[int, "Prior of codes: draw among so many likeliest alone; 0 is all of them.", keys.AtLeast(0)] = 0
    top_p: Annotated[
        float,
        "Prior of codes: draw among the fewest likeliest that have this probability together.",
        keys.Above(0),
        keys.AtMost(1),
    ] = 1.0
    guidance_scale: Annotated[
        float,
        "Prior of codes: 0 draws without labels, 1 as the run does; more is further away from 0.",
        keys.AtLeast(0),
    ] = 1.0
    steps: Annotated[int, "Masked prior of codes: evaluations of the network.", keys.AtLeast(1)] = 8
    choice_temperature: Annotated[
        float,
        "Masked prior of codes: of the noise in the choice of codes that stay, which ends at 0.",
        keys.AtLeast(0),
    ] = 4.5

    def about(self, masked):
        """What drawing depends on, by name: all of a masked prior, otherwise what changes probabilities."""
        changes = {
            name: value for name, value in vars(self).items() if name not in OF_MASKED and value != getattr(Sampler, name)
        }
        return changes | ({name: getattr(self, name) for name in OF_MASKED} if masked else {})

    @property
    def rows(self):
        """Rows of a network's batch for an image: 2 with guidance, of the null condition and of its own."""
        return 1 if self.guidance_scale == 1 else 2

    def guided(self, logits):
        """Classifier-free guidance (Ho & Salimans 2022, equation 6: the scale is 1 + w).

        Args:
          logits: (rows n, ...); with guidance the n of the null condition come first.

        Returns:
          (n, ...)
        """
        if self.rows == 1:
            return logits
        away, towards = jnp.split(logits, 2)
        return away + self.guidance_scale * (towards - away)

    def filtered(self, logits):
        """(..., K) logits of what is drawn: divided by the temperature, and -inf for what top_k and top_p leave out.

        top_p is the nucleus of Holtzman et al. 2020, equation 2, among the top_k. Of equal logits the first goes before.
        """
        logits = logits / self.temperature
        if self.top_k == 0 and self.top_p == 1:
            return logits
        order = jnp.argsort(-logits, -1)
        kept = jnp.arange(logits.shape[-1]) < (self.top_k or logits.shape[-1])
        ordered = jnp.where(kept, jnp.take_along_axis(logits, order, -1), -jnp.inf)
        probabilities = jax.nn.softmax(ordered)
        kept &= jnp.cumsum(probabilities, -1) - probabilities < self.top_p
        return jnp.where(jnp.take_along_axis(kept, jnp.argsort(order, -1), -1), logits, -jnp.inf)


OF_MASKED = ("steps", "choice_temperature")  # the fields of a Sampler that codes drawn in raster order do not depend on


def ranks(x):
    """(..., l) -> (..., l) int32: how many of a row come before each, in ascending order; of equal ones the first."""
    return jnp.argsort(jnp.argsort(x, -1), -1)


def masked_share(ratio):
    """The cosine schedule gamma of MaskGIT: the share of codes that are masked, for a ratio in [0, 1)."""
    return jnp.cos(jnp.pi / 2 * ratio)


def random_masks(keys, length, counts):
    """(n, length) bool: in row i, counts[i] places that are drawn with keys[i]."""
    noise = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys)
    return ranks(noise) < counts[:, None]


def masked_after(length, steps):
    """How many of `length` codes are masked after each of so many steps, 0 in the end.

    It is floor(gamma(t / steps) length), but at least one, and at least one less than before, as in google-research/maskgit
    (libml/parallel_decode.py).
    """
    left = [length]
    for t in range(1, steps):
        left.append(max(1, min(left[-1] - 1, math.floor(length * math.cos(math.pi / 2 * t / steps)))))
    return (*left[1:], 0)


def kept_masked(confidence, masked, left):
    """Of those places that are masked, the `left` least confident: (..., l) bool. What is known stays so."""
    return ranks(jnp.where(masked, confidence, jnp.inf)) < left
