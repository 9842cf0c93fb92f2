"""The networks that denoise, one of which a section `network` names."""

from imagegen_jax.networks import blocks
from imagegen_jax.networks import dit
from imagegen_jax.networks import unet

Config = unet.Config | dit.Config


def build(config, image_shape, **others):
    """The Linen module of a Config, (x, t, condition, train) -> prediction.

    Args:
      config: of it.
      image_shape: (height, width, channels) of the images that it is trained on.
      **others: its fields that are no keys.
    """
    if isinstance(config, unet.Config):
        return blocks.from_config(unet.UNet, config, **others)
    return blocks.from_config(dit.DiT, config, **others | {"trained_size": config.trained_size or image_shape[:2]})
