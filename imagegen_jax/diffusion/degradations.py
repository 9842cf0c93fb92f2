"""What a network learns to undo: images are degraded in training, and it is told what is left of them.

    superres   squares of pixels are one; with noise, whose level is told, too      Saharia et al. 2021 (SR3), Ho et al. 2022a
    inpaint    pixels are hidden by random masks                                    Saharia et al. 2022b (Palette)
    colorize   colours are grey                                                     the same

y = A x + noise with A of linear_operators.py, cut off at black and white as images are. The section `restoration` of a config
is one of these. Images are (n, height, width, channels) float32 in [-1, 1], keys (n,): what becomes of an image depends on it
and on its own key alone.
"""

import dataclasses
from typing import Annotated
from typing import Any
from typing import ClassVar
from typing import Literal

import jax
from jax import numpy as jnp

from imagegen_jax import conditions
from imagegen_jax import errors
from imagegen_jax import keys as keys_lib
from imagegen_jax.diffusion import linear_operators
from imagegen_jax.diffusion import random_masks


@dataclasses.dataclass(frozen=True)
class Degradation:
    """What they have in common.

    Attributes:
      repairs: the damages that one trained with it repairs, by the verbs of editing.
    """

    repairs: ClassVar[tuple[str, ...]]
    noise: ClassVar[float] = 0.0  # greatest standard deviation of noise

    def conditions(self, shape):
        """{name: conditions.Condition} of what a network is told of (h, w, c) images. Raises errors.UserError."""
        raise NotImplementedError

    def drawn(self, keys, x):
        """What a network is told of training images x, {name: array} as `conditions` has it."""
        raise NotImplementedError

    def told(self, y, shape, hidden=None, noise=0.0) -> dict[str, Any]:
        """The same of y, what is left of (h, w, c) images.

        Args:
          y: (n, h', w', c').
          shape: (h, w, c).
          hidden: (n, h, w) bool, pixels of which y knows nothing; None but for inpaint.
          noise: standard deviation of the noise in y, a number or (n,).
        """
        raise NotImplementedError

    def shown(self, told, shape):
        """(n, h, w, c), to look at."""
        return jnp.broadcast_to(told["image"], (len(told["image"]), *shape))

    def completed(self, x, told):
        """Restored images x with what is known of them for certain."""
        return x


@dataclasses.dataclass(frozen=True)
class Superres(Degradation):
    """Images become smaller; the network sees them enlarged by bicubic interpolation (SR3)."""

    repairs: ClassVar[tuple[str, ...]] = ("superres",)

    name: Literal["superres"] = "superres"
    factor: Annotated[int, keys_lib.AtLeast(2)] = 4  # how many times wider and higher images become
    downscaling: Annotated[str, keys_lib.OneOf(linear_operators.DOWNSCALING)] = "box"
    # Greatest standard deviation of noise in the small image, of pixels from -1 to 1; it is uniform from 0 on. So it knows
    # images that other models draw (conditioning augmentation, Ho et al. 2022a, section 4; there the noise preserves variance).
    noise: Annotated[float, keys_lib.AtLeast(0), keys_lib.AtMost(1)] = 0.0

    def conditions(self, shape):
        linear_operators.check_factor(self.factor, shape, "config.restoration.factor")
        return {"image": conditions.Image(shape)} | ({"noise": conditions.Noise()} if self.noise else {})

    def drawn(self, keys, x):
        y = linear_operators.apply(linear_operators.DOWNSCALING[self.downscaling](x.shape[1:], self.factor), x)
        if not self.noise:
            return self.told(y, x.shape[1:])

        def noisy(key, y):
            level_key, eps_key = jax.random.split(key)
            level = self.noise * jax.random.uniform(level_key)
            return jnp.clip(y + level * jax.random.normal(eps_key, y.shape), -1.0, 1.0), level

        y, level = jax.vmap(noisy)(keys, y)
        return self.told(y, x.shape[1:], noise=level)

    def told(self, y, shape, hidden=None, noise=0.0):
        image = jax.image.resize(y, (len(y), *shape), "cubic")
        return {"image": image} | ({"noise": jnp.broadcast_to(jnp.float32(noise), len(y))} if self.noise else {})


@dataclasses.dataclass(frozen=True)
class Inpaint(Degradation):
    """Pixels are hidden by random_masks; the network sees 0 in their place, and a channel that is 1 where they are known.

    Palette has noise in their place, no such channel, and an error of hidden pixels alone.
    """

    repairs: ClassVar[tuple[str, ...]] = ("inpaint", "outpaint")

    name: Literal["inpaint"] = "inpaint"

    def conditions(self, shape):
        return {"image": conditions.Image((*shape[:2], shape[2] + 1))}

    def drawn(self, keys, x):
        return self.told(x, x.shape[1:], random_masks.random_masks(keys, x.shape[1:3]))

    def told(self, y, shape, hidden=None, noise=0.0):
        kept = ~hidden[..., None]
        return {"image": jnp.concatenate([jnp.where(kept, y, 0.0), kept.astype(y.dtype)], -1)}

    def shown(self, told, shape):
        return told["image"][..., :-1]

    def completed(self, x, told):
        return jnp.where(told["image"][..., -1:] > 0, told["image"][..., :-1], x)


@dataclasses.dataclass(frozen=True)
class Colorize(Degradation):
    """Colours become their grey, which the network sees in one channel."""

    repairs: ClassVar[tuple[str, ...]] = ("colorize",)

    name: Literal["colorize"] = "colorize"

    def conditions(self, shape):
        if shape[-1] != 3:
            raise errors.UserError(
                f"config.restoration.name is colorize, and the images have {shape[-1]} channels: name images with three, "
                "as --config.data.source=folder:PATH"
            )
        return {"image": conditions.Image((*shape[:2], 1))}

    def drawn(self, keys, x):
        return self.told(linear_operators.apply(linear_operators.luminance(x.shape[1:]), x), x.shape[1:])

    def told(self, y, shape, hidden=None, noise=0.0):
        return {"image": y}
