"""A diffusion of the latents of a trained run, its first stage, in place of pixels (Rombach et al. 2022, section 3.2)."""

import dataclasses
from typing import ClassVar

from imagegen_jax import errors
from imagegen_jax import keys
from imagegen_jax.algorithms import diffusion as diffusion_lib
from imagegen_jax.algorithms import diffusion_config
from imagegen_jax.algorithms import of_latents
from imagegen_jax.diffusion import samplers


@dataclasses.dataclass(frozen=True)
class Config(diffusion_config.Config):
    """The keys of a latent diffusion: those of a diffusion, for numbers of deviation 1 and without limits."""

    diffusion: diffusion_config.Objective = diffusion_config.Objective(data_std=1.0)
    sampler: samplers.Sampler = keys.resumable(samplers.Sampler(clip=False))
    decoding: of_latents.Decoding = keys.resumable(of_latents.Decoding())

    def objections(self):
        """See keys.objections."""
        yield from super().objections()
        if self.sampler.clip or self.sampler.threshold:
            yield "sampler.clip", "latents have no limits: set --config.sampler.clip=False --config.sampler.threshold=0"


@dataclasses.dataclass(frozen=True)
class LatentDiffusion(of_latents.OfLatents, diffusion_lib.Diffusion):
    """A diffusion of latents."""

    Config: ClassVar[type] = Config
    Request: ClassVar[type] = keys.options(*diffusion_config.REQUEST, (of_latents.Decoding, of_latents.of_decoding))
    likelihood_costs: ClassVar[None] = None  # those of latents are not those of images
    denoiser: ClassVar[None] = None  # likewise
    denoising: ClassVar[None] = None  # likewise: what is known of an image is not known of its latents

    def check_request(self, request):
        super().check_request(request)
        if request.classifier is not None:
            raise errors.UserError(
                f"--classifier={request.classifier} is of noisy images, and this run diffuses latents: leave it out"
            )
        if self._sampler(request).clip or self._sampler(request).threshold:
            raise errors.UserError("--clip and --threshold are of pixels, and this run diffuses latents: leave them out")
