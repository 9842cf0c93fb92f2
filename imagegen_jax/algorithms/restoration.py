"""A diffusion that is told a degraded version of the image, and restores it (Saharia et al. 2021, SR3; 2022b, Palette).

It draws of p(x | y) for one kind of degradation (diffusion/degradations.py), which training makes of the images themselves: a
Diffusion whose network sees y beside x_t, as further channels. All else is that of any diffusion.
"""

import dataclasses
from typing import ClassVar

import jax
from jax import numpy as jnp

from imagegen_jax import images
from imagegen_jax import rng as rng_lib
from imagegen_jax.algorithms import diffusion as diffusion_lib
from imagegen_jax.algorithms import diffusion_config
from imagegen_jax.diffusion import degradations
from imagegen_jax.diffusion import samplers

_DEGRADED = 2**31 - 2  # folded into the key of an image: how it is degraded, which is nothing of what drawing or training draws


@dataclasses.dataclass(frozen=True)
class Config(diffusion_config.Config):
    """The keys of a restoration: those of a diffusion, and what it learns to undo."""

    restoration: degradations.Superres | degradations.Inpaint | degradations.Colorize = degradations.Superres()
    diffusion: diffusion_config.Objective = diffusion_config.Objective(condition_dropout=0.0)


@dataclasses.dataclass(frozen=True)
class Restoration(diffusion_lib.Diffusion):
    """A diffusion of images of which it is told what is left.

    Attributes:
      degradation: what it undoes, a degradations.Degradation.
    """

    Config: ClassVar[type] = Config
    columns: ClassVar[tuple[str, ...]] = ("image", "degraded", "restored")
    sample: ClassVar[None] = None  # it draws of no image
    denoiser: ClassVar[None] = None  # likewise

    degradation: degradations.Degradation = degradations.Superres()

    @classmethod
    def from_config(cls, config, spec, training):
        return dataclasses.replace(super().from_config(config, spec, training), degradation=config.restoration)

    def panel(self, state, batch, rng):
        told, restored = self._restored(state, batch, rng)
        return jnp.stack([images.to_float(batch["image"]), self.degradation.shown(told, self.image_shape), restored], 1)

    def restore(self, state, batch, rng):
        """See capabilities.Restores."""
        return self._restored(state, batch, rng)[1]

    def _restored(self, state, batch, rng):
        """(what is told of a batch, its restored images)."""
        keys = rng_lib.per_index(rng, batch["index"])
        told = self._told(batch, keys)
        denoise, sampler = self.denoising(state, self.Request())
        x = samplers.sample(denoise, keys, self.image_shape, self.process, sampler, told)
        return told, self._images(state, self.degradation.completed(x, told), told)

    @classmethod
    def _conditions(cls, config, spec):
        return super()._conditions(config, spec) | config.restoration.conditions(spec.shape)

    def _told(self, batch, keys):
        known = super()._told(batch, keys)
        keys = jax.vmap(lambda key: jax.random.fold_in(key, _DEGRADED))(keys)
        return known | self.degradation.drawn(keys, images.to_float(batch["image"]))
