"""The keys and the options of drawing of a diffusion (algorithms/diffusion.py)."""

import dataclasses
from typing import Annotated

from imagegen_jax import keys
from imagegen_jax.diffusion import guidance as guidance_lib
from imagegen_jax.diffusion import prediction_types
from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import samplers
from imagegen_jax.diffusion import schedules
from imagegen_jax.diffusion import times as times_lib
from imagegen_jax.diffusion import weightings
from imagegen_jax.networks import denoisers
from imagegen_jax.networks import text_encoder as text_encoder_lib
from imagegen_jax.networks import unet


@dataclasses.dataclass(frozen=True)
class Objective:
    """The section `diffusion`."""

    process: Annotated[str, keys.OneOf(processes.PROCESSES)] = "ddpm"
    schedule: Annotated[str, keys.OneOf(schedules.CURVES)] = "linear"  # of ddpm and vp
    length: Annotated[int, keys.AtLeast(2)] = 1000  # steps, of ddpm
    prediction_type: Annotated[str, keys.OneOf(prediction_types.NAMES)] = "eps"  # what the network predicts
    # Standard deviation of the pixels: of the prediction and weighting edm, and of what a network sees of ve.
    data_std: Annotated[float, keys.Above(0)] = 0.5
    weighting: Annotated[str, keys.OneOf(weightings.NAMES)] = "simple"
    gamma: Annotated[float, keys.AtLeast(0)] = 5.0  # of min_snr
    bias: float = 2.0  # of sigmoid
    uncertainty: bool = False  # weight each noise level by a learned variance of its error, too
    learn_variance: bool = False  # of the steps of ddpm, beside the prediction (Nichol & Dhariwal 2021, section 3.1)
    times: Annotated[str, keys.OneOf(times_lib.NAMES)] = "uniform"  # of training
    time_mean: float = -1.2  # of log(sigma / alpha), of log_normal
    time_std: Annotated[float, keys.Above(0)] = 1.2  # likewise
    time_shift: Annotated[float, keys.Above(0)] = 1.0  # factor of sigma / alpha
    stratified: bool = False  # spread the times of a batch evenly
    coupling: Annotated[str, keys.OneOf(("independent", "optimal"))] = "independent"  # which noise an image is trained with
    conditional: bool = False  # on labels, which the network is told
    text: bool = False  # likewise on captions, of which config.data.caption_length tokens are read
    # Share of the training images whose condition is left out, so that guidance knows images in general.
    condition_dropout: Annotated[float, keys.AtLeast(0), keys.AtMost(1)] = 0.1

    def objections(self):
        """See keys.objections."""
        uniform = self.times == "uniform" and self.time_shift == 1
        if self.learn_variance and not (self.process == "ddpm" and uniform):
            yield "learn_variance", "it needs config.diffusion.process=ddpm, whose times are uniform and not shifted"


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of a diffusion."""

    network: denoisers.Config = unet.Config()
    text_encoder: text_encoder_lib.Config = text_encoder_lib.Config()
    diffusion: Objective = Objective()
    sampler: samplers.Sampler = keys.resumable(samplers.Sampler())
    guidance: guidance_lib.Guidance = keys.resumable(guidance_lib.Guidance())

    def objections(self):
        """See keys.objections."""
        if self.diffusion.process == "ddpm" and self.sampler.steps > self.diffusion.length:
            yield "sampler.steps", f"it can be at most config.diffusion.length ({self.diffusion.length})"
        if self.sampler.variance == "learned" and not self.diffusion.learn_variance:
            yield "sampler.variance", "it needs config.diffusion.learn_variance=True"
        if self.guidance.scale != 1 and not (self.diffusion.conditional or self.diffusion.text):
            yield "guidance.scale", "it needs config.diffusion.conditional=True"
        if self.guidance.scale != 1 and not self.diffusion.condition_dropout:
            yield "guidance.scale", "it needs images without conditions in training: config.diffusion.condition_dropout above 0"


def of_sampler(key):
    """The option of drawing that takes the place of a key of the section `sampler`."""
    return "sampler" if key == "name" else key


def of_guidance(key):
    """That of a key of the section `guidance`."""
    return f"guidance_{key}"


# Of keys.options.
REQUEST = (
    (samplers.Sampler, of_sampler),
    (guidance_lib.Guidance, of_guidance),
    (guidance_lib.Companions, str),
    (guidance_lib.Words, str),
)
