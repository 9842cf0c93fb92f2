"""A diffusion of the latents of a trained run, its first stage, in place of pixels (Rombach et al. 2022, section 3.2).

With z drawn from the first stage's q(z | x), it is a Diffusion of x0 = (z - mean) / deviation, and images are what the first
stage decodes. Mean and deviation are those of each channel over all places of the first batch, which the first step measures
(appendix G, with one deviation for all channels and no mean). Any run will do whose latents have places. It stays as it is, and
a copy is in the state, so that this run needs that one only to begin.
"""

import dataclasses
from typing import Any
from typing import ClassVar

import flax.struct
import jax
from jax import numpy as jnp

from imagegen_jax import distributions
from imagegen_jax import errors
from imagegen_jax import keys
from imagegen_jax import rng as rng_lib
from imagegen_jax.algorithms import capabilities
from imagegen_jax.algorithms import diffusion as diffusion_lib
from imagegen_jax.algorithms import diffusion_config
from imagegen_jax.diffusion import samplers

_NORMALISATION = "normalisation"  # of TrainState.extra


@flax.struct.dataclass
class Normalisation:
    """To mean 0 and deviation 1 in each channel.

    Attributes:
      mean: (c,) float32.
      std: (c,) float32.
      images: () int32, of how many they are; 0 before they are measured.
    """

    mean: jax.Array
    std: jax.Array
    images: jax.Array

    @classmethod
    def none(cls, channels):
        """Before anything is measured: latents stay as they are."""
        return cls(jnp.zeros(channels), jnp.ones(channels), jnp.int32(0))

    @classmethod
    def of(cls, z):
        """That of latents (n, h, w, c); a channel that does not vary is only shifted."""
        std = z.std((0, 1, 2))
        return cls(z.mean((0, 1, 2)), jnp.where(std > 0, std, 1.0), jnp.int32(len(z)))

    def applied(self, z):
        """(n, h, w, c) -> the same shape."""
        return (z - self.mean) / self.std

    def undone(self, z):
        """The inverse of `applied`."""
        return z * self.std + self.mean


@dataclasses.dataclass(frozen=True)
class Config(diffusion_config.Config):
    """The keys of a latent diffusion: those of a diffusion, for numbers of deviation 1 and without limits."""

    diffusion: diffusion_config.Objective = diffusion_config.Objective(data_std=1.0)
    sampler: samplers.Sampler = keys.resumable(samplers.Sampler(clip=False))

    def objections(self):
        """See keys.objections."""
        yield from super().objections()
        if self.sampler.clip or self.sampler.threshold:
            yield "sampler.clip", "latents have no limits: set --config.sampler.clip=False --config.sampler.threshold=0"


@dataclasses.dataclass(frozen=True)
class LatentDiffusion(diffusion_lib.Diffusion):
    """A diffusion of latents.

    Attributes:
      first_stage: a method that encodes and decodes, whose latents have places; `image_shape` is theirs.
    """

    Config: ClassVar[type] = Config
    first_stage_capability: ClassVar[type] = capabilities.AutoencodesSpatially
    likelihood_costs: ClassVar[None] = None  # those of latents are not those of images
    denoiser: ClassVar[None] = None  # likewise
    denoising: ClassVar[None] = None  # likewise: what is known of an image is not known of its latents

    first_stage: Any = None

    @classmethod
    def from_config(cls, config, spec, training):
        latents = dataclasses.replace(spec, shape=training.first_stage.latent_shape)
        return dataclasses.replace(super().from_config(config, latents, training), first_stage=training.first_stage)

    def init(self, rng):
        own_rng, first_rng = jax.random.split(rng)
        state, first = super().init(own_rng), self.first_stage.init(first_rng).frozen()
        return state.replace(extra={"first_stage": first, _NORMALISATION: Normalisation.none(self.image_shape[-1])})

    def with_first_stage(self, state, trained):
        """See capabilities.HasFirstStage."""
        first = trained.frozen(like=state.extra["first_stage"])
        return state.replace(extra=state.extra | {"first_stage": first})

    def train_step(self, state, batch, rng):
        known = state.extra[_NORMALISATION]
        measured = Normalisation.of(self._encode(state, batch, rng))  # the same latents as those that are trained on
        kept = jax.tree.map(lambda old, new: jnp.where(known.images > 0, old, new), known, measured)
        return super().train_step(state.replace(extra=state.extra | {_NORMALISATION: kept}), batch, rng)

    def check_request(self, request):
        super().check_request(request)
        if request.classifier is not None:
            raise errors.UserError(
                f"--classifier={request.classifier} is of noisy images, and this run diffuses latents: leave it out"
            )
        if self._sampler(request).clip or self._sampler(request).threshold:
            raise errors.UserError("--clip and --threshold are of pixels, and this run diffuses latents: leave them out")

    def precompute(self, state, batch):
        """See capabilities.Precomputes: latents, or mean and log deviation of their posterior, side by side."""
        first = state.extra["first_stage"]
        if not isinstance(self.first_stage, capabilities.HasPosterior):
            return {"latents": self.first_stage.encode(first, batch)}
        return {"posterior": jnp.concatenate(self.first_stage.posterior(first, batch), -1)}

    def _encode(self, state, batch, rng):
        rng = jax.random.fold_in(rng, 4)
        if "latents" in batch:
            return batch["latents"]
        if "posterior" in batch:
            posterior = distributions.Gaussian(*jnp.split(batch["posterior"], 2, -1))
            return posterior.at(rng_lib.normal(rng, batch["index"], self.image_shape))
        return self.first_stage.encode(state.extra["first_stage"], batch, rng)

    def _data(self, state, batch, rng):
        return state.extra[_NORMALISATION].applied(self._encode(state, batch, rng))

    def _images(self, state, x, condition):
        return self.first_stage.decode(state.extra["first_stage"], state.extra[_NORMALISATION].undone(x), condition)
