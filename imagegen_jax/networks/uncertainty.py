"""How far off a denoiser is at each noise level."""

from flax import linen as nn
from jax import numpy as jnp

_WAVES = 16


class LogVariance(nn.Module):
    """The u(lambda) of Karras et al. 2024, section 2.2: at its best the logarithm of the weighted error at a noise level.

    A linear layer on Fourier features of the log signal-to-noise ratio, zero at first.
    """

    @nn.compact
    def __call__(self, log_snr):
        """(n,) log(alpha^2 / sigma^2) -> (n,) float32."""
        angles = log_snr[:, None] * jnp.linspace(0.0, 1.0, _WAVES)
        waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        return nn.Dense(1, kernel_init=nn.initializers.zeros, name="linear")(waves)[:, 0]
