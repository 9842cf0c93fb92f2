"""Adversarial losses, elementwise on the discriminator's logits; the caller averages.

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

The decision boundary is the best logit of an image that is as likely real as generated: 0 for the log losses and hinge, 1/2 for
least squares; smoothed log((1 - a) / (1 + a)) and (1 - a) / 2. The Wasserstein loss has none: a constant added to all logits
leaves it as it is, and only a bound on the discriminator's gradient keeps it finite.
"""

from collections.abc import Callable
import dataclasses
import math

import jax
from jax import numpy as jnp


@dataclasses.dataclass(frozen=True)
class Adversarial:
    """The terms of one adversarial loss, each (...) logits -> (...) to be minimised.

    Attributes:
      real: the discriminator's, on its logits of real images.
      fake: the discriminator's, on its logits of generated images.
      generator: the generator's, on the discriminator's logits of its images.
      boundary: the logit above which the discriminator takes an image for real; None where no logit means that.
    """

    real: Callable[[jax.Array], jax.Array]
    fake: Callable[[jax.Array], jax.Array]
    generator: Callable[[jax.Array], jax.Array]
    boundary: float | None = 0.0


_log_loss = dict(real=lambda r: jax.nn.softplus(-r), fake=jax.nn.softplus)

ADVERSARIAL = {
    "minimax": Adversarial(**_log_loss, generator=lambda f: -jax.nn.softplus(f)),
    "non_saturating": Adversarial(**_log_loss, generator=lambda f: jax.nn.softplus(-f)),
    "least_squares": Adversarial(lambda r: jnp.square(r - 1), jnp.square, lambda f: jnp.square(f - 1), 0.5),
    "hinge": Adversarial(lambda r: jax.nn.relu(1 - r), lambda f: jax.nn.relu(1 + f), jnp.negative),
    "wasserstein": Adversarial(jnp.negative, lambda f: f, jnp.negative, None),
}

BOUNDED = tuple(name for name, terms in ADVERSARIAL.items() if terms.boundary is not None)  # whatever the discriminator


def _smoothed_log_loss(amount):
    return dict(real=lambda r: jax.nn.softplus(-r) + amount * r, boundary=math.log((1 - amount) / (1 + amount)))


_SMOOTHED = {
    "minimax": _smoothed_log_loss,
    "non_saturating": _smoothed_log_loss,
    "least_squares": lambda amount: dict(real=lambda r: jnp.square(r - 1 + amount), boundary=(1 - amount) / 2),
}
SMOOTHED = tuple(_SMOOTHED)  # the losses with targets


def adversarial(name, smoothing=0.0):
    """The Adversarial of a key of ADVERSARIAL, with labels smoothed by this amount where it is not 0 (keys of SMOOTHED)."""
    if not smoothing:
        return ADVERSARIAL[name]
    return dataclasses.replace(ADVERSARIAL[name], **_SMOOTHED[name](smoothing))
