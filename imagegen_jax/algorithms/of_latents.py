"""What a method of latents has beside one of pixels: a trained run that encodes and decodes (Rombach et al. 2022, section 3.2).

With z drawn from the first stage's q(z | x), the data are (z - mean) / deviation, and images are what the first stage decodes.
Mean and deviation are those of each channel over all places of the first batch, which the first step measures (appendix G, with
one deviation for all channels and no mean). Any run will do whose latents have places. It stays as it is, and a copy is in the
state, so that this run needs that one only to begin.
"""

import dataclasses
from typing import Annotated
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
from imagegen_jax.diffusion import tiles

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
class Decoding:
    """The section `decoding`, and options of drawing."""

    tile: Annotated[
        int,
        keys.AtLeast(0),
        "Latent diffusion: side, in latents, of the overlapping tiles that are decoded one by one, which takes less memory; "
        "0 for the whole.",
    ] = 0


def of_decoding(key):
    """The option of drawing that takes the place of a key of the section `decoding`."""
    return f"decoding_{key}"


@dataclasses.dataclass(frozen=True)
class OfLatents:
    """Comes before a method of arrays of `image_shape`, whose data and images it replaces.

    Attributes:
      first_stage: a method that encodes and decodes, whose latents have places; `image_shape` is theirs.
      decoding: how they are decoded, unless the request says otherwise.
    """

    first_stage_capability: ClassVar[type] = capabilities.AutoencodesSpatially

    first_stage: Any = None
    decoding: Decoding = Decoding()

    @classmethod
    def from_config(cls, config, spec, training):
        first = training.first_stage
        made = super().from_config(config, dataclasses.replace(spec, shape=first.latent_shape), training)
        made = dataclasses.replace(made, first_stage=first, decoding=config.decoding)
        made._check_tile("config.decoding.tile is {}", config.decoding.tile)
        return made

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

    def sample(self, state, keys, condition, request):
        asked = dataclasses.replace(self, decoding=self._decoding(request))
        return super(OfLatents, asked).sample(state, keys, condition, request)

    def check_request(self, request):
        super().check_request(request)
        self._check_tile("--decoding_tile={}", request.decoding_tile)

    def about_request(self, request):
        tile = self._decoding(request).tile
        return super().about_request(request) | ({"decoding_tile": tile} if tile else {})

    def precompute(self, state, batch):
        """See capabilities.Precomputes: latents, or mean and log deviation of their posterior, side by side."""
        first = state.extra["first_stage"]
        if not isinstance(self.first_stage, capabilities.HasPosterior):
            return {"latents": self.first_stage.encode(first, batch)}
        return {"posterior": jnp.concatenate(self.first_stage.posterior(first, batch), -1)}

    def _decoding(self, request):
        return dataclasses.replace(self.decoding, **keys.asked(request, Decoding, of_decoding))

    def _check_tile(self, asked, tile):
        if tile and not self._pixels:
            height, width, _ = self.first_stage.image_shape
            raise errors.UserError(
                f"{asked.format(tile)}: images of {height}x{width} are no whole number of times as large as their "
                f"{self.image_shape[0]}x{self.image_shape[1]} latents; leave it out"
            )

    @property
    def _pixels(self):
        """Sides of an image over those of its latents; 0 where they are no whole number, the same of both."""
        ratios = {divmod(pixels, places) for pixels, places in zip(self.first_stage.image_shape[:2], self.image_shape[:2])}
        times, rest = ratios.pop()
        return 0 if ratios or rest else times

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
        first, z, tile = state.extra["first_stage"], state.extra[_NORMALISATION].undone(x), self.decoding.tile
        if not 0 < tile < max(self.image_shape[:2]):
            return self.first_stage.decode(first, z, condition)
        size = tuple(min(side, tile) for side in self.image_shape[:2])
        shape = *(side * self._pixels for side in size), self.first_stage.image_shape[-1]
        of_tile = self.first_stage.of_image_shape(shape)
        return tiles.blended(lambda z: of_tile.decode(first, z, condition), z, size, overlap=min(size) // 4, scale=self._pixels)
