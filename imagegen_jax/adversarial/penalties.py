"""Gradient penalties: of the gradient of a discriminator's logit D(x) with respect to the image x.

    wgan_gp  (|grad D| - 1)^2   between real and generated images       Gulrajani et al. 2017, equation 3
    dragan   (|grad D| - 1)^2   near real images                        Kodali et al. 2017, section 2.3, and the authors' code
    r1       |grad D|^2 / 2     at real images                          Mescheder et al. 2018, equation 9
    r2       |grad D|^2 / 2     at generated images                     the same, equation 10

Each is (discriminator, real, fake, rng) -> (n,), to be weighted and averaged by the caller; discriminator: (n, h, w, c) ->
(n,) logits, of which each depends on its own image, and real and fake are (n, h, w, c).
"""

import jax
from jax import numpy as jnp

_TINY = 1e-12  # keeps the gradient of a root finite where the gradient is 0


def squared_gradient_norm(discriminator, image):
    """(n,) |grad D(x)|^2, the sum over the pixels of each (h, w, c) image of a batch."""
    gradient = jax.grad(lambda x: discriminator(x).sum())(image)
    return jnp.square(gradient).sum((1, 2, 3))


def _wgan_gp(discriminator, real, fake, rng):
    share = jax.random.uniform(rng, (len(real), 1, 1, 1))
    return _distance_from_one(discriminator, share * real + (1 - share) * fake)


def _dragan(discriminator, real, fake, rng):
    share_rng, noise_rng = jax.random.split(rng)
    share = jax.random.uniform(share_rng, (len(real), 1, 1, 1))
    noise = 0.5 * real.std() * jax.random.uniform(noise_rng, real.shape)
    return _distance_from_one(discriminator, real + share * noise)


def _distance_from_one(discriminator, image):
    return jnp.square(jnp.sqrt(squared_gradient_norm(discriminator, image) + _TINY) - 1)


PENALTIES = {
    "wgan_gp": _wgan_gp,
    "dragan": _dragan,
    "r1": lambda discriminator, real, fake, rng: squared_gradient_norm(discriminator, real) / 2,
    "r2": lambda discriminator, real, fake, rng: squared_gradient_norm(discriminator, fake) / 2,
}
