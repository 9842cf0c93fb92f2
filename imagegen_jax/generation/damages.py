"""What images have suffered, as a person asks for its repair: each a linear operator and noise, y = A x + noise.

The fields of each are options of its verb, --NAME=VALUE; images are scaled to [-1, 1].
"""

import dataclasses
import re
from typing import Annotated
from typing import Any
from typing import NamedTuple

import numpy as np

from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import keys
from imagegen_jax.diffusion import linear_operators
from imagegen_jax.generation import masks

_ROUNDING = 2 / 255 / np.sqrt(12)  # standard deviation of what 8 bits round off


class Problem(NamedTuple):
    """A damage of given images.

    Attributes:
      operator: A.
      noise: standard deviation, with that of 8-bit images.
      hidden: (n, h, w) bool, pixels of which nothing is known; None where something is known of each.
    """

    operator: linear_operators.Operator
    noise: float
    hidden: np.ndarray | None = None

    @property
    def added(self):
        """Standard deviation of the noise without that of 8-bit images."""
        return float(np.sqrt(self.noise**2 - _ROUNDING**2))

    def degraded(self, image, seed=0, first=0):
        """y of (n, h, w, c) uint8 images, uint8 too: the noise is cut off at black and white.

        That of image i depends on the seed and on i, which is `first` for the first of them.
        """
        y = np.asarray(linear_operators.apply(self.operator, images.to_float(image)))
        noise = [np.random.default_rng([seed, first + i]).standard_normal(one.shape) for i, one in enumerate(y)]
        return np.asarray(images.to_uint8(y + self.added * np.stack(noise)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Damage:
    """What they have in common."""

    noise: Annotated[float, keys.AtLeast(0), "Standard deviation of noise in the input, of pixels from -1 to 1."] = 0.0

    @property
    def deviation(self):
        """Standard deviation of all noise."""
        return self.noise

    def operator(self, shape, num, alpha, first=0):
        """(linear_operators.Operator, hidden (num, h, w) or None) of `num` images of (h, w, c); errors.UserError: none."""
        raise NotImplementedError

    def problem(self, shape, num, alpha=None, first=0) -> Problem:
        """The Problem of `num` images of (h, w, c); for `alpha` and `first` see masks.hidden. Raises errors.UserError."""
        operator, hidden = self.operator(tuple(shape), num, alpha, first)
        return Problem(operator, float(np.hypot(self.deviation, _ROUNDING)), hidden)

    def taken(self, shape):
        """(h, w, c) of the damaged images that a person has."""
        return self.operator(tuple(shape), 1, np.zeros((1, *shape[:2]), np.uint8))[0].observed_shape(shape)

    def placed(self, damaged, shape):
        """Damaged images as y."""
        return damaged

    def whole(self, damaged, channels):
        """(h, w, channels) of the images that (h', w', c') damaged ones are of, whatever the run's own size."""
        return (*damaged[:2], channels)

    def check_own_size(self):
        """Raises errors.UserError where this is damage of images of another size than the run's."""

    def of_size(self, damaged):
        """The same damage where damaged images are (h', w', c') and those that they are of have the size of `whole`."""
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inpaint(Damage):
    """Pixels are hidden."""

    mask: Annotated[Any, f"inpaint: what is filled, {masks.WORDS}; by default alpha, where it is transparent."] = "alpha"

    def operator(self, shape, num, alpha, first=0):
        hidden = masks.hidden(self.mask, num, shape[:2], alpha, first)
        return linear_operators.masking(~hidden, shape[-1]), hidden

    def taken(self, shape):
        return tuple(shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outpaint(Damage):
    """Pixels around a box are missing."""

    box: Annotated[str, "outpaint: where the input lies, box:x,y,w,h; by default half as wide and high, in the middle."] = ""
    to: Annotated[str, "outpaint --tiled: WIDTHxHEIGHT of the result; by default twice as wide and high as the input."] = ""

    def operator(self, shape, num, alpha, first=0):
        hidden = np.ones((num, *shape[:2]), bool)
        hidden[:, *self._place(shape)] = False
        return linear_operators.masking(~masks.hidden(hidden, num, shape[:2]), shape[-1]), hidden

    def taken(self, shape):
        rows, columns = self._place(shape)
        return rows.stop - rows.start, columns.stop - columns.start, shape[-1]

    def placed(self, damaged, shape):
        whole = np.full((len(damaged), *shape), 128, np.uint8)
        whole[:, *self._place(shape)] = damaged
        return whole

    def whole(self, damaged, channels):
        if self.box:
            raise errors.UserError("--box says where the input lies in an image of the run's size: with --tiled leave it out")
        if not self.to:
            return (2 * damaged[0], 2 * damaged[1], channels)
        match = re.fullmatch(r"(\d+)x(\d+)", self.to)
        if not match:
            raise errors.UserError(f"--to={self.to}: write width and height in pixels, such as 84x56")
        width, height = map(int, match.groups())
        if height < damaged[0] or width < damaged[1] or (height, width) == tuple(damaged[:2]):
            raise errors.UserError(f"--to={self.to}: the input has {damaged[1]}x{damaged[0]} pixels, and the result has more")
        return (height, width, channels)

    def check_own_size(self):
        if self.to:
            raise errors.UserError(f"--to={self.to} is of --tiled: without it the result has the run's size")

    def of_size(self, damaged):
        height, width, _ = self.whole(damaged, 1)
        top, left = (height - damaged[0]) // 2, (width - damaged[1]) // 2
        return dataclasses.replace(self, box=f"box:{left},{top},{damaged[1]},{damaged[0]}", to="")

    def _place(self, shape):
        if self.box:
            return masks.box(self.box, shape[:2], "box")
        return tuple(slice(side // 4, side // 4 + side // 2) for side in shape[:2])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Superres(Damage):
    """Squares of pixels are one pixel."""

    factor: Annotated[int, keys.AtLeast(2), "How many times wider and higher images become."] = 4
    downscaling: Annotated[
        str,
        keys.OneOf(linear_operators.DOWNSCALING),
        f"superres: how images became small, {' or '.join(linear_operators.DOWNSCALING)}.",
    ] = "box"

    def operator(self, shape, num, alpha, first=0):
        linear_operators.check_factor(self.factor, shape, "--factor")
        return linear_operators.DOWNSCALING[self.downscaling](shape, self.factor), None

    def whole(self, damaged, channels):
        return (self.factor * damaged[0], self.factor * damaged[1], channels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Colorize(Damage):
    """Colours are grey."""

    def operator(self, shape, num, alpha, first=0):
        if shape[-1] != 3:
            raise errors.UserError("colorize is of a run whose images have colours, and this one's have none")
        return linear_operators.luminance(shape), None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deblur(Damage):
    """A Gaussian blur."""

    sigma: Annotated[float, keys.Above(0), "deblur: standard deviation of the blur, in pixels."] = 2.0

    def operator(self, shape, num, alpha, first=0):
        return linear_operators.blurring(shape, self.sigma), None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoise(Damage):
    """Gaussian noise, and nothing else."""

    sigma: Annotated[float, keys.Above(0), "denoise: standard deviation of the noise, of pixels from -1 to 1."] = 0.2

    @property
    def deviation(self):
        return float(np.hypot(self.sigma, self.noise))

    def operator(self, shape, num, alpha, first=0):
        return linear_operators.masking(np.ones((1, *shape[:2]), bool), shape[-1]), None


# {verb: its damage}
DAMAGES = {
    "inpaint": Inpaint,
    "outpaint": Outpaint,
    "superres": Superres,
    "colorize": Colorize,
    "deblur": Deblur,
    "denoise": Denoise,
}
