"""MeanFlow: images in one evaluation of a network that is trained from nothing.

MF: Geng et al. 2025, "Mean Flows for One-step Generative Modeling"; iMF: Geng et al. 2025, "Improved Mean Flows", of which the
training here is. The network predicts average velocities u(z, r, t) of the flow from images to noise. V = u + (t - r) du/dt
(diffusion/mean_velocity.py) is fitted to eps - x0, with du/dt along the network's own u(z, t, t). An image is
z_1 - u(z_1, 0, 1), or comes of more steps of that kind.

Told labels, the network may have classifier-free guidance within it, by the target of its training: of one scale, or of any in
a range, which it is told. Drawing then takes no more evaluations than without.
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
from imagegen_jax.diffusion import mean_velocity
from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import times as times_lib
from imagegen_jax.networks import denoisers
from imagegen_jax.networks import text_encoder as text_encoder_lib
from imagegen_jax.networks import unet


@dataclasses.dataclass(frozen=True)
class Objective:
    """The section `meanflow`."""

    # The later and the earlier of two times with normal logits are t and r.
    t_mean: float = -0.4
    t_std: Annotated[float, keys.Above(0)] = 1.0
    r_mean: float = -0.4
    r_std: Annotated[float, keys.Above(0)] = 1.0
    instantaneous: Annotated[float, keys.AtLeast(0), keys.AtMost(1)] = 0.5  # share of a batch with r = t: flow matching
    # The squared error of an image, added up over its pixels, is weighted by 1 / (itself + weight_eps)^weight_power.
    weight_power: Annotated[float, keys.AtLeast(0)] = 1.0
    weight_eps: Annotated[float, keys.Above(0)] = 0.01
    velocity_head: bool = False  # a second output predicts the velocity, along which du/dt is taken
    # Of the numbers that the network is told. With 1000, as a diffusion's are, du/dt is that much more of the fastest waves.
    time_scale: Annotated[float, keys.Above(0)] = 1.0
    conditional: bool = False  # on labels, which the network is told
    text: bool = False  # likewise on captions, of which config.data.caption_length tokens are read
    # Share of the training images whose condition is left out, so that guidance knows images in general.
    condition_dropout: Annotated[float, keys.AtLeast(0), keys.AtMost(1)] = 0.1
    # Least and most scale of guidance, log-uniform in training. Of a single one the network is not told.
    guidance: Annotated[tuple[float, ...], keys.Each(keys.AtLeast(1))] = (1.0, 1.0)

    def objections(self):
        """See keys.objections."""
        if len(self.guidance) != 2 or self.guidance[0] > self.guidance[1]:
            yield "guidance", "give the least and the most scale, such as (1, 8)"
        elif self.guided and not (self.conditional or self.text):
            yield "guidance", "it needs config.meanflow.conditional=True"
        elif self.guided and not self.condition_dropout:
            yield "guidance", "it needs images without conditions in training: config.meanflow.condition_dropout above 0"

    @property
    def guided(self):
        """Whether there is guidance."""
        return self.guidance != (1.0, 1.0)

    @property
    def tells_scale(self):
        """Whether the network is told the scale of guidance."""
        return self.guidance[0] < self.guidance[1]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """The section `sampler`, and options of drawing."""

    steps: Annotated[int, keys.AtLeast(1), "MeanFlow: evaluations of the network, 1 by default."] = 1
    guidance_scale: Annotated[
        float, keys.AtLeast(1), "MeanFlow that was trained with a range of scales: one in it, 1 for no guidance."
    ] = 1.0


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of a MeanFlow."""

    network: denoisers.Config = unet.Config()
    text_encoder: text_encoder_lib.Config = text_encoder_lib.Config()
    meanflow: Objective = Objective()
    sampler: Sampler = keys.resumable(Sampler())

    def objections(self):
        """See keys.objections."""
        least, most = self.meanflow.guidance
        if self.meanflow.tells_scale and not least <= self.sampler.guidance_scale <= most:
            yield "sampler.guidance_scale", f"config.meanflow.guidance has the scales {least} to {most}"


Request = keys.options((Sampler, str))


@dataclasses.dataclass(frozen=True)
class MeanFlow(base.IsTold, base.Algorithm):
    """A MeanFlow of images of one shape.

    Attributes:
      network: (z, (n, 2) t and t - r, or (n, 3) with the guidance, condition, train) -> u, and the velocity behind it if it has
        that head.
      image_shape: (height, width, channels).
      objective: of training.
      sampler: of sample, unless the request says otherwise.
      training: how it is optimised.
      conditions: {name: conditions.Condition} of what the network is told.
      network_name: what the network is called in a state.
    """

    Config: ClassVar[type] = Config
    Request: ClassVar[type] = Request

    network: nn.Module
    image_shape: tuple[int, int, int]
    objective: Objective
    sampler: Sampler
    training: base.Training
    conditions: Mapping[str, conditions_lib.Condition] = dataclasses.field(default_factory=dict)
    network_name: str = "unet"

    @classmethod
    def from_config(cls, config, spec, training):
        aim = config.meanflow
        told = base.told_conditions(aim, spec, "meanflow")
        made = {"out_channels": spec.shape[-1] * (1 + aim.velocity_head), "times": 2 + aim.tells_scale}
        network = denoisers.build(config.network, spec.shape, told, config.text_encoder, **made)
        return cls(network, spec.shape, aim, config.sampler, training, told, config.network.name)

    def init(self, rng):
        null = conditions_lib.null(self.conditions, 1)
        blank = jnp.zeros((1, *self.image_shape)), jnp.zeros((1, 2 + self.objective.tells_scale)), null
        return base.first_state(self.network_name, self.network.init(rng, *blank)["params"], self.training)

    def train_step(self, state, batch, rng):
        """With 'loss', the squared error of V averaged over pixels, and 'weighted_loss', whose gradient it takes."""
        x0 = self._data(state, batch, rng)
        n, aim = len(x0), self.objective
        times_rng, eps_rng, dropout_rng, condition_rng, scale_rng = jax.random.split(rng, 5)
        r, t = self._times(times_rng, (n,))
        r = jnp.where(jnp.arange(n) < round(aim.instantaneous * n), t, r)
        eps = jax.random.normal(eps_rng, x0.shape)
        condition, scale = self._told(batch), self._scales(scale_rng, n)
        if condition:
            left_out = jax.random.bernoulli(condition_rng, aim.condition_dropout, (n,))
            condition = conditions_lib.dropped(condition, self.conditions, left_out)
            scale = jnp.where(left_out, 1.0, scale)

        def loss(params, examples, rng):
            errors = self._errors(state, params, *examples, rngs={"dropout": rng})
            weighted = sum(e * mean_velocity.adaptive_weight(e, aim.weight_power, aim.weight_eps) for e in errors)
            return weighted.mean(), ({"loss": errors[0].mean() / x0[0].size, "weighted_loss": weighted.mean()}, {})

        return base.train_step(self.training, state, self.network_name, loss, (x0, eps, r, t, condition, scale), dropout_rng)

    def eval_step(self, state, batch, rng):
        """'loss' is the squared error of V averaged over pixels, with r = t for no image."""
        x0 = self._data(state, batch, rng)

        def noise(key):
            times_key, eps_key = jax.random.split(key)
            return *self._times(times_key, ()), jax.random.normal(eps_key, self.image_shape)

        r, t, eps = jax.vmap(noise)(rng_lib.per_index(rng, batch["index"]))
        scale = self._scale_of_drawing(len(x0), self.sampler.guidance_scale)
        errors = self._errors(state, state.params[self.network_name], x0, eps, r, t, self._told(batch), scale)
        return {"loss": errors[0] / x0[0].size}

    def sample(self, state, keys, condition, request):
        asked = self._sampler(request)
        told = conditions_lib.told(condition, self.conditions, len(keys))
        scale = self._scale_of_drawing(len(keys), asked.guidance_scale)

        def velocity(z, r, t):
            return self._velocities(state.params[self.network_name], z, r, t, told, scale)[0]

        noise = jax.vmap(lambda key: jax.random.normal(key, self.image_shape))(keys)
        return self._images(state, mean_velocity.draw(velocity, noise, asked.steps), condition)

    def check_request(self, request):
        if request.guidance_scale is None:
            return
        flag, (least, most) = f"--guidance_scale={request.guidance_scale}", self.objective.guidance
        if not self.conditions:
            raise errors.UserError(
                f"{flag}: this run is told neither labels nor texts; leave it out, or train one with "
                "--config.meanflow.conditional=True"
            )
        if not self.objective.tells_scale and request.guidance_scale != least:
            raise errors.UserError(
                f"{flag}: this run was trained with the scale {least}; leave it out, or train one with more, such as "
                "--config.meanflow.guidance=(1,8)"
            )
        if not least <= request.guidance_scale <= most:
            raise errors.UserError(f"{flag}: this run was trained with the scales {least} to {most}; choose one of them")

    def about_request(self, request):
        asked = self._sampler(request)
        scale = asked.guidance_scale if self.objective.tells_scale else self.objective.guidance[0]
        return {"steps": asked.steps} | ({"guidance_scale": scale} if self.conditions else {})

    def _sampler(self, request):
        return dataclasses.replace(self.sampler, **keys.asked(request, Sampler, str))

    def _told(self, batch):
        """What the network is told of a batch, beside times and scale."""
        return conditions_lib.told(batch["condition"], self.conditions, len(batch["index"]))

    def _data(self, state, batch, rng):
        """(n, *image_shape) float32: x0 of a batch."""
        return images.to_float(batch["image"])

    def _images(self, state, x, condition):
        """The images of what was drawn of x0."""
        return jnp.clip(x, -1.0, 1.0)

    def _times(self, rng, shape):
        """(r, t), r <= t, of independent draws."""
        aim = self.objective
        pair = [
            times_lib.Times(processes.RectifiedFlow(), "log_normal", mean, std).draw(key, shape)
            for key, mean, std in zip(jax.random.split(rng), (aim.r_mean, aim.t_mean), (aim.r_std, aim.t_std))
        ]
        return jnp.minimum(*pair), jnp.maximum(*pair)

    def _scales(self, rng, n):
        """(n,) scales of guidance of training, log-uniform (iMF)."""
        least, most = self.objective.guidance
        return least * (most / least) ** jax.random.uniform(rng, (n,))

    def _scale_of_drawing(self, n, scale):
        return jnp.full(n, scale if self.objective.tells_scale else self.objective.guidance[0])

    def _velocities(self, params, z, r, t, condition, scale, rngs=None):
        """(u(z, r, t), the velocity by its head or None). Trains (with dropout) where rngs are given."""
        told = [t, t - r, *([1 - 1 / scale] if self.objective.tells_scale else [])]
        told = self.objective.time_scale * jnp.stack(told, axis=-1)
        found = self.network.apply({"params": params}, z, told, condition, train=rngs is not None, rngs=rngs)
        return jnp.split(found, 2, axis=-1) if self.objective.velocity_head else (found, None)

    def _velocity(self, params, z, t, condition, scale):
        """v(z, t), guided, as the network has it so far."""
        at_once, by_head = self._velocities(params, z, t, t, condition, scale)
        return at_once if by_head is None else by_head

    def _field(self, state, params, z, t, velocity, condition, scale):
        """(v(z, t) along which du/dt is taken, what V is fitted to), where `velocity` is eps - x0."""
        if not self.objective.guided:
            return self._velocity(params, z, t, condition, scale), velocity
        n = len(z)
        both = jax.tree.map(lambda *two: jnp.concatenate(two), dict(condition), conditions_lib.null(self.conditions, n))
        scales = jnp.concatenate([scale, jnp.ones(n)])
        found = self._velocity(params, jnp.concatenate([z, z]), jnp.concatenate([t, t]), both, scales)
        along, unconditional = jnp.split(found, 2)
        return along, mean_velocity.guided(velocity, along, unconditional, scale)

    def _errors(self, state, params, x0, eps, r, t, condition, scale, rngs=None):
        """[(n,) squared error of V, added up over pixels, and that of the velocity's head if there is one]."""
        at = t.reshape(-1, 1, 1, 1)
        z = (1 - at) * x0 + at * eps
        along, target = self._field(state, jax.lax.stop_gradient(params), z, t, eps - x0, condition, scale)

        def velocity(z, r, t):
            return self._velocities(params, z, r, t, condition, scale, rngs)

        compound, by_head = mean_velocity.compound(velocity, z, r, t, along)
        return [jnp.square(v - target).sum((1, 2, 3)) for v in (compound, by_head) if v is not None]
