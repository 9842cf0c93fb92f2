"""CycleGAN: unpaired translation between two domains (Zhu et al. 2017).

Two generators, G_ab: A -> B and G_ba: B -> A, and a discriminator in each domain. The generators minimise, all at once,

    loss(D_b(G_ab(a))) + loss(D_a(G_ba(b)))                         fool the discriminators        (equation 1)
    + lambda_a |G_ba(G_ab(a)) - a|_1 + lambda_b |G_ab(G_ba(b)) - b|_1        come back             (equation 2)
    + identity (lambda_a |G_ba(a) - a|_1 + lambda_b |G_ab(b) - b|_1)         keep what is there    (section 5.2)

and then each discriminator half the sum of its two terms (section 4), on the images that the generators made before their
update, through a pool of older ones (Shrivastava et al. 2017, section 2.3). Norms are means over pixels and channels. Weights,
order and pool are those of the authors' code (junyanz/pytorch-CycleGAN-and-pix2pix, models/cycle_gan_model.py), except that
both networks of a kind share one key in the state: params['generator'] = {'ab': ..., 'ba': ...}, params['discriminator'] =
{'a': ..., 'b': ...}, each with its optimiser.
"""

import dataclasses
from typing import Annotated
from typing import ClassVar

from flax import linen as nn
import flax.struct
import jax
from jax import numpy as jnp
import optax

from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import keys
from imagegen_jax import similarity
from imagegen_jax.adversarial import losses
from imagegen_jax.algorithms import base
from imagegen_jax.networks import cyclegan_nets

DIRECTIONS = {"ab": ("a", "b"), "ba": ("b", "a")}


@dataclasses.dataclass(frozen=True)
class Objective:
    """The section `cyclegan`."""

    # Nothing bounds the gradient of its discriminators, as the Wasserstein loss needs it.
    loss: Annotated[str, keys.OneOf(losses.BOUNDED)] = "least_squares"
    lambda_a: Annotated[float, keys.AtLeast(0)] = 10.0  # weight of |G_ba(G_ab(a)) - a|
    lambda_b: Annotated[float, keys.AtLeast(0)] = 10.0  # weight of |G_ab(G_ba(b)) - b|
    # Weight of |G_ba(a) - a| and |G_ab(b) - b|, as a share of those; 0 for none.
    identity: Annotated[float, keys.AtLeast(0)] = 0.5
    pool: Annotated[int, keys.AtLeast(0)] = 50  # generated images that each discriminator may see again; 0 for no pools
    paired_test: bool = keys.resumable(False)  # test image i of a is the true translation of test image i of b


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of a CycleGAN."""

    network: cyclegan_nets.GeneratorConfig = cyclegan_nets.GeneratorConfig()
    discriminator: cyclegan_nets.DiscriminatorConfig = cyclegan_nets.DiscriminatorConfig()
    cyclegan: Objective = Objective()
    mean_over_images: ClassVar[bool] = False  # see autoencoder.Config


@flax.struct.dataclass
class ImagePool:
    """Generated images of earlier steps, for a discriminator to see again.

    Attributes:
      images: (size, h, w, c) float32.
      count: () int32, how many of them are filled.
    """

    images: jax.Array
    count: jax.Array

    @classmethod
    def empty(cls, size, shape):
        """A pool with room for `size` images of this (h, w, c)."""
        return cls(jnp.zeros((size, *shape)), jnp.zeros((), jnp.int32))

    def query(self, rng, batch):
        """Offers the images of a batch to the pool one after the other.

        While there is room an image is stored and also returned. Afterwards, each with probability 1/2, it is returned and
        not stored, or takes the place of a stored one, drawn uniformly, which is returned instead.

        Args:
          rng: key.
          batch: (n, h, w, c) float32.

        Returns:
          (the pool afterwards, (n, h, w, c) images for the discriminator).
        """
        size = len(self.images)

        def offer(pool, item):
            key, image = item
            swap_key, place_key = jax.random.split(key)
            full = pool.count == size
            place = jnp.where(full, jax.random.randint(place_key, (), 0, size), pool.count)
            stores = ~full | jax.random.bernoulli(swap_key)
            returned = jnp.where(full & stores, pool.images[place], image)
            stored = pool.images.at[place].set(jnp.where(stores, image, pool.images[place]))
            return ImagePool(stored, jnp.minimum(pool.count + 1, size)), returned

        return jax.lax.scan(offer, self, (jax.random.split(rng, len(batch)), batch))


@dataclasses.dataclass(frozen=True)
class CycleGan(base.Algorithm):
    """A pair of translations between images of one size.

    Attributes:
      generators: {'ab': module, 'ba': module}, (n, h, w, c) -> (n, h, w, c').
      discriminator: (n, h, w, c) -> logits of patches.
      shapes: {'a': (h, w, c), 'b': (h, w, c')}.
      objective: the weights of its terms, and the pools.
      remat: recompute a generator's activations when its gradient needs them, which saves those of the other passes.
      training: how both the generators and the discriminators are optimised.
    """

    Config: ClassVar[type] = Config
    domains: ClassVar[tuple[str, ...]] = ("a", "b")
    directions: ClassVar[dict[str, tuple[str, str]]] = DIRECTIONS
    # The published setting (section 5.2 and appendix 7); epochs are of the larger domain.
    defaults: ClassVar[dict[str, object]] = {
        "batch_size": 1,
        "duration": "200 epochs",
        "optimizer.b1": 0.5,
        "optimizer.schedule": "linear",
        "optimizer.hold": "100 epochs",
        "optimizer.clip_norm": 0.0,
    }

    generators: dict[str, nn.Module]
    discriminator: nn.Module
    shapes: dict[str, tuple[int, int, int]]
    objective: Objective
    remat: bool
    training: base.Training

    @classmethod
    def from_config(cls, config, spec, training):
        shapes = {name: spec[name].shape for name in ("a", "b")}
        generators = {
            name: cyclegan_nets.generator(config.network, shapes[target][-1]) for name, (_, target) in DIRECTIONS.items()
        }
        _check_shapes(config, shapes, generators["ab"].multiple)
        discriminator = cyclegan_nets.discriminator(config.discriminator, jnp.dtype(config.network.dtype))
        return cls(generators, discriminator, shapes, config.cyclegan, config.network.remat, training)

    @property
    def multiples(self):
        """See capabilities.Translates."""
        return {direction: generator.multiple for direction, generator in self.generators.items()}

    @property
    def paired_test(self):
        """See capabilities.Translates."""
        return self.objective.paired_test

    @property
    def columns(self):
        """What `panel` shows of an image of a, then of the image of b with the same number."""
        of_a = ("a", "G_ab(a)", "G_ba(G_ab(a))", "G_ba(a)")
        of_b = ("b", "G_ba(b)", "G_ab(G_ba(b))", "G_ab(b)")
        return of_a + of_b if self.objective.identity else of_a[:3] + of_b[:3]

    def init(self, rng):
        blank = {name: jnp.zeros((1, *shape)) for name, shape in self.shapes.items()}
        keys = jax.random.split(rng, 4)
        generator = {d: self.generators[d].init(key, blank[d[0]])["params"] for d, key in zip(DIRECTIONS, keys)}
        discriminator = {name: self.discriminator.init(key, blank[name])["params"] for name, key in zip("ab", keys[2:])}
        params = {"generator": generator, "discriminator": discriminator}
        size = self.objective.pool
        pools = {name: ImagePool.empty(size, shape) for name, shape in self.shapes.items()} if size else {}
        return base.TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state={name: self.training.optimizer.init(params[name]) for name in params},
            ema_params={"generator": generator},
            extra={"pool": pools},
        )

    def train_step(self, state, batch, rng):
        real = {name: images.to_float(batch[name]["image"]) for name in ("a", "b")}

        value = jax.value_and_grad(self._generator_loss, has_aux=True)
        (_, (fake, metrics)), grads = value(state.params["generator"], state.params["discriminator"], real)
        metrics["grad_norm_generator"] = optax.tree.norm(grads)
        fake = jax.lax.stop_gradient(fake)

        pools, shown = {}, dict(fake)
        for (name, pool), key in zip(sorted(state.extra["pool"].items()), jax.random.split(rng)):
            pools[name], shown[name] = pool.query(key, fake[name])
        # Both read the parameters from before the step: the generators' update does not touch the discriminators'.
        d_value = jax.value_and_grad(self._discriminator_loss, has_aux=True)
        (_, d_metrics), d_grads = d_value(state.params["discriminator"], real, shown)
        metrics |= d_metrics
        metrics["grad_norm_discriminator"] = optax.tree.norm(d_grads)
        metrics["param_norm"] = optax.tree.norm(state.params)

        state = base.update(state, "generator", grads, self.training.optimizer, self.training.ema_decay)
        state = base.update(state, "discriminator", d_grads, self.training.optimizer)
        return state.replace(step=state.step + 1, extra={"pool": pools}), metrics

    def eval_step(self, state, batch, rng):
        real = {name: images.to_float(batch[name]["image"]) for name in ("a", "b")}
        fake, back, _ = self._translations(state.params["generator"], real, identity=False)
        metrics = {f"cycle_{name}": similarity.l1(back[name], real[name]) for name in ("a", "b")}
        aim = self.objective
        metrics["loss"] = aim.lambda_a * metrics["cycle_a"] + aim.lambda_b * metrics["cycle_b"]
        if aim.paired_test:
            for direction, (_, target) in DIRECTIONS.items():
                scores = similarity.scores(fake[target], real[target])
                metrics |= {f"{name}_{direction}": score for name, score in scores.items()}
        return metrics

    def translate(self, state, direction, image):
        """(n, h, w, c) float in [-1, 1] of one domain to the other's, by state.params; any h and w that the network takes."""
        return self.generators[direction].apply({"params": state.params["generator"][direction]}, image)

    def panel(self, state, batch, rng):
        real = {name: images.to_float(batch[name]["image"]) for name in ("a", "b")}
        fake, back, same = self._translations(state.params["generator"], real, identity=bool(self.objective.identity))
        columns = []
        for name, other in (("a", "b"), ("b", "a")):
            columns += [real[name], fake[other], back[name]] + ([same[name]] if same else [])
        channels = max(shape[-1] for shape in self.shapes.values())
        return jnp.stack([jnp.broadcast_to(x, (*x.shape[:3], channels)) for x in columns], 1)

    def _translations(self, params, real, identity):
        """(fake, back, same) by domain: G_ab(a) is fake['b'], G_ba(G_ab(a)) back['a'], G_ba(a) same['a'] (None without).

        A generator's two inputs at a time go through it as one batch, which is faster, or one by one, which needs less memory;
        instance normalisation keeps them apart.
        """

        def generate(direction, *inputs):
            apply, variables = self.generators[direction].apply, {"params": params[direction]}
            if self.remat:
                return [_recomputed(apply)(variables, x) for x in inputs]
            return jnp.split(apply(variables, jnp.concatenate(inputs)), len(inputs))

        fake, back, same = {}, {}, {} if identity else None
        for direction, (source, target) in DIRECTIONS.items():
            made = generate(direction, real[source], *([real[target]] if identity else []))
            fake[target] = made[0]
            if identity:
                same[target] = made[1]
        for direction, (source, target) in DIRECTIONS.items():
            (back[target],) = generate(direction, fake[source])
        return fake, back, same

    def _generator_loss(self, params, discriminator, real):
        """(loss, (fake, metrics)) of both generators."""
        fake, back, same = self._translations(params, real, identity=bool(self.objective.identity))
        aim, total, metrics = self.objective, 0.0, {}
        for name, weight in (("a", aim.lambda_a), ("b", aim.lambda_b)):
            logits = self.discriminator.apply({"params": discriminator[name]}, fake[name])
            terms = {
                f"adversarial_{name}": losses.ADVERSARIAL[aim.loss].generator(logits).mean(),
                f"cycle_{name}": weight * jnp.abs(back[name] - real[name]).mean(),
            }
            if same:
                terms[f"identity_{name}"] = aim.identity * weight * jnp.abs(same[name] - real[name]).mean()
            total += sum(terms.values())
            metrics |= terms
        return total, (fake, {"loss": total} | metrics)

    def _discriminator_loss(self, params, real, fake):
        """(loss, metrics) of both discriminators; each has half of the sum of its terms."""
        terms, total, metrics = losses.ADVERSARIAL[self.objective.loss], 0.0, {}
        for name in ("a", "b"):
            logits = self.discriminator.apply({"params": params[name]}, jnp.concatenate([real[name], fake[name]]))
            on_real, on_fake = jnp.split(logits, 2)
            loss = 0.5 * (terms.real(on_real).mean() + terms.fake(on_fake).mean())
            total += loss
            metrics[f"discriminator_{name}"] = loss
        return total, metrics


def _recomputed(apply):
    """apply(variables, x), whose intermediate results are computed a second time when the gradient needs them.

    So does jax.checkpoint, but it leaves the moment to the compiler, and XLA:CPU takes the first, at which nothing is saved.
    Here the second computation waits for the gradient with respect to the result, since its input depends on that.
    """

    def backward(inputs, gradient):
        variables, x = inputs
        x = x + (0 * gradient.mean()).astype(x.dtype)
        return jax.vjp(apply, variables, x)[1](gradient)

    recomputed = jax.custom_vjp(apply)
    recomputed.defvjp(lambda *inputs: (apply(*inputs), inputs), backward)
    return recomputed


def _check_shapes(config, shapes, multiple):
    """Raises errors.UserError where the networks cannot make these images."""
    base.check_same_size(shapes)
    least = config.discriminator.least_side
    if any(side % multiple or side < least for side in shapes["a"][:2]):
        raise errors.UserError(
            f"the networks take no images of {shapes['a'][:2]} pixels: set --config.data.image_size to a multiple of "
            f"{multiple} that is at least {least}"
        )
    if config.cyclegan.identity and shapes["a"][-1] != shapes["b"][-1]:
        raise errors.UserError(
            f"the domains have {shapes['a'][-1]} and {shapes['b'][-1]} channels, so no image can stay as it is: "
            "set --config.cyclegan.identity=0 or --config.data.channels"
        )
