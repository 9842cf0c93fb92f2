"""The networks of a GAN's config, and what such a config cannot ask for."""

import dataclasses
from typing import Annotated
from typing import Literal

from jax import numpy as jnp

from imagegen_jax import errors
from imagegen_jax import keys
from imagegen_jax.networks import dcgan
from imagegen_jax.networks import resnet_gan


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


def build(config, image_shape, classes):
    """(generator, discriminator) of a checked gan.Config."""
    network, discriminator, gan = config.network, config.discriminator, config.gan
    both = dict(classes=classes, attention=network.attention, dtype=jnp.dtype(network.dtype))
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
