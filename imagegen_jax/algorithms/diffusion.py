"""Denoising diffusion probabilistic models (Ho et al. 2020), discrete in time.

A batch is trained by algorithm 1: t uniform, eps standard normal, x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, and the
squared error of the network's target (diffusion/prediction_types.py) with a weight (diffusion/weightings.py). Images are
drawn by any sampler of diffusion/samplers.py, whatever the network predicts.
"""

from collections.abc import Mapping
import dataclasses
from typing import Annotated
from typing import ClassVar

from flax import linen as nn
import jax
from jax import numpy as jnp

from imagegen_jax import conditions as conditions_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import keys
from imagegen_jax import rng as rng_lib
from imagegen_jax.algorithms import base
from imagegen_jax.diffusion import prediction_types
from imagegen_jax.diffusion import samplers
from imagegen_jax.diffusion import schedules
from imagegen_jax.diffusion import weightings
from imagegen_jax.networks import blocks
from imagegen_jax.networks import unet


@dataclasses.dataclass(frozen=True)
class Objective:
    """The section `diffusion`."""

    schedule: Annotated[str, keys.OneOf(schedules.CURVES)] = "linear"
    length: Annotated[int, keys.AtLeast(1)] = 1000  # steps
    prediction_type: Annotated[str, keys.OneOf(prediction_types.NAMES)] = "eps"  # what the network predicts
    weighting: Annotated[str, keys.OneOf(weightings.NAMES)] = "simple"
    gamma: Annotated[float, keys.AtLeast(0)] = 5.0  # of min_snr
    stratified: bool = False  # spread the timesteps of a batch evenly
    conditional: bool = False  # on labels, which the network is told
    # Share of the training images whose condition is left out, so that guidance knows images in general.
    condition_dropout: Annotated[float, keys.AtLeast(0), keys.AtMost(1)] = 0.1


@dataclasses.dataclass(frozen=True)
class Guidance:
    """The section `guidance`, of conditional diffusions."""

    # 0 draws without the condition, 1 with it, more further away from without (Ho & Salimans 2022, equation 6, 1 + w).
    scale: Annotated[float, keys.AtLeast(0)] = 1.0


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of a diffusion."""

    network: unet.Config = unet.Config()
    diffusion: Objective = Objective()
    sampler: samplers.Sampler = keys.resumable(samplers.Sampler())
    guidance: Guidance = keys.resumable(Guidance())

    def objections(self):
        """See keys.objections."""
        if self.sampler.steps > self.diffusion.length:
            yield "sampler.steps", f"it can be at most config.diffusion.length ({self.diffusion.length})"
        if self.guidance.scale != 1 and not self.diffusion.conditional:
            yield "guidance.scale", "it needs config.diffusion.conditional=True"
        if self.guidance.scale != 1 and not self.diffusion.condition_dropout:
            yield "guidance.scale", "it needs images without conditions in training: config.diffusion.condition_dropout above 0"


@dataclasses.dataclass(frozen=True)
class Request:
    """The options of drawing."""

    sampler: Annotated[samplers.Name | None, "Diffusion: ddpm or ddim, with its own constants in place of the recipe's."] = None
    steps: Annotated[samplers.Steps | None, "Diffusion: network evaluations an image, instead of what the recipe says."] = None
    eta: Annotated[
        samplers.Eta | None, "Diffusion by ddim: noise of a step, 0 (none, the default of --sampler=ddim) to 1 (as ddpm)."
    ] = None
    variance: Annotated[
        samplers.Variance | None, "Diffusion by ddpm: fixed_small (the default of --sampler=ddpm) or fixed_large."
    ] = None
    clip: Annotated[bool | None, "Diffusion: hold the image that each step predicts within the range of pixels."] = None
    guidance_scale: Annotated[
        float | None,
        "Conditional diffusion: 0 draws without labels, 1 with them, more further away from without.",
        keys.AtLeast(0),
    ] = None


@dataclasses.dataclass(frozen=True)
class Diffusion(base.Algorithm):
    """A diffusion of images of one shape.

    Attributes:
      network: (x_t, t, condition, train) -> prediction of x_t's shape.
      image_shape: (height, width, channels).
      schedule: noise levels.
      objective: what the network predicts, and the weight of its error.
      sampler: of sample, unless the request says otherwise.
      guidance: likewise.
      training: how it is optimised.
      conditions: {name: conditions.Condition} of what the network is told.
    """

    Config: ClassVar[type] = Config
    Request: ClassVar[type] = Request

    network: nn.Module
    image_shape: tuple[int, int, int]
    schedule: schedules.Schedule
    objective: Objective
    sampler: samplers.Sampler
    training: base.Training
    guidance: Guidance = Guidance()
    conditions: Mapping[str, conditions_lib.Condition] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_config(cls, config, spec, training):
        classes = base.told_classes(config.diffusion.conditional, spec, "diffusion.conditional")
        return cls(
            network=blocks.from_config(unet.UNet, config.network, out_channels=spec.shape[-1], classes=classes),
            image_shape=spec.shape,
            schedule=schedules.Schedule.named(config.diffusion.schedule, config.diffusion.length),
            objective=config.diffusion,
            sampler=config.sampler,
            training=training,
            guidance=config.guidance,
            conditions=spec.conditions if classes else {},
        )

    @property
    def classes(self):
        """See capabilities.Draws."""
        return self.conditions["label"].classes if self.conditions else 0

    def init(self, rng):
        blank = jnp.zeros((1, *self.image_shape)), jnp.zeros(1, jnp.int32), self._null(1)
        params = self.network.init(rng, *blank)["params"]
        return base.first_state("unet", params, self.training)

    def train_step(self, state, batch, rng):
        x0 = images.to_float(batch["image"])
        t_rng, eps_rng, dropout_rng = jax.random.split(rng, 3)
        t = schedules.sample_timesteps(t_rng, len(x0), self.schedule.length, self.objective.stratified)
        eps = jax.random.normal(eps_rng, x0.shape)
        condition = self._told(batch)
        if condition:
            left_out = jax.random.bernoulli(jax.random.fold_in(rng, 3), self.objective.condition_dropout, (len(x0),))
            condition = conditions_lib.dropped(condition, self.conditions, left_out)

        def loss(params, examples, rng):
            return self._error(params, *examples, rngs={"dropout": rng}).mean(), ({}, {})

        return base.train_step(self.training, state, "unet", loss, (x0, eps, t, condition), dropout_rng)

    def eval_step(self, state, batch, rng):
        x0 = images.to_float(batch["image"])

        def noise(key):
            t_key, eps_key = jax.random.split(key)
            return jax.random.randint(t_key, (), 0, self.schedule.length), jax.random.normal(eps_key, self.image_shape)

        t, eps = jax.vmap(noise)(rng_lib.per_index(rng, batch["index"]))
        return {"loss": self._error(state.params["unet"], x0, eps, t, self._told(batch))}

    def sample(self, state, keys, condition, request):
        scale = self._guidance_scale(request)

        def predict(x, t, condition):
            return self.network.apply({"params": state.params["unet"]}, x, t, condition)

        def denoise(x, t):
            signal, noise = self.schedule.signal_and_noise(t, x.ndim)
            if not self.conditions or scale == 1:
                prediction = predict(x, t, condition)
            elif scale == 0:
                prediction = predict(x, t, self._null(len(x)))
            else:  # what any target says of x0 and eps is linear in it, so that each is guided as they are
                both = jax.tree.map(lambda *two: jnp.concatenate(two), self._null(len(x)), dict(condition))
                without, told = jnp.split(predict(jnp.tile(x, (2, 1, 1, 1)), jnp.tile(t, 2), both), 2)
                prediction = without + scale * (told - without)
            return prediction_types.to_x0(self.objective.prediction_type, prediction, x, signal, noise)

        x = samplers.sample(denoise, keys, self.image_shape, self.schedule, self._sampler(request))
        return jnp.clip(x, -1.0, 1.0)

    def check_request(self, request):
        if request.guidance_scale is not None and not self.conditions:
            raise errors.UserError(
                f"--guidance_scale={request.guidance_scale}: this run is told no labels; leave it out, or train one with "
                "--config.diffusion.conditional=True"
            )
        if request.guidance_scale not in (None, 1) and not self.objective.condition_dropout:
            raise errors.UserError(
                f"--guidance_scale={request.guidance_scale}: this run has seen no images without a label "
                "(config.diffusion.condition_dropout is 0); leave it out"
            )
        name = request.sampler or self.sampler.name
        for owner, constants in samplers.CONSTANTS.items():
            for constant in constants:
                if owner != name and getattr(request, constant) is not None:
                    raise errors.UserError(
                        f"--{constant} is of --sampler={owner}, and the sampler is {name}: choose that one, or leave it out"
                    )
        if request.steps is not None and request.steps > self.schedule.length:
            raise errors.UserError(
                f"--steps={request.steps}: the diffusion has {self.schedule.length} steps, choose 1 to {self.schedule.length}"
            )
        sampler = self._sampler(request)
        if sampler.name == "ddim" and not 0 <= sampler.eta <= 1:  # an old run's config may hold one above 1
            raise errors.UserError(f"eta is {sampler.eta}: choose --eta from 0 to 1")

    def about_request(self, request):
        guidance = {"guidance_scale": self._guidance_scale(request)} if self.conditions else {}
        return self._sampler(request).about() | guidance

    def _told(self, batch):
        """What the network is told of a batch."""
        return {name: batch["condition"][name] for name in self.conditions}

    def _null(self, n):
        """The null condition of n images."""
        return {name: kind.null(n) for name, kind in self.conditions.items()}

    def _guidance_scale(self, request):
        return self.guidance.scale if request.guidance_scale is None else request.guidance_scale

    def _sampler(self, request):
        asked = {name: getattr(request, name) for name in ("steps", "eta", "variance", "clip")}
        return self.sampler.changed(request.sampler, **asked)

    def _error(self, params, x0, eps, t, condition, rngs=None):
        """(n,) weighted squared error of the target, averaged over pixels. Trains (with dropout) where rngs are given."""
        aim = self.objective
        x_t = self.schedule.add_noise(x0, eps, t)
        prediction = self.network.apply({"params": params}, x_t, t, condition, train=rngs is not None, rngs=rngs)
        signal, noise = self.schedule.signal_and_noise(t, x0.ndim)
        target = prediction_types.target(aim.prediction_type, x0, eps, signal, noise)
        weight = weightings.weight(aim.weighting, aim.prediction_type, self.schedule.log_snr(t), aim.gamma)
        return weight * jnp.square(prediction - target).mean((1, 2, 3))
