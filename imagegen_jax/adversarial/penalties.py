"""What is asked of a discriminator's slope, the gradient of its logit D(x) with respect to an image.

    wgan_gp  (|grad D| - 1)^2   between real and generated images       Gulrajani et al. 2017, equation 3
    dragan   (|grad D| - 1)^2   near real images                        Kodali et al. 2017, section 2.3, and the authors' code
    r1       |grad D|^2 / 2     at real images                          Mescheder et al. 2018, equation 9
    r2       |grad D|^2 / 2     at generated images                     the same, equation 10

Each is (judge, real, fake, rng) -> (n,), to be weighted and averaged by the caller; judge: (n, h, w, c) -> (n,) logits, of
which each depends on its own image, and real and fake are (n, h, w, c).
"""

import jax
from jax import numpy as jnp

_TINY = 1e-12  # keeps the gradient of a root finite where there is no slope at all


def squared_slope(judge, image):
    """(n,) |grad D(x)|^2, the sum over the pixels of each (h, w, c) image of a batch."""
    slope = jax.grad(lambda x: judge(x).sum())(image)
    return jnp.square(slope).sum((1, 2, 3))


def _wgan_gp(judge, real, fake, rng):
    share = jax.random.uniform(rng, (len(real), 1, 1, 1))
    return _distance_from_one(judge, share * real + (1 - share) * fake)


def _dragan(judge, real, fake, rng):
    share_rng, noise_rng = jax.random.split(rng)
    share = jax.random.uniform(share_rng, (len(real), 1, 1, 1))
    noise = 0.5 * real.std() * jax.random.uniform(noise_rng, real.shape)
    return _distance_from_one(judge, real + share * noise)


def _distance_from_one(judge, image):
    return jnp.square(jnp.sqrt(squared_slope(judge, image) + _TINY) - 1)


PENALTIES = {
    "wgan_gp": _wgan_gp,
    "dragan": _dragan,
    "r1": lambda judge, real, fake, rng: squared_slope(judge, real) / 2,
    "r2": lambda judge, real, fake, rng: squared_slope(judge, fake) / 2,
}
