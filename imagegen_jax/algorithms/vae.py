"""Variational autoencoders (Kingma & Welling 2014; Rezende et al. 2014), on one level of latent variables or on several.

With levels z_1 (top), ..., z_L, each with a prior p(z_l | z_<l) and a posterior q(z_l | x, z_<l), what is maximised bounds the
log likelihood from below (Sønderby et al. 2016, equation 8):

    ELBO = E_q log p(x | z) - beta sum_l KL(q(z_l | x, z_<l) || p(z_l | z_<l))        with beta = 1

beta rises from 0 (Bowman et al. 2016, section 3.1) and may stay elsewhere (Higgins et al. 2017, equation 4). Of each latent
channel's KL, averaged over the batch, the first `free_bits` nats cost nothing (Kingma et al. 2016, equation 15). Labels, where
there are any, condition all three (Sohn et al. 2015, equation 4).
"""

import dataclasses
import math
from typing import Annotated
from typing import ClassVar

from flax import linen as nn
import jax
from jax import numpy as jnp

from imagegen_jax import distributions
from imagegen_jax import errors
from imagegen_jax import keys
from imagegen_jax import rng as rng_lib
from imagegen_jax.algorithms import base
from imagegen_jax.networks import ladder
from imagegen_jax.networks import vae_nets

_LISTED = 64  # latent channels at most whose KL is logged one by one
_ACTIVE = 0.01  # variance of the posterior's mean from which a unit counts as active (Burda et al. 2016, section 5.2)


@dataclasses.dataclass(frozen=True)
class Objective:
    """The section `vae`."""

    beta: Annotated[float, keys.AtLeast(0)] = 1.0  # weight of the KL divergence
    warmup: keys.Duration = "0 steps"  # the weight rises linearly from 0
    free_bits: Annotated[float, keys.AtLeast(0)] = 0.0  # nats of each latent channel that cost nothing
    conditional: bool = False  # on labels, which encoder and decoder are told
    conditional_prior: bool = False  # and the prior too; a ladder's always is

    def objections(self):
        """See keys.objections."""
        if self.conditional_prior and not self.conditional:
            yield "conditional_prior", "it needs config.vae.conditional"


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of a VAE; with a ladder.Config those of a hierarchical one."""

    network: vae_nets.Config | ladder.Config = vae_nets.Config()
    likelihood: distributions.Likelihood = distributions.Likelihood()
    vae: Objective = Objective()

    @property
    def mean_over_images(self):
        """See autoencoder.Config."""
        return not self.vae.free_bits and not getattr(self.network, "has_batch_norm", False)


@dataclasses.dataclass(frozen=True)
class Request:
    """The options of drawing."""

    temperature: Annotated[
        tuple[float, ...] | None,
        "VAE: factor on the standard deviation of its prior, or one for each level of latents, the top's first.",
        keys.Each(keys.AtLeast(0)),
    ] = None


@dataclasses.dataclass(frozen=True)
class Vae(base.Algorithm):
    """A VAE of images of one shape.

    Attributes:
      network: a vae_nets.Vae or ladder.Ladder.
      likelihood: p(x | z).
      image_shape: (height, width, channels).
      beta: weight of the KL divergence, after the warm-up.
      warmup: steps over which the weight rises from 0.
      free_bits: nats of each latent channel that cost nothing.
      training: how it is optimised.
      classes: labels that the networks are told; 0 for none.
    """

    Config: ClassVar[type] = Config
    Request: ClassVar[type] = Request
    columns: ClassVar[tuple[str, ...]] = ("image", "reconstruction")

    network: nn.Module
    likelihood: distributions.Likelihood
    image_shape: tuple[int, int, int]
    beta: float
    warmup: int
    free_bits: float
    training: base.Training
    classes: int = 0

    @classmethod
    def from_config(cls, config, spec, training):
        classes = base.told_classes(config.vae.conditional, spec, "vae.conditional")
        return cls(
            network=_network(config, spec.shape, classes),
            likelihood=config.likelihood,
            image_shape=spec.shape,
            classes=classes,
            beta=config.vae.beta,
            warmup=training.steps(config.vae.warmup),
            free_bits=config.vae.free_bits,
            training=training,
        )

    @property
    def prior_is_normal(self):
        """With one level, unless its prior is told the label."""
        return isinstance(self.network, vae_nets.Vae) and not self.network.conditional_prior

    @property
    def latent_shape(self):
        """(d,): the latent variables of all levels in a row, the top's first."""
        return (sum(map(math.prod, self.network.latent_shapes)),)

    def init(self, rng):
        blank = jnp.zeros((1, *self.image_shape))
        noise = [jnp.zeros((1, *shape)) for shape in self.network.latent_shapes]
        variables = self.network.init(rng, blank, {"label": jnp.zeros(1, jnp.int32)}, noise, method="infer")
        params = {"network": variables["params"], "likelihood": self.likelihood.init()}
        return base.first_state("vae", params, self.training, {"vae_stats": variables.get("batch_stats", {})})

    def train_step(self, state, batch, rng):
        observe_rng, noise_rng = jax.random.split(rng)
        image, condition = batch["image"], batch["condition"]
        x = self.likelihood.observe(image, jax.random.uniform(observe_rng, image.shape))
        noise = [
            jax.random.normal(jax.random.fold_in(noise_rng, level), (len(x), *shape))
            for level, shape in enumerate(self.network.latent_shapes)
        ]
        beta = self.beta * jnp.minimum(1.0, (state.step + 1) / max(self.warmup, 1))
        stats = state.extra["vae_stats"]

        def loss(params, examples, rng):
            x, condition, noise = examples
            variables = {"params": params["network"], "batch_stats": stats}
            (levels, output), updated = self.network.apply(
                variables, x, condition, noise, train=True, method="infer", mutable=["batch_stats"]
            )
            distortion = -self.likelihood.log_prob(params["likelihood"], output, x).mean()
            channels = [kl_per_channel(level).mean(0) for level in levels]
            cost = sum(jnp.maximum(channel, self.free_bits).sum() for channel in channels)
            rate = sum(channel.sum() for channel in channels)
            metrics = {
                "distortion": distortion,
                "kl": rate,
                "bits_per_dim": distributions.bits_per_dimension(-distortion - rate, self.image_shape),
            }
            metrics |= {f"kl_level_{i}": channel.sum() for i, channel in enumerate(channels)} if len(channels) > 1 else {}
            if len(channels) == 1 and len(channels[0]) <= _LISTED:
                metrics |= {f"kl_dimension/{i:02d}": value for i, value in enumerate(channels[0])}
            metrics["moments"] = [(level.posterior.mean.mean(0), jnp.square(level.posterior.mean).mean(0)) for level in levels]
            return distortion + beta * cost, (metrics, {"vae_stats": updated.get("batch_stats", {})})

        state, metrics = base.train_step(self.training, state, "vae", loss, (x, condition, noise), rng)
        active = sum(_active(*moments) for moments in metrics.pop("moments"))
        return state, metrics | {"beta": beta, "active_units": active}

    def eval_step(self, state, batch, rng):
        x, noise = self._observed(batch, rng, 0)
        levels, output = self._infer(state, x, batch["condition"], noise)
        distortion = -self._log_prob(state, output, x)
        rates = [kl_per_channel(level).sum(-1) for level in levels]
        elbo = -distortion - sum(rates)
        metrics = {
            "loss": -elbo,
            "bits_per_dim": distributions.bits_per_dimension(elbo, self.image_shape),
            "distortion": distortion,
            "kl": sum(rates),
            "squared_error": jnp.square(self.likelihood.mean(output) - x).mean((1, 2, 3)),
        }
        return metrics | ({f"kl_level_{i}": rate for i, rate in enumerate(rates)} if len(rates) > 1 else {})

    def log_importance_weights(self, state, batch, rng, sample):
        x, noise = self._observed(batch, rng, sample)
        levels, output = self._infer(state, x, batch["condition"], noise)
        log_weight = self._log_prob(state, output, x)
        for prior, posterior, z in levels:
            log_weight += (prior.log_density(z) - posterior.log_density(z)).reshape(len(z), -1).sum(-1)
        return log_weight

    def sample(self, state, keys, condition, request):
        temperatures = request.temperature or (1.0,)
        if len(temperatures) == 1:
            temperatures *= len(self.network.latent_shapes)
        return self.likelihood.mean(self._apply(state, condition, self._noise(keys), temperatures, method="generate"))

    def encode(self, state, batch, rng=None):
        if rng is None:
            x = self.likelihood.observe(batch["image"], 0.5)
            noise = [jnp.zeros((len(x), *shape)) for shape in self.network.latent_shapes]
        else:
            x, noise = self._observed(batch, rng, 0)
        levels, _ = self._infer(state, x, batch["condition"], noise)
        return jnp.concatenate([level.z.reshape(len(x), -1) for level in levels], -1)

    def decode(self, state, latents, condition):
        sizes = [math.prod(shape) for shape in self.network.latent_shapes]
        parts = jnp.split(latents, [sum(sizes[:i]) for i in range(1, len(sizes))], -1)
        levels = [part.reshape(-1, *shape) for part, shape in zip(parts, self.network.latent_shapes)]
        return self.likelihood.mean(self._apply(state, levels, condition, method="decode"))

    def panel(self, state, batch, rng):
        x = self.likelihood.observe(batch["image"], 0.5)
        return jnp.stack([x, self.decode(state, self.encode(state, batch), batch["condition"])], 1)

    def check_request(self, request):
        levels, given = len(self.network.latent_shapes), request.temperature
        if given is not None and len(given) not in (1, levels):
            raise errors.UserError(
                f"--temperature={','.join(map(str, given))}: give one number for all levels, or {levels}, the top level's first"
            )

    def _apply(self, state, *args, **kwargs):
        variables = {"params": state.params["vae"]["network"], "batch_stats": state.extra["vae_stats"]}
        return self.network.apply(variables, *args, **kwargs)

    def _infer(self, state, x, condition, noise):
        return self._apply(state, x, condition, noise, method="infer")

    def _log_prob(self, state, output, x):
        return self.likelihood.log_prob(state.params["vae"]["likelihood"], output, x)

    def _observed(self, batch, rng, sample):
        """(x, noise of posterior sample number `sample`); x is the same for all samples of an image."""

        def draw(key):
            observe_key, noise_key = jax.random.split(key)
            return jax.random.uniform(observe_key, self.image_shape), jax.random.fold_in(noise_key, sample)

        uniform, keys = jax.vmap(draw)(rng_lib.per_index(rng, batch["index"]))
        return self.likelihood.observe(batch["image"], uniform), self._noise(keys)

    def _noise(self, keys):
        """Standard normal arrays, one for each level, of one key for each image."""

        def one(key):
            shapes = self.network.latent_shapes
            return [jax.random.normal(jax.random.fold_in(key, level), shape) for level, shape in enumerate(shapes)]

        return jax.vmap(one)(keys)


def kl_per_channel(level):
    """(n, channels) KL of a Level's posterior from its prior, summed over places."""
    kl = level.posterior.kl(level.prior)
    return kl.reshape(len(kl), -1, kl.shape[-1]).sum(1)


def _active(mean, square):
    """How many units' posterior means differ between images, given the means over images of that and of its square."""
    return (square - jnp.square(mean) > _ACTIVE).sum().astype(jnp.float32)


def _network(config, image_shape, classes):
    network, outputs = config.network, config.likelihood.outputs(image_shape[-1])
    if isinstance(network, ladder.Config):
        sections = {name: value for name, value in vars(network).items() if name != "name"}
        sections["dtype"] = jnp.dtype(network.dtype)
        return ladder.Ladder(image_shape, outputs, classes=classes, **sections)
    encoder, decoder = vae_nets.encoder_and_decoder(network, image_shape, outputs)
    return vae_nets.Vae(encoder, decoder, network.latent, classes, config.vae.conditional_prior)
