"""The networks of a GAN's config, and what such a config cannot ask for."""

from jax import numpy as jnp

from imagegen_jax import errors
from imagegen_jax import losses
from imagegen_jax.networks import dcgan
from imagegen_jax.networks import resnet_gan


def build(config, spec):
    """(generator, discriminator) of a checked config, for images of an images.Spec."""
    network, discriminator, gan = config.network, config.discriminator, config.gan
    classes = spec.classes if gan.conditional else 0
    both = dict(classes=classes, attention=network.attention, dtype=jnp.dtype(network.dtype))
    ours = dict(image_shape=spec.shape, widths=tuple(network.widths))
    theirs = dict(widths=tuple(discriminator.widths), stddev=discriminator.stddev, guessed=classes if gan.auxiliary else 0)
    if network.name == "resnet":
        theirs["plain"] = discriminator.plain
        return resnet_gan.Generator(**ours, **both), resnet_gan.Discriminator(**theirs, **both)
    both["conditioning"] = gan.conditioning
    ours["upsampling"] = network.upsampling
    theirs["batch_norm"] = discriminator.norm == "batch"
    return dcgan.Generator(**ours, **both), dcgan.Discriminator(**theirs, **both)


def check(config, spec):
    """Raises errors.UserError for the first thing that cannot be."""
    gan, discriminator = config.gan, config.discriminator
    resnet = config.network.name == "resnet"
    # R1, R2 and DRAGAN bound D's slope at one kind of image alone; the difference D(G(z)) - D(x) can still fall without end.
    unbounded = gan.loss == "wasserstein" and gan.penalty != "wgan_gp" and discriminator.norm != "spectral"
    objections = {
        f"config.gan.conditional needs labels, and the images of {config.data.source} have none: put them in one sub-folder a "
        "class, or set --config.gan.conditional=False": gan.conditional and not spec.classes,
        "config.gan.auxiliary weighs guesses of labels: set --config.gan.conditional=True": gan.auxiliary
        and not gan.conditional,
        f"config.gan.penalty={gan.penalty} is of the slope at single images, which normalisation by the batch does not have: "
        "set --config.discriminator.norm=none or spectral": gan.penalty != "none" and discriminator.norm == "batch",
        f"config.gan.penalty={gan.penalty} leaves the Wasserstein loss without a bound: set --config.gan.penalty=wgan_gp or "
        "--config.discriminator.norm=spectral": unbounded,
        f"config.gan.label_smoothing moves targets, and config.gan.loss={gan.loss} has none: choose one of "
        f"{', '.join(losses.SMOOTHED)}": gan.label_smoothing and gan.loss not in losses.SMOOTHED,
        "config.network.upsampling=resize is of --config.network.name=dcgan": resnet and config.network.upsampling == "resize",
        "config.gan.conditioning=concat is of --config.network.name=dcgan": resnet and gan.conditioning == "concat",
        "config.discriminator.norm=batch is of --config.network.name=dcgan": resnet and discriminator.norm == "batch",
        "config.augment.adaptive needs --config.augment.policy": config.augment.adaptive and not config.augment.policy,
        f"config.augment.adaptive follows how many training images the discriminator takes for real, and the logits of "
        f"config.gan.loss={gan.loss} do not say: set --config.augment.adaptive=False": config.augment.adaptive
        and gan.loss not in losses.BOUNDED,
    }
    for objection, holds in objections.items():
        if holds:
            raise errors.UserError(objection)
    _check_sides(config, spec)


def _check_sides(config, spec):
    """Raises errors.UserError where the networks make no such images, or the batch has no such shares."""
    widths = {name: len(config[name].widths) for name in ("network", "discriminator", "encoder") if name in config}
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
    share, rest = divmod(config.batch_size, config.gan.d_steps)
    if rest:
        raise errors.UserError(
            f"config.gan.d_steps is {config.gan.d_steps}: it must divide config.batch_size ({config.batch_size}), of which "
            "each update takes its share"
        )
    if config.discriminator.stddev and share % config.discriminator.stddev:
        raise errors.UserError(
            f"config.discriminator.stddev is {config.discriminator.stddev}: it must divide the {share} images of an update"
        )
