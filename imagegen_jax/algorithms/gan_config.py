"""The keys of a GAN, what they cannot ask for, and the networks that they describe."""

import dataclasses
import operator
from typing import Annotated
from typing import ClassVar
from typing import Literal

from jax import numpy as jnp

from imagegen_jax import conditions
from imagegen_jax import errors
from imagegen_jax import keys
from imagegen_jax.adversarial import augmentation
from imagegen_jax.adversarial import losses
from imagegen_jax.adversarial import penalties
from imagegen_jax.networks import dcgan
from imagegen_jax.networks import gan_blocks
from imagegen_jax.networks import resnet_gan
from imagegen_jax.networks import text_encoder as text_encoder_lib


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """The section `network`, of which the first key is of both networks."""

    name: Literal["dcgan", "resnet"] = "dcgan"
    latent: Annotated[int, keys.AtLeast(1)] = 100  # dimensions of the noise
    # Channels of the generator's levels, the coarsest first; each doubles the sides.
    widths: Annotated[tuple[int, ...], keys.Each(keys.AtLeast(1))] = (512, 256, 128, 64)
    upsampling: Literal["transposed", "resize"] = "transposed"  # (dcgan)
    # Side of the maps that have self-attention in both networks; 0 for none.
    attention: Annotated[int, keys.AtLeast(0)] = 0
    dtype: keys.Dtype = "float32"  # of the computation of both


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """The section `discriminator`."""

    # Channels of its levels, the finest first; each halves the sides.
    widths: Annotated[tuple[int, ...], keys.Each(keys.AtLeast(1))] = (64, 128, 256)
    plain: Annotated[int, keys.AtLeast(0)] = 2  # residual blocks after those (resnet)
    norm: Literal["none", "batch", "spectral"] = "none"  # batch of dcgan alone
    # Images of a group that is told how much its images differ; 0 for none.
    mbstd_group_size: Annotated[int, keys.AtLeast(0)] = 0
    lr_ratio: Annotated[float, keys.AtLeast(0)] = 1.0  # its learning rate, as a multiple of optimizer.lr


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The section `encoder`."""

    # Channels of its levels, the finest first; each halves the sides.
    widths: Annotated[tuple[int, ...], keys.Each(keys.AtLeast(1))] = (64, 128)


@dataclasses.dataclass(frozen=True)
class Objective:
    """The section `gan`."""

    loss: Annotated[str, keys.OneOf(losses.ADVERSARIAL)] = "non_saturating"
    # The target of real images is less than 1 by this.
    label_smoothing: Annotated[float, keys.AtLeast(0), keys.AtMost(0.5)] = 0.0
    d_steps: Annotated[int, keys.AtLeast(1)] = 1  # updates of the discriminator a step; each takes its part of batch_size
    penalty: Annotated[str, keys.OneOf(("none", *penalties.PENALTIES))] = "none"
    penalty_weight: Annotated[float, keys.AtLeast(0)] = 10.0
    # Updates of the discriminator from one penalty to the next, which then counts so many times (lazy regularisation).
    penalty_every: Annotated[int, keys.AtLeast(1)] = 1
    conditional: bool = False  # on labels, which both networks are told
    text: bool = False  # on captions in their place, of which config.data.caption_length tokens are read
    # Projection (and class-conditional normalisation), or concat (dcgan).
    conditioning: Annotated[str, keys.OneOf(gan_blocks.CONDITIONINGS)] = "projection"
    auxiliary: Annotated[float, keys.AtLeast(0)] = 0.0  # weight of the loss of classifying images by their labels

    def objections(self):
        """See keys.objections."""
        if self.text and self.conditional:
            yield "text", "both networks are told labels or texts: set --config.gan.conditional=False"
        if self.auxiliary and not self.conditional:
            yield "auxiliary", "it weighs guesses of labels: set --config.gan.conditional=True"
        if self.label_smoothing and self.loss not in losses.SMOOTHED:
            yield (
                "label_smoothing",
                f"it moves targets, and config.gan.loss={self.loss} has none: choose one of {', '.join(losses.SMOOTHED)}",
            )


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of a GAN."""

    network: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    gan: Objective = Objective()
    text_encoder: text_encoder_lib.Config = text_encoder_lib.Config()
    augment: augmentation.Config = augmentation.Config()
    mean_over_images: ClassVar[bool] = False  # see autoencoder.Config

    def objections(self):
        """See keys.objections."""
        gan, discriminator, augment = self.gan, self.discriminator, self.augment
        if gan.penalty != "none" and discriminator.norm == "batch":
            yield (
                "gan.penalty",
                "it is of the gradient at single images, which normalisation by the batch does not have: "
                "set --config.discriminator.norm=none or spectral",
            )
        # R1, R2 and DRAGAN bound D's gradient at one kind of image alone; D(G(z)) - D(x) can still fall without end.
        if gan.loss == "wasserstein" and gan.penalty != "wgan_gp" and discriminator.norm != "spectral":
            yield (
                "gan.penalty",
                "it leaves the Wasserstein loss without a bound: set --config.gan.penalty=wgan_gp or "
                "--config.discriminator.norm=spectral",
            )
        if self.network.name == "resnet":
            for key, value in (
                ("network.upsampling", "resize"),
                ("gan.conditioning", "concat"),
                ("discriminator.norm", "batch"),
            ):
                if operator.attrgetter(key)(self) == value:
                    yield key, "it is of --config.network.name=dcgan"
        if augment.adaptive and not augment.policy:
            yield "augment.adaptive", "it needs --config.augment.policy"
        if augment.adaptive and gan.loss not in losses.BOUNDED:
            yield (
                "augment.adaptive",
                "it follows how many training images the discriminator takes for real, and the logits of "
                f"config.gan.loss={gan.loss} do not say: set --config.augment.adaptive=False",
            )


def build(config, image_shape, told):
    """(generator, discriminator) of a checked gan.Config, and of the {name: conditions.Condition} that they are told."""
    network, discriminator, gan = config.network, config.discriminator, config.gan
    classes, text = conditions.classes(told), text_encoder_lib.build(config.text_encoder, told.get("text"))
    both = dict(classes=classes, text=text, attention=network.attention, dtype=jnp.dtype(network.dtype))
    ours = dict(image_shape=image_shape, widths=network.widths)
    theirs = {name: getattr(discriminator, name) for name in ("widths", "mbstd_group_size")}
    theirs["aux_classes"] = classes if gan.auxiliary else 0
    if network.name == "resnet":
        theirs["plain"] = discriminator.plain
        return resnet_gan.Generator(**ours, **both), resnet_gan.Discriminator(**theirs, **both)
    both["conditioning"] = gan.conditioning
    ours["upsampling"] = network.upsampling
    theirs["batch_norm"] = discriminator.norm == "batch"
    return dcgan.Generator(**ours, **both), dcgan.Discriminator(**theirs, **both)


def check(config, spec, batch_size):
    """Raises errors.UserError where the networks make no such images, or the batch has no such shares."""
    widths = {name: len(section.widths) for name, section in vars(config).items() if hasattr(section, "widths")}
    height, width, _ = spec.shape
    multiple = 2 ** max(widths.values())
    exact = config.network.name == "resnet"
    wanted = f"a multiple of {multiple}" if exact else f"more than {multiple}"
    if not all(widths.values()) or min(height, width) <= multiple or (exact and (height % multiple or width % multiple)):
        levels = ", ".join(f"{count} in config.{name}.widths" for name, count in widths.items())
        raise errors.UserError(
            f"these networks make no images of {height}x{width} pixels: each level doubles or halves the sides, and there are "
            f"{levels}; set --config.data.image_size to {wanted}, or give fewer widths, but one at least"
        )
    inner = dcgan.sides(height, widths["network"])[1:-1], dcgan.sides(height, widths["discriminator"])[:-1]
    sides = sorted(set(inner[0]) & set(inner[1]))
    if config.network.attention and config.network.attention not in sides:
        raise errors.UserError(
            f"config.network.attention is {config.network.attention}: both networks have maps with sides of "
            f"{', '.join(map(str, sides)) or 'no common size'}"
        )
    share, rest = divmod(batch_size, config.gan.d_steps)
    if rest:
        raise errors.UserError(
            f"config.gan.d_steps is {config.gan.d_steps}: it must divide config.batch_size ({batch_size}), of which "
            "each update takes its share"
        )
    group = config.discriminator.mbstd_group_size
    if group and share % group:
        raise errors.UserError(
            f"config.discriminator.mbstd_group_size is {group}: it must divide the {share} images of an update"
        )
