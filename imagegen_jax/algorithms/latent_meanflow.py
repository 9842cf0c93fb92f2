"""A MeanFlow of the latents of a trained run, its first stage: one evaluation, and decoded (Geng et al. 2025, section 5.1)."""

import dataclasses
from typing import ClassVar

from imagegen_jax import keys
from imagegen_jax.algorithms import meanflow
from imagegen_jax.algorithms import of_latents


@dataclasses.dataclass(frozen=True)
class Config(meanflow.Config):
    """The keys of a MeanFlow of latents."""

    decoding: of_latents.Decoding = keys.resumable(of_latents.Decoding())


@dataclasses.dataclass(frozen=True)
class LatentMeanFlow(of_latents.OfLatents, meanflow.MeanFlow):
    """A MeanFlow of latents."""

    Config: ClassVar[type] = Config
    Request: ClassVar[type] = keys.options((meanflow.Sampler, str), (of_latents.Decoding, of_latents.of_decoding))
