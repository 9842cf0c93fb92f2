"""A prior over the codes of a VQ-VAE or VQGAN (van den Oord et al. 2017, section 3.3): a transformer, in one of two orders.

raster: an image's codes c_0, c_1, ..., row by row, have log p(c) = sum_i log p(c_i | c_0, ..., c_{i-1}), whose mean over
images is maximised. Codes are drawn one after the other.

masked (MaskGIT: Chang et al. 2022): with a share cos(pi r / 2) of the codes masked, r uniform in [0, 1),

    - sum_{i masked} log p(c_i | those that are not)           equation 3, here over the number of codes

is minimised. In each of a few steps all masked codes are drawn, the likeliest stay, and the others are masked again. What is
drawn so has no probability that could be computed; codes that are drawn one at a time, in random order, have a bound of theirs
(Hoogeboom et al. 2022, equation 5): they take no more nats a code than the mean of - log p(c_i | those that are not) over the
masked, with a number of those that is uniform in 1, ..., length.

Images are what the first stage decodes of the codes. It stays as its own run left it, and a copy is in the state, so that this
run needs that one only to begin.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Annotated
from typing import Any
from typing import ClassVar

import jax
from jax import numpy as jnp
import optax

from imagegen_jax import categorical
from imagegen_jax import conditions as conditions_lib
from imagegen_jax import errors
from imagegen_jax import keys as keys_lib
from imagegen_jax import rng as rng_lib
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import capabilities
from imagegen_jax.networks import blocks
from imagegen_jax.networks import text_encoder as text_encoder_lib
from imagegen_jax.networks import transformer

# By so many positions the cache of a raster order grows, or in so many segments, each of which is compiled by itself.
_SEGMENT, _SEGMENTS = 64, 8


@dataclasses.dataclass(frozen=True)
class Prior:
    """The section `prior`."""

    order: Annotated[str, keys_lib.OneOf(("raster", "masked"))] = "raster"
    conditional: bool = False  # on labels
    text: bool = False  # likewise on captions, of which config.data.caption_length tokens are read
    # Share of the training images whose condition is left out, so that guidance knows images in general.
    condition_dropout: Annotated[float, keys_lib.AtLeast(0), keys_lib.AtMost(1)] = 0.0
    # Of which all codes get an even part in what is trained (Szegedy et al. 2016, section 7).
    label_smoothing: Annotated[float, keys_lib.AtLeast(0), keys_lib.Below(1)] = 0.0

    def objections(self):
        """See keys.objections."""
        if self.condition_dropout and not (self.conditional or self.text):
            yield "condition_dropout", "it needs config.prior.conditional=True"


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of a prior over codes."""

    network: transformer.Config = transformer.Config()
    text_encoder: text_encoder_lib.Config = text_encoder_lib.Config()
    prior: Prior = Prior()
    sampler: categorical.Sampler = keys_lib.resumable(categorical.Sampler())

    def objections(self):
        """See keys.objections."""
        if self.sampler.guidance_scale != 1 and not self.prior.condition_dropout:
            yield (
                "sampler.guidance_scale",
                "it needs images without conditions in training: config.prior.condition_dropout above 0",
            )


@dataclasses.dataclass(frozen=True)
class CodePrior(base.IsTold, base.Algorithm):
    """A transformer over the codes of images of one shape.

    Attributes:
      network: predicts codes.
      first_stage: what makes codes of images, and images of codes.
      objective: the order of codes, and how they are trained.
      sampler: how codes are drawn, unless the request says otherwise.
      training: how it is optimised.
      conditions: {name: conditions.Condition} of what the network is told.
    """

    Config: ClassVar[type] = Config
    Request: ClassVar[type] = keys_lib.options((categorical.Sampler, str))
    first_stage_capability: ClassVar[type] = capabilities.Tokenizes

    network: transformer.Transformer
    first_stage: Any
    objective: Prior
    sampler: categorical.Sampler
    training: base.Training
    conditions: Mapping[str, conditions_lib.Condition] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_config(cls, config, spec, training):
        tokenizer, prior = training.first_stage, config.prior
        told = base.told_conditions(prior, spec, "prior")
        nulls = "label" in told and prior.condition_dropout > 0  # the null label's start is the last
        network = blocks.from_config(
            transformer.Transformer,
            config.network,
            codes=tokenizer.codes,
            length=math.prod(tokenizer.code_shape),
            starts=max(conditions_lib.classes(told) + nulls, 1),
            causal=prior.order == "raster",
            text=text_encoder_lib.build(config.text_encoder, told.get("text")),
        )
        return cls(network, tokenizer, prior, config.sampler, training, told)

    @property
    def is_masked(self):
        """Whether codes are masked, and drawn many at once."""
        return self.objective.order == "masked"

    def init(self, rng):
        network_rng, first_rng = jax.random.split(rng)
        blank = self.network.inputs(jnp.zeros((1, self.network.length), jnp.int32), {})
        text = self.text.null(1) if self.text else None
        params = self.network.init(network_rng, blank, text=text)["params"]
        return base.first_state(
            "transformer", params, self.training, extra={"first_stage": self.first_stage.init(first_rng).frozen()}
        )

    def with_first_stage(self, state, trained):
        """See capabilities.HasFirstStage."""
        return state.replace(extra={"first_stage": trained.frozen(like=state.extra["first_stage"])})

    def train_step(self, state, batch, rng):
        codes, condition = self._codes(state, batch), self._told(batch["condition"])
        if self.objective.condition_dropout:
            left_out = jax.random.bernoulli(jax.random.fold_in(rng, 1), self.objective.condition_dropout, (len(codes),))
            condition = conditions_lib.dropped(condition, self.conditions, left_out)
        masked = self._masked(jax.random.split(jax.random.fold_in(rng, 2), len(codes)))

        def loss(params, examples, rng):
            value, metrics = self._errors(params, *examples, rngs={"dropout": rng})
            return value.mean(), (jax.tree.map(jnp.mean, metrics), {})

        return base.train_step(self.training, state, "transformer", loss, (codes, condition, masked), rng)

    def eval_step(self, state, batch, rng):
        """With 'loss', as it is trained, and bits.

        Those are 'bits_per_code', and 'log_prob', log p(c) of all of an image's codes in nats; of a masked prior
        'bits_per_masked_code', and 'bits_per_code_bound', one draw of the bound above.
        """
        given = state.params["transformer"], self._codes(state, batch), self._told(batch["condition"])
        keys = rng_lib.per_index(rng, batch["index"])
        loss, metrics = self._errors(*given, self._masked(keys))
        if not self.is_masked:
            return {"loss": loss, **metrics, "log_prob": -metrics["bits_per_code"] * math.log(2) * self.network.length}
        counts = jax.vmap(lambda key: jax.random.randint(jax.random.fold_in(key, 2), (), 1, self.network.length + 1))(keys)
        among = categorical.random_masks(keys, self.network.length, counts)
        return {"loss": loss, **metrics, "bits_per_code_bound": self._errors(*given, among)[1]["bits_per_masked_code"]}

    def sample(self, state, keys, condition, request):
        codes = self.sample_codes(state, keys, condition, request)
        return self.first_stage.decode_indices(state.extra["first_stage"], codes.reshape(-1, *self.first_stage.code_shape))

    def sample_codes(self, state, keys, condition, request):
        """(n, length) int32, each row drawn with its own of n keys."""
        draw = self._draw_masked if self.is_masked else self._draw_in_turn
        return draw({"params": state.params["transformer"]}, keys, self._told(condition), self._sampler(request))

    def check_request(self, request):
        asked = keys_lib.asked(request, categorical.Sampler, str)
        for name in categorical.OF_MASKED if not self.is_masked else ():
            if name in asked:
                raise errors.UserError(
                    f"--{name}={asked[name]} is of priors with config.prior.order=masked, and this run draws its codes "
                    "one after the other: leave it out"
                )
        if asked.get("steps", 1) > self.network.length:
            raise errors.UserError(
                f"--steps={asked['steps']}: an image has {self.network.length} codes, choose 1 to {self.network.length}"
            )
        if asked.get("guidance_scale", 1) != 1 and not self.objective.condition_dropout:
            seen = (
                "has seen no images without a condition (config.prior.condition_dropout is 0)"
                if self.conditions
                else "is told neither labels nor texts"
            )
            raise errors.UserError(
                f"--guidance_scale={asked['guidance_scale']}: this run {seen}; leave it out, or train one with "
                "--config.prior.conditional=True --config.prior.condition_dropout=0.1"
            )

    def about_request(self, request):
        return self._sampler(request).about(self.is_masked)

    def _sampler(self, request):
        sampler = dataclasses.replace(self.sampler, **keys_lib.asked(request, categorical.Sampler, str))
        return dataclasses.replace(sampler, steps=min(sampler.steps, self.network.length))

    def precompute(self, state, batch):
        """See capabilities.Precomputes."""
        return {"codes": self._codes(state, batch)}

    def _codes(self, state, batch):
        """(n, length) int32, row by row."""
        if "codes" in batch:
            return batch["codes"]
        return self.first_stage.indices(state.extra["first_stage"], batch["image"]).reshape(len(batch["image"]), -1)

    def _told(self, condition):
        """What the network is told of it."""
        return {name: condition[name] for name in self.conditions}

    def _masked(self, keys):
        """(n, length) bool of one key for each image, the codes that are masked in training; None where none are."""
        if not self.is_masked:
            return None
        shares = categorical.masked_share(jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1)))(keys))
        counts = jnp.maximum(jnp.ceil(shares * self.network.length), 1).astype(jnp.int32)
        return categorical.random_masks(keys, self.network.length, counts)

    def _logits(self, params, codes, condition, masked=None, rngs=None):
        """(n, length, K) float32 of (n, length) int32 codes, given those before each or those that are not `masked`."""
        shown = codes if masked is None else jnp.where(masked, self.network.mask, codes)
        inputs, text = self.network.inputs(shown, condition), condition.get("text")
        return self.network.apply({"params": params}, inputs, train=rngs is not None, text=text, rngs=rngs)[0]

    def _errors(self, params, codes, condition, masked=None, rngs=None):
        """What is minimised, (n,) nats a code, and metrics, (n,) by name. Trains (with dropout) where rngs are given."""
        logits = self._logits(params, codes, condition, masked, rngs)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, codes)
        even = jax.nn.logsumexp(logits, -1) - logits.mean(-1)
        loss = nats + self.objective.label_smoothing * (even - nats) if self.objective.label_smoothing else nats
        if masked is None:
            return loss.mean(-1), {"bits_per_code": nats.mean(-1) / math.log(2)}
        return (loss * masked).mean(-1), {"bits_per_masked_code": nats.mean(-1, where=masked) / math.log(2)}

    def _draw_in_turn(self, variables, keys, condition, sampler):
        """Codes one after the other. The cache grows on the way, so that they attend to few places that are not there yet."""
        n, length = len(keys), self.network.length
        condition = self._shown(n, condition, sampler)
        before = self.network.start(n * sampler.rows, condition)
        cache = self.network.empty_cache(len(before), 0)
        if self.text:
            _, cache = self.network.apply(variables, before[:, None][:, :0], text=condition["text"])
        words = cache[0].keys.shape[2]

        def draw(carry, position):
            before, cache = carry
            logits, cache = self.network.apply(variables, before[:, None], cache, position, words=words)
            here = jax.vmap(jax.random.fold_in, (0, None))(keys, position)
            code = jax.vmap(jax.random.categorical)(here, sampler.filtered(sampler.guided(logits[:, 0]))).astype(jnp.int32)
            return (jnp.concatenate([code] * sampler.rows), cache), code

        segments = []
        for begin in range(0, length, segment := max(_SEGMENT, -(-length // _SEGMENTS))):
            end = min(begin + segment, length)
            carry = before, transformer.grown(cache, words + end)
            (before, cache), codes = jax.lax.scan(draw, carry, jnp.arange(begin, end))
            segments.append(codes)
        return jnp.concatenate(segments).T

    def _draw_masked(self, variables, keys, condition, sampler):
        """All codes in each step, of which those stay that the network is the surest of, with noise that ends at 0."""
        n, length = len(keys), self.network.length
        condition = self._shown(n, condition, sampler)

        def draw(carry, now):
            codes, masked = carry
            step, left = now
            rows = jax.tree.map(lambda x: jnp.concatenate([x] * sampler.rows), {"codes": codes, "masked": masked})
            logits = self._logits(variables["params"], **rows, condition=condition)
            logits = sampler.filtered(sampler.guided(logits))
            code_keys, choice_keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, step)))(keys).T
            drawn = jax.vmap(jax.random.categorical)(code_keys, logits).astype(jnp.int32)
            codes = jnp.where(masked, drawn, codes)
            confidence = -optax.softmax_cross_entropy_with_integer_labels(logits, drawn)
            noise = jax.vmap(lambda key: jax.random.gumbel(key, (length,)))(choice_keys)
            confidence += sampler.choice_temperature * (1 - (step + 1) / sampler.steps) * noise
            return (codes, categorical.kept_masked(confidence, masked, left)), ()

        first = jnp.zeros((n, length), jnp.int32), jnp.ones((n, length), bool)
        steps = jnp.arange(sampler.steps), jnp.array(categorical.masked_after(length, sampler.steps))
        (codes, _), _ = jax.lax.scan(draw, first, steps)
        return codes

    def _shown(self, n, condition, sampler):
        """The condition of all rows that the network sees of n images; with guidance first the null one."""
        if sampler.rows == 1:
            return condition
        return jax.tree.map(lambda *two: jnp.concatenate(two), conditions_lib.null(self.conditions, n), condition)
