"""The networks that denoise, one of which a section `network` names."""

from imagegen_jax import conditions
from imagegen_jax.networks import blocks
from imagegen_jax.networks import dit
from imagegen_jax.networks import text_encoder as text_encoder_lib
from imagegen_jax.networks import unet

Config = unet.Config | dit.Config


def build(config, image_shape, told, text_encoder, **others):
    """The Linen module of a Config, (x, t, condition, train) -> prediction.

    Args:
      config: of it.
      image_shape: (height, width, channels) of the images that it is trained on.
      told: {name: conditions.Condition} of what it is told.
      text_encoder: text_encoder.Config of what reads a text, if it is told such.
      **others: its fields that are no keys.
    """
    others["classes"] = conditions.classes(told)
    others["times"] = others.get("times", 1) + ("noise" in told)
    others["text"] = text_encoder_lib.build(text_encoder, told.get("text"))
    if isinstance(config, unet.Config):
        return blocks.from_config(unet.UNet, config, **others)
    return blocks.from_config(dit.DiT, config, **others | {"trained_size": config.trained_size or image_shape[:2]})
