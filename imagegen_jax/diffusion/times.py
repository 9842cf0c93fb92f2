"""The times of training: how much noise a batch's images have.

    uniform     uniform in time (Ho et al. 2020, algorithm 1)
    log_normal  log(sigma / alpha) is normal (Karras et al. 2022, table 1); in the flow process this is the logit of t, and the
                density the logit-normal one of Esser et al. 2024, equation 19

A shift multiplies sigma / alpha, as Esser et al. 2024 do for larger images (equation 23).
"""

import dataclasses
from typing import Annotated

import jax
from jax import numpy as jnp
from jax.scipy import special
from jax.scipy import stats

from imagegen_jax import keys
from imagegen_jax.diffusion import processes

NAMES = ("uniform", "log_normal")


@dataclasses.dataclass(frozen=True)
class Times:
    """A distribution of times.

    Attributes:
      process: of which they are times.
      name: one of NAMES.
      mean: of log(sigma / alpha), of log_normal.
      std: its standard deviation.
      shift: factor of sigma / alpha.
    """

    process: processes.Process
    name: str = "uniform"
    mean: float = -1.2
    std: Annotated[float, keys.Above(0)] = 1.2
    shift: Annotated[float, keys.Above(0)] = 1.0

    def draw(self, rng, shape=()):
        """Independent times."""
        if self._plain:
            return self.process.uniform_times(rng, shape)
        return self._at(jax.random.uniform(rng, shape))

    def spread(self, rng, n):
        """(n,) times of stratified u, each as likely as in `draw`.

        One uniform draw shifts an even grid over the batch (Kingma et al. 2021, appendix I.1), so that the mean over the batch
        varies less. A permutation keeps a time from clinging to a row.
        """
        shift, order = jax.random.split(rng)
        return self._at((jax.random.uniform(shift) + jax.random.permutation(order, n) / n) % 1.0)

    def log_snr_density(self, log_snr):
        """p(lambda) of the times' log(alpha^2 / sigma^2), shaped as it."""
        log_snr = log_snr + 2 * jnp.log(self.shift)
        if self.name == "log_normal":
            return stats.norm.pdf(-log_snr / 2, self.mean, self.std) / 2
        rate = self.process.log_snr_rate(self.process.time(log_snr))
        return 1 / (jnp.abs(rate) * (self.process.most - self.process.least))

    @property
    def _plain(self):
        return self.name == "uniform" and self.shift == 1

    def _at(self, u):
        """The time below which a share u of all times are."""
        if self._plain:
            return self.process.at_fraction(u)
        if self.name == "uniform":
            log_ratio = -self.process.log_snr(self.process.at_fraction(u)) / 2
        else:
            log_ratio = self.mean + self.std * special.ndtri(jnp.clip(u, 1e-6, 1 - 1e-6))
        return self.process.nearest(self.process.time(-2 * (log_ratio + jnp.log(self.shift))))
