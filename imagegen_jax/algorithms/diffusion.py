"""Denoising diffusion and flow matching (Ho et al. 2020, Karras et al. 2022, Lipman et al. 2023).

A batch is trained by algorithm 1 of Ho et al.: times t (diffusion/times.py), eps standard normal, x_t = alpha x0 + sigma eps
(diffusion/processes.py), and the squared error of what the network predicts (diffusion/prediction_types.py) with a weight
(diffusion/weightings.py). Images are drawn by any sampler of diffusion/samplers.py, whatever the process and the prediction.
"""

from collections.abc import Mapping
import dataclasses
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
from imagegen_jax.algorithms import capabilities
from imagegen_jax.algorithms import diffusion_config
from imagegen_jax.diffusion import coupling
from imagegen_jax.diffusion import guidance as guidance_lib
from imagegen_jax.diffusion import likelihood
from imagegen_jax.diffusion import prediction_types
from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import samplers
from imagegen_jax.diffusion import solvers
from imagegen_jax.diffusion import times as times_lib
from imagegen_jax.diffusion import weightings
from imagegen_jax.networks import denoisers
from imagegen_jax.networks import uncertainty

_GUIDES = "guides"  # of TrainState.extra: {option: TrainState} of the companions


@dataclasses.dataclass(frozen=True)
class Diffusion(base.IsTold, base.Algorithm):
    """A diffusion of images of one shape.

    Attributes:
      network: (x_t, t, condition, train) -> prediction of x_t's shape; with as many channels again for a learned variance.
      image_shape: (height, width, channels).
      process: from images to noise.
      objective: what the network predicts, and the weight of its error.
      sampler: of sample, unless the request says otherwise.
      guidance: likewise.
      training: how it is optimised.
      conditions: {name: conditions.Condition} of what the network is told.
      network_name: what the network is called in a state.
      classifier: one that guides, whose state is among the companions'.
    """

    Config: ClassVar[type] = diffusion_config.Config
    Request: ClassVar[type] = keys.options(*diffusion_config.REQUEST)
    likelihoods: ClassVar[dict[str, int]] = {"bound": 32, "ode": 1}

    network: nn.Module
    image_shape: tuple[int, int, int]
    process: processes.Process
    objective: diffusion_config.Objective
    sampler: samplers.Sampler
    training: base.Training
    guidance: guidance_lib.Guidance = guidance_lib.Guidance()
    conditions: Mapping[str, conditions_lib.Condition] = dataclasses.field(default_factory=dict)
    network_name: str = "unet"
    classifier: capabilities.ClassifiesNoisy | None = None

    @classmethod
    def from_config(cls, config, spec, training):
        objective = config.diffusion
        told, outputs = cls._conditions(config, spec), spec.shape[-1] * (2 if objective.learn_variance else 1)
        return cls(
            network=denoisers.build(config.network, spec.shape, told, config.text_encoder, out_channels=outputs),
            network_name=config.network.name,
            image_shape=spec.shape,
            process=processes.PROCESSES[objective.process](objective),
            objective=objective,
            sampler=config.sampler,
            training=training,
            guidance=config.guidance,
            conditions=told,
        )

    @property
    def classes(self):
        """See capabilities.Draws."""
        return super().classes or (self.classifier.classes if self.classifier else 0)

    def init(self, rng):
        blank = jnp.zeros((1, *self.image_shape)), jnp.zeros(1), conditions_lib.null(self.conditions, 1)
        params = self.network.init(rng, *blank)["params"]
        if self.objective.uncertainty:
            params |= {"uncertainty": self._uncertainty.init(jax.random.fold_in(rng, 1), jnp.zeros(1))["params"]}
        return base.first_state(self.network_name, params, self.training)

    def train_step(self, state, batch, rng):
        x0 = self._data(state, batch, rng)
        t_rng, eps_rng, dropout_rng = jax.random.split(rng, 3)
        t = self._times.spread(t_rng, len(x0)) if self.objective.stratified else self._times.draw(t_rng, (len(x0),))
        eps = jax.random.normal(eps_rng, x0.shape)
        if self.objective.coupling == "optimal":
            eps = coupling.optimal(x0, eps)
        condition = self._told(batch, jax.random.split(jax.random.fold_in(rng, 5), len(x0)))
        if condition:
            left_out = jax.random.bernoulli(jax.random.fold_in(rng, 3), self.objective.condition_dropout, (len(x0),))
            condition = conditions_lib.dropped(condition, self.conditions, left_out)

        def loss(params, examples, rng):
            x0, eps, t, condition = examples
            error, parts = self._error(params, x0, eps, t, condition, rngs={"dropout": rng})
            if self.objective.uncertainty:
                log_variance = self._uncertainty.apply({"params": params["uncertainty"]}, self.process.log_snr(t))
                error = error * jnp.exp(-log_variance) + log_variance
            return _hybrid(error, **parts).mean(), (jax.tree.map(jnp.mean, parts), {})

        return base.train_step(self.training, state, self.network_name, loss, (x0, eps, t, condition), dropout_rng)

    def eval_step(self, state, batch, rng):
        x0 = self._data(state, batch, rng)

        def noise(key):
            t_key, eps_key = jax.random.split(key)
            return self._times.draw(t_key), jax.random.normal(eps_key, self.image_shape)

        keys = rng_lib.per_index(rng, batch["index"])
        t, eps = jax.vmap(noise)(keys)
        error, parts = self._error(state.params[self.network_name], x0, eps, t, self._told(batch, keys))
        return {"loss": _hybrid(error, **parts), **parts}

    def likelihood_costs(self, state, batch, rng, kind, samples):
        """See capabilities.HasLikelihood. The bounds are of images that are limited as those drawn are."""
        denoise = self._denoiser(state)
        keys = rng_lib.per_index(rng, batch["index"])
        given = self.process, keys, images.to_float(batch["image"]), self._told(batch, keys)
        if kind == "ode":
            return likelihood.ode_bound(denoise, *given, samples=samples)

        def limited(x, level, condition):
            x0, variance = denoise(x, level, condition)
            return solvers.Estimate(samplers.limited(self.sampler, x0), variance)

        if isinstance(self.process, processes.Discrete):
            variance = "learned" if self.objective.learn_variance else self.sampler.variance
            return likelihood.discrete_bound(limited, *given, variance=variance, samples=samples)
        return likelihood.continuous_bound(limited, *given, samples=samples)

    def sample(self, state, keys, condition, request):
        denoise = self._guided(state, request)
        x = samplers.sample(denoise, keys, self.image_shape, self.process, self._sampler(request), condition)
        return self._images(state, x, condition)

    def denoising(self, state, request):
        """See capabilities.DrawsByDenoising."""
        return self._guided(state, request), self._sampler(request)

    def companions(self, request):
        """See capabilities.TakesCompanions."""
        found = {}
        if request.guidance_checkpoint is not None:
            found["guidance_checkpoint"] = capabilities.Companion(
                Diffusion, "a diffusion", checkpoint=request.guidance_checkpoint
            )
        if request.classifier is not None:
            what = "a classifier of noisy images (configs/noisy_classifier.py)"
            found["classifier"] = capabilities.Companion(capabilities.ClassifiesNoisy, what, request.classifier)
        return found

    def accompanied(self, state, companions):
        """See capabilities.TakesCompanions."""
        classifier = companions["classifier"].algorithm if "classifier" in companions else None
        guides = {option: one.state for option, one in companions.items()}
        return dataclasses.replace(self, classifier=classifier), state.replace(extra=state.extra | {_GUIDES: guides})

    def denoiser(self, state) -> solvers.Denoiser:
        """See capabilities.Denoises."""
        return self._denoiser(state)

    def _guided(self, state, request) -> solvers.Denoiser:
        """The network's denoiser, guided by what the request names."""
        denoise, strength = self._denoiser(state), self._guidance(request)
        if request.guidance_checkpoint is not None:
            weaker = self._denoiser(state.extra[_GUIDES]["guidance_checkpoint"])
            denoise = guidance_lib.by_weaker(denoise, weaker, strength)
        else:
            denoise = guidance_lib.classifier_free(denoise, lambda n: self._opposite(request, n), strength)
        if request.classifier is None:
            return denoise

        def log_prob(x, level, condition):
            return self.classifier.log_prob(state.extra[_GUIDES]["classifier"], x, level, condition["label"])

        return guidance_lib.by_classifier(denoise, log_prob, self._classifier_scale(request))

    def check_request(self, request):
        strength, guided = self._guidance(request), keys.asked(request, guidance_lib.Guidance, diffusion_config.of_guidance)
        if request.guidance_checkpoint is None:
            for name in guided if not self.conditions else ():
                raise errors.UserError(
                    f"--guidance_{name}={guided[name]}: this run is told neither labels nor texts; leave it out, name an "
                    "earlier checkpoint with --guidance_checkpoint, or train a run with --config.diffusion.conditional=True"
                )
            if guided and strength.scale != 1 and not self.objective.condition_dropout:
                raise errors.UserError(
                    f"--guidance_scale={strength.scale}: this run has seen no images without a condition "
                    "(config.diffusion.condition_dropout is 0); leave it out"
                )
        if (words := request.negative_prompt) is not None:
            if not self.text:
                raise errors.UserError(f"--negative_prompt={words}: {conditions_lib.NO_TEXTS}")
            if strength.scale in (0, 1) or request.guidance_checkpoint is not None:
                raise errors.UserError(
                    f"--negative_prompt={words}: guidance leads away from it: give a --guidance_scale above 1"
                )
        if (scale := request.classifier_scale) is not None and request.classifier is None:
            raise errors.UserError(f"--classifier_scale={scale} is of --classifier: name a run, or leave it out")
        if strength.low >= strength.high:
            raise errors.UserError(f"--guidance_low={strength.low}: it must be less than --guidance_high={strength.high}")
        sampler, asked = self._sampler(request), keys.asked(request, samplers.Sampler, diffusion_config.of_sampler)
        for option, owner, present in sampler.foreign(asked):
            raise errors.UserError(f"--{option} is of {owner}, and {present}: choose that one, or leave it out")
        if sampler.name == "ddpm" and sampler.variance == "learned" and not self.objective.learn_variance:
            raise errors.UserError(
                "--variance=learned: this run has learned none; choose fixed_small or fixed_large, or train one with "
                "--config.diffusion.learn_variance=True"
            )
        if request.steps is not None and request.steps > self.process.longest:
            raise errors.UserError(
                f"--steps={request.steps}: the diffusion has {self.process.longest} steps, choose 1 to {self.process.longest}"
            )
        if sampler.name == "ddim" and not 0 <= sampler.eta <= 1:  # an old run's config may hold one above 1
            raise errors.UserError(f"eta is {sampler.eta}: choose --eta from 0 to 1")

    def about_request(self, request):
        about = self._sampler(request).about()
        if self.conditions or request.guidance_checkpoint is not None:
            about |= {diffusion_config.of_guidance(name): value for name, value in vars(self._guidance(request)).items()}
        return about | ({"classifier_scale": self._classifier_scale(request)} if request.classifier is not None else {})

    @property
    def _times(self):
        aim = self.objective
        return times_lib.Times(self.process, aim.times, aim.time_mean, aim.time_std, aim.time_shift)

    @property
    def _uncertainty(self):
        return uncertainty.LogVariance()

    def _data(self, state, batch, rng):
        """(n, *image_shape) float32: x0 of a batch."""
        return images.to_float(batch["image"])

    def _images(self, state, x, condition):
        """The images of what was drawn of x0."""
        return jnp.clip(x, -1.0, 1.0)

    @classmethod
    def _conditions(cls, config, spec):
        """`conditions` of a config. Raises errors.UserError."""
        return base.told_conditions(config.diffusion, spec, "diffusion")

    def _told(self, batch, keys):
        """What the network is told of a batch; keys, (n,), are for what is drawn of that."""
        return conditions_lib.told(batch["condition"], self.conditions, len(keys))

    def _opposite(self, request, n):
        """What guidance leads n images away from: no condition, or a negative prompt."""
        if request.negative_prompt is None:
            return conditions_lib.null(self.conditions, n)
        return conditions_lib.told({"text": self.text.rows(request.negative_prompt, n)}, self.conditions, n)

    def _denoiser(self, state) -> solvers.Denoiser:
        """What the network with state.params makes of noisy images."""

        def denoise(x, level, condition):
            condition = conditions_lib.told(condition, self.conditions, len(x))
            t = jnp.broadcast_to(jnp.ravel(self.process.network_time(level.time)), (len(x),))
            shown = self.process.network_input(x, level)
            prediction, variance = self._split(
                self.network.apply({"params": state.params[self.network_name]}, shown, t, condition)
            )
            return solvers.Estimate(self._to_x0(prediction, x, level), variance)

        return denoise

    def _guidance(self, request):
        return dataclasses.replace(self.guidance, **keys.asked(request, guidance_lib.Guidance, diffusion_config.of_guidance))

    def _classifier_scale(self, request):
        return guidance_lib.Companions.classifier_scale if request.classifier_scale is None else request.classifier_scale

    def _sampler(self, request):
        asked = keys.asked(request, samplers.Sampler, diffusion_config.of_sampler)
        return self.sampler.changed(**asked)

    def _split(self, output):
        """(the prediction, solvers.Estimate.variance) of what the network makes: of that -1 to 1 is 0 to 1."""
        if not self.objective.learn_variance:
            return output, None
        prediction, variance = jnp.split(output, 2, -1)
        return prediction, (variance + 1) / 2

    def _to_x0(self, prediction, x_t, level):
        return prediction_types.to_x0(self.objective.prediction_type, prediction, x_t, level, self.objective.data_std)

    def _error(self, params, x0, eps, t, condition, rngs=None):
        """The weighted squared error of the prediction, (n,), averaged over pixels, and what else is measured, (n,) by name.

        That is 'vlb' of a learned variance. Trains (with dropout) where rngs are given.
        """
        aim = self.objective
        level = self.process.level(t).for_images(x0.ndim)
        x_t = level.alpha * x0 + level.sigma * eps
        shown = self.process.network_input(x_t, level)
        told = self.process.network_time(t)
        output = self.network.apply({"params": params}, shown, told, condition, train=rngs is not None, rngs=rngs)
        prediction, variance = self._split(output)
        target = prediction_types.target(aim.prediction_type, x0, eps, level, aim.data_std)
        log_snr = self.process.log_snr(t)
        weight = weightings.weight(
            aim.weighting,
            aim.prediction_type,
            log_snr,
            gamma=aim.gamma,
            data_std=aim.data_std,
            bias=aim.bias,
            density=lambda: self._times.log_snr_density(log_snr),
        )
        parts = {}
        if aim.learn_variance:
            held = self._to_x0(jax.lax.stop_gradient(prediction), x_t, level)
            parts["vlb"] = likelihood.one_term(self.process, level.time, x0, solvers.Estimate(held, variance))
        return weight * jnp.square(prediction - target).mean((1, 2, 3)), parts


def _hybrid(error, vlb=None):
    """L_hybrid, of L_vlb in bits/dim (Nichol & Dhariwal 2021, equation 16), where there is one."""
    return error if vlb is None else error + 0.001 * vlb
