"""Denoising diffusion probabilistic models (Ho et al. 2020), discrete in time.

A batch is trained by algorithm 1: t uniform, eps standard normal, x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, and the
squared error of the network's target (diffusion/parametrisations.py) with a weight (diffusion/weightings.py). Images are
drawn by any sampler of diffusion/samplers.py, whatever the network predicts.
"""

from collections.abc import Callable
import dataclasses

from flax import linen as nn
import jax
from jax import numpy as jnp
import optax

from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import rng as rng_lib
from imagegen_jax.algorithms import base
from imagegen_jax.diffusion import parametrisations
from imagegen_jax.diffusion import samplers
from imagegen_jax.diffusion import schedules
from imagegen_jax.diffusion import weightings
from imagegen_jax.networks import unet


@dataclasses.dataclass(frozen=True)
class Diffusion(base.Algorithm):
    """A diffusion of images of one shape.

    Attributes:
      network: (x_t, t, train) -> prediction of x_t's shape.
      image_shape: (height, width, channels).
      schedule: noise levels.
      parametrisation: what the network predicts, of parametrisations.NAMES.
      weighting: of the loss, of weightings.NAMES.
      gamma: the bound of the weighting 'min_snr'.
      stratified: spread a batch's timesteps evenly (schedules.sample_timesteps).
      sampler: of sample, unless the request says otherwise.
      optimizer: optax transformation.
      ema_decay: step -> decay of the moving average.
      accumulate: pieces in which a batch's gradient is computed.
    """

    options = ("sampler", "steps", "eta", "variance", "clip")

    network: nn.Module
    image_shape: tuple[int, int, int]
    schedule: schedules.Schedule
    parametrisation: str
    weighting: str
    gamma: float
    stratified: bool
    sampler: samplers.Sampler
    optimizer: optax.GradientTransformation
    ema_decay: Callable
    accumulate: int = 1

    @classmethod
    def from_config(cls, config, spec, training):
        network = dict(config.network, out_channels=spec.shape[-1], dtype=jnp.dtype(config.network.dtype))
        return cls(
            network=unet.UNet(**network),
            image_shape=spec.shape,
            schedule=schedules.Schedule.named(config.diffusion.schedule, config.diffusion.length),
            parametrisation=config.diffusion.parametrisation,
            weighting=config.diffusion.weighting,
            gamma=config.diffusion.gamma,
            stratified=config.diffusion.stratified,
            sampler=samplers.Sampler(**config.sampler),
            optimizer=training.optimizer,
            ema_decay=training.ema_decay,
            accumulate=config.optimizer.accumulate,
        )

    def init(self, rng):
        params = self.network.init(rng, jnp.zeros((1, *self.image_shape)), jnp.zeros(1, jnp.int32))["params"]
        return base.first_state("unet", params, self.optimizer)

    def train_step(self, state, batch, rng):
        x0 = images.to_float(batch["image"])
        t_rng, eps_rng, dropout_rng = jax.random.split(rng, 3)
        t = schedules.sample_timesteps(t_rng, len(x0), self.schedule.length, self.stratified)
        eps = jax.random.normal(eps_rng, x0.shape)

        def loss(params, examples, rng):
            return self._error(params, *examples, rngs={"dropout": rng}).mean(), {}

        params = state.params["unet"]
        (value, _), grads = base.value_and_grad(loss, params, (x0, eps, t), dropout_rng, self.accumulate)
        metrics = {
            "loss": value,
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),
        }
        state = base.update(state, "unet", grads, self.optimizer, self.ema_decay)
        return state.replace(step=state.step + 1), metrics

    def eval_step(self, state, batch, rng):
        x0 = images.to_float(batch["image"])

        def noise(key):
            t_key, eps_key = jax.random.split(key)
            return jax.random.randint(t_key, (), 0, self.schedule.length), jax.random.normal(eps_key, self.image_shape)

        t, eps = jax.vmap(noise)(rng_lib.per_index(rng, batch["index"]))
        return {"loss": self._error(state.params["unet"], x0, eps, t)}

    def sample(self, state, rng, request):
        def denoise(x, t):
            signal, noise = self.schedule.signal_and_noise(t, x.ndim)
            prediction = self.network.apply({"params": state.params["unet"]}, x, t)
            return parametrisations.to_x0(self.parametrisation, prediction, x, signal, noise)

        keys = rng_lib.per_index(rng, request.index)
        x = samplers.sample(denoise, keys, self.image_shape, self.schedule, self._sampler(request))
        return jnp.clip(x, -1.0, 1.0)

    def check_request(self, request):
        super().check_request(request)
        name = request.sampler or self.sampler.name
        for option, choices in (("sampler", samplers.NAMES), ("variance", samplers.VARIANCES)):
            if (value := getattr(request, option)) not in (None, *choices):
                raise errors.UserError(f"--{option}={value}: choose one of {', '.join(choices)}")
        for owner, constants in samplers.CONSTANTS.items():
            for constant in constants:
                if owner != name and getattr(request, constant) is not None:
                    raise errors.UserError(
                        f"--{constant} is of --sampler={owner}, and the sampler is {name}: choose that one, or leave it out"
                    )
        if request.steps is not None and not 1 <= request.steps <= self.schedule.length:
            raise errors.UserError(
                f"--steps={request.steps}: the diffusion has {self.schedule.length} steps, choose 1 to {self.schedule.length}"
            )
        sampler = self._sampler(request)
        if sampler.name == "ddim" and not 0 <= sampler.eta <= 1:  # an old run's config may hold one above 1
            raise errors.UserError(f"eta is {sampler.eta}: choose --eta from 0 to 1")

    def about_request(self, request):
        return self._sampler(request).about()

    def _sampler(self, request):
        asked = {name: getattr(request, name) for name in ("steps", "eta", "variance", "clip")}
        return self.sampler.changed(request.sampler, **asked)

    def _error(self, params, x0, eps, t, rngs=None):
        """(n,) weighted squared error of the target, averaged over pixels. Trains (with dropout) where rngs are given."""
        x_t = self.schedule.add_noise(x0, eps, t)
        prediction = self.network.apply({"params": params}, x_t, t, train=rngs is not None, rngs=rngs)
        signal, noise = self.schedule.signal_and_noise(t, x0.ndim)
        target = parametrisations.target(self.parametrisation, x0, eps, signal, noise)
        weight = weightings.weight(self.weighting, self.parametrisation, self.schedule.log_snr(t), self.gamma)
        return weight * jnp.square(prediction - target).mean((1, 2, 3))
