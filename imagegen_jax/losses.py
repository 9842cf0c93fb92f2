"""Losses that several families share, elementwise on what a network gives; the caller averages.

A discriminator's logits are unbounded, positive for images that it takes for real. With softplus(x) = log(1 + e^x), minus the
log of a sigmoid is softplus(-x), exact and with a gradient at any logit.

                    the discriminator on real, on fake             the generator on fake
    minimax         softplus(-r)       softplus(f)                 -softplus(f)       Goodfellow et al. 2014, equation 1
    non_saturating  softplus(-r)       softplus(f)                 softplus(-f)       the same, section 3
    least_squares   (r - 1)^2          f^2                         (f - 1)^2          Mao et al. 2017, equation 9
    hinge           max(0, 1 - r)      max(0, 1 + f)               -f                 Miyato et al. 2018, equations 16 and 17
    wasserstein     -r                 f                           -f                 Arjovsky et al. 2017, equation 2

One-sided label smoothing (Salimans et al. 2016, section 3.4) asks of the discriminator 1 - a instead of 1 on real images, where
a loss has targets at all: (1 - a) softplus(-r) + a softplus(r) = softplus(-r) + a r, and (r - 1 + a)^2.
"""

from collections.abc import Callable
import dataclasses

import jax
from jax import numpy as jnp


@dataclasses.dataclass(frozen=True)
class Adversarial:
    """The terms of one adversarial loss, each (...) logits -> (...) to be minimised.

    Attributes:
      real: the discriminator's, on its logits of real images.
      fake: the discriminator's, on its logits of generated images.
      generator: the generator's, on the discriminator's logits of its images.
    """

    real: Callable[[jax.Array], jax.Array]
    fake: Callable[[jax.Array], jax.Array]
    generator: Callable[[jax.Array], jax.Array]


_log_loss = dict(real=lambda r: jax.nn.softplus(-r), fake=jax.nn.softplus)

ADVERSARIAL = {
    "minimax": Adversarial(**_log_loss, generator=lambda f: -jax.nn.softplus(f)),
    "non_saturating": Adversarial(**_log_loss, generator=lambda f: jax.nn.softplus(-f)),
    "least_squares": Adversarial(lambda r: jnp.square(r - 1), jnp.square, lambda f: jnp.square(f - 1)),
    "hinge": Adversarial(lambda r: jax.nn.relu(1 - r), lambda f: jax.nn.relu(1 + f), jnp.negative),
    "wasserstein": Adversarial(jnp.negative, lambda f: f, jnp.negative),
}

_SMOOTHED = {
    "minimax": lambda r, amount: jax.nn.softplus(-r) + amount * r,
    "non_saturating": lambda r, amount: jax.nn.softplus(-r) + amount * r,
    "least_squares": lambda r, amount: jnp.square(r - 1 + amount),
}
SMOOTHED = tuple(_SMOOTHED)  # the losses with targets


def adversarial(name, smoothing=0.0):
    """The Adversarial of a key of ADVERSARIAL, with labels smoothed by this amount where it is not 0 (keys of SMOOTHED)."""
    if not smoothing:
        return ADVERSARIAL[name]
    return dataclasses.replace(ADVERSARIAL[name], real=lambda r: _SMOOTHED[name](r, smoothing))
