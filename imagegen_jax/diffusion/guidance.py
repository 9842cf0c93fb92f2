"""Guidance: denoisers that lean on a second opinion (solvers.Denoiser -> solvers.Denoiser).

What a network predicts determines x0 linearly given x_t, so that guiding x0 guides any prediction likewise.
"""

import dataclasses
from typing import Annotated

import jax
from jax import numpy as jnp

from imagegen_jax import keys
from imagegen_jax.diffusion import solvers

ALWAYS = 1e6  # a sigma / alpha that no process comes to


@dataclasses.dataclass(frozen=True)
class Guidance:
    """How much guidance; the section `guidance`, and options of drawing.

    The interval is that of Kynkäänniemi et al. 2024, equation 5: outside the scale is 1. The rescaling is that of Lin et al.
    2024, equations 15 and 16, here of x0.
    """

    scale: Annotated[
        float,
        keys.AtLeast(0),
        "Diffusion: 0 draws without labels, or by --guidance_checkpoint; 1 as the run does; more is further away from 0.",
    ] = 1.0
    low: Annotated[float, keys.AtLeast(0), "Diffusion: sigma / alpha above which there is guidance."] = 0.0
    high: Annotated[float, keys.Above(0), "Diffusion: sigma / alpha up to which there is guidance."] = ALWAYS
    rescale: Annotated[
        float,
        keys.AtLeast(0),
        keys.AtMost(1),
        "Diffusion: 1 gives guided images the contrast of unguided ones, 0 leaves them theirs.",
    ] = 0.0

    def objections(self):
        """See keys.objections."""
        if self.low >= self.high:
            yield "low", f"it must be less than config.guidance.high ({self.high})"

    def extrapolated(self, towards, away, level):
        """away + scale (towards - away), of images (n, ...)."""
        ratio = level.noise_ratio
        scale = jnp.where((ratio > self.low) & (ratio <= self.high), self.scale, 1.0)
        guided = away + scale * (towards - away)
        if not self.rescale:
            return guided
        axes = tuple(range(1, guided.ndim))
        factor = towards.std(axes, keepdims=True) / jnp.maximum(guided.std(axes, keepdims=True), 1e-8)
        return guided * (self.rescale * factor + 1 - self.rescale)


@dataclasses.dataclass(frozen=True)
class Companions:
    """Other trained states that guide, as options of drawing."""

    guidance_checkpoint: Annotated[
        int,
        keys.AtLeast(0),
        "Diffusion: step of an earlier checkpoint, away from which the guidance is, instead of from no labels.",
    ]
    classifier: Annotated[str, "Diffusion: folder of a run of configs/noisy_classifier.py, which guides it to the label."]
    classifier_scale: Annotated[
        float,
        keys.AtLeast(0),
        "Diffusion by --classifier: 1 (the default) is Bayes' rule, 0 nothing; more is closer to the label.",
    ] = 1.0


@dataclasses.dataclass(frozen=True)
class Words:
    """What guidance leads away from, as an option of drawing."""

    negative_prompt: Annotated[str, "Diffusion told texts: what not to show, from which --guidance_scale leads away."]


def classifier_free(denoise: solvers.Denoiser, null, strength: Guidance) -> solvers.Denoiser:
    """Away from what the network makes of no condition, in one call for both (Ho & Salimans 2022, equation 6: scale is 1 + w).

    Args:
      denoise: of a network that was trained with conditions left out.
      null: n -> the null condition of n images, or another one that they are not to show.
      strength: of the guidance.
    """
    if strength.scale == 1:
        return denoise
    if strength.scale == 0 and strength.low == 0 and strength.high == ALWAYS:
        return lambda x, level, condition: denoise(x, level, null(len(x)))

    def guided(x, level, condition):
        both = {name: jnp.concatenate([value, condition[name]]) for name, value in null(len(x)).items()}
        x0, variance = denoise(jnp.concatenate([x, x]), level, both)
        away, towards = jnp.split(x0, 2)
        variance = None if variance is None else jnp.split(variance, 2)[1]
        return solvers.Estimate(strength.extrapolated(towards, away, level), variance)

    return guided


def by_weaker(denoise: solvers.Denoiser, weaker: solvers.Denoiser, strength: Guidance) -> solvers.Denoiser:
    """Away from what a weaker version of the network makes of the same (autoguidance, Karras et al. 2024b, equation 3)."""
    if strength.scale == 1:
        return denoise

    def guided(x, level, condition):
        x0, variance = denoise(x, level, condition)
        return solvers.Estimate(strength.extrapolated(x0, weaker(x, level, condition).x0, level), variance)

    return guided


def by_classifier(denoise: solvers.Denoiser, log_prob, scale) -> solvers.Denoiser:
    """Along the gradient of log p(y | x_t) (Dhariwal & Nichol 2021, algorithm 2).

    The score of x_t is (alpha x0 - x_t) / sigma^2, so that scale times the gradient moves x0 by scale sigma^2 / alpha times it.

    Args:
      denoise: of the network.
      log_prob: (x_t, level, condition) -> (n,), each of its own image alone.
      scale: 1 is Bayes' rule; more, more of it; 0 is none.
    """
    if scale == 0:
        return denoise

    def guided(x, level, condition):
        x0, variance = denoise(x, level, condition)
        gradient = jax.grad(lambda x: log_prob(x, level, condition).sum())(x)
        return solvers.Estimate(x0 + scale * level.sigma**2 / level.alpha * gradient, variance)

    return guided
