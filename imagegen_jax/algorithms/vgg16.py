"""The convolutions of VGG16 with published weights, in whose maps a perceptual distance is measured (Zhang et al. 2018).

It serves as a first stage (training/first_stage.py), and is trained by nothing here.
"""

import dataclasses
from typing import ClassVar

import jax
from jax import numpy as jnp

from imagegen_jax import errors
from imagegen_jax.algorithms import base
from imagegen_jax.networks import vgg


@dataclasses.dataclass(frozen=True)
class Config:
    """Its keys."""

    lpips: bool = False  # with LPIPS's weights of channels


@dataclasses.dataclass(frozen=True)
class Vgg16(base.Algorithm):
    """The network, of images of any shape.

    Attributes:
      lpips: with weights of channels, which are 'lpips' in a state.
    """

    Config: ClassVar[type] = Config
    optimized: ClassVar[bool] = False

    lpips: bool = False

    @classmethod
    def from_config(cls, config, spec, training):
        if min(spec.shape[:2]) < 16:
            raise errors.UserError(f"VGG16 sees no images of {spec.shape[0]}x{spec.shape[1]} pixels: 16 are the least")
        return cls(config.lpips)

    def init(self, rng):
        params = {"vgg16": vgg.VGG16(head=False).init(rng, jnp.zeros((1, 16, 16, 3)))["params"]}
        if self.lpips:
            params["lpips"] = {f"lin{i}": jnp.ones(channels) for i, channels in enumerate(vgg.MAP_CHANNELS)}
        return base.TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state={}, ema_params={})

    def train_step(self, state, batch, rng):
        """Raises errors.UserError."""
        raise errors.UserError("config.algorithm is 'vgg16', which is not trained here: it serves as a first stage")

    eval_step = train_step

    def maps(self, state, x):
        """See capabilities.Perceives. One channel is shown as three alike, and of four the last is left out."""
        shown = vgg.normalised((jnp.repeat(x, 3, -1) if x.shape[-1] == 1 else x[..., :3]) / 2 + 0.5)
        _, made = vgg.VGG16(head=False).apply({"params": state.params["vgg16"]}, shown, mutable=["maps"])
        return jax.tree.leaves(made["maps"])

    def map_weights(self, state):
        """See capabilities.Perceives."""
        return [state.params["lpips"][f"lin{i}"] for i in range(len(vgg.MAP_CHANNELS))] if self.lpips else None
