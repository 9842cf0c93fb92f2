"""Drawing images anew from given ones by a method that denoises: in batches, over all devices; and their noise as latents."""

from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import ClassVar

import jax
import numpy as np

from imagegen_jax import images
from imagegen_jax import progress
from imagegen_jax import rng
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import capabilities
from imagegen_jax.diffusion import inverse_problems
from imagegen_jax.diffusion import inversion
from imagegen_jax.diffusion import linear_operators
from imagegen_jax.diffusion import samplers
from imagegen_jax.diffusion import tiles
from imagegen_jax.training import compiler
from imagegen_jax.training import sharding


class Redrawer:
    """Draws images from others: sample j of image i depends on the seed, on i, on j and on what is asked for alone."""

    def __init__(self, algorithm, state, mesh, batch_size, request, draw, prompt="", size=None, overlap=None):
        """Prepares the drawing.

        Args:
          algorithm: one that draws by denoising (capabilities.DrawsByDenoising or Restores).
          state: its TrainState.
          mesh: the devices.
          batch_size: images drawn at once, rounded up to a multiple of the number of devices.
          request: of algorithm.Request.
          draw: (inverse_problems.Drawing, *rows) -> (n, h, w, c), of what is given for each image.
          prompt: what all images are to show, of a method that is told texts.
          size: (height, width) of images larger than the algorithm's, which are drawn one after the other, each in tiles of
            which so many are seen at once as there would be images; None for images as the algorithm's.
          overlap: pixels that neighbouring tiles share.
        """
        self._mesh, self._state = mesh, state
        at_once = sharding.divisible(batch_size, mesh)
        self._batch_size = 1 if size else at_once
        self._steps = _Steps(algorithm.process, algorithm.denoising(state, request)[1]) if size else None

        def drawn(state, key, index, number, label, *rows):
            keys = jax.vmap(jax.random.fold_in)(rng.per_index(key, index), number)
            condition = _shown(algorithm, {"label": label}, prompt, len(keys))
            denoise, sampler = algorithm.denoising(state, request)
            shape = algorithm.image_shape
            if size:
                divided = tiles.Tiles(tuple(size), shape[:2], overlap, at_once)
                denoise = tiles.denoiser(denoise, divided, self._divided_over_devices, self._steps.reached)
                shape = (*size, shape[-1])
            given = denoise, algorithm.process, sampler, keys, shape, condition
            return images.to_uint8(draw(inverse_problems.Drawing(*given), *rows))

        self._drawn = jax.jit(drawn, out_shardings=sharding.replicated(mesh), compiler_options=compiler.options())

    def __call__(self, seed, samples, labels, *rows, first=0):
        """(n, samples, h, w, c) uint8, behind a progress bar, of (n,) labels and arrays with n rows, from image `first` on."""
        n = len(labels)
        index, number = np.divmod(np.arange(n * samples, dtype=np.int32), samples)
        rows = [index + np.int32(first), number, labels[index], *(array[index] for array in rows)]
        key = sharding.key(self._mesh, seed, "edit")
        made = []
        counted = (len(index) * len(self._steps), "step") if self._steps else (len(index), "image")
        with progress.Progress(*counted, "drawing") as bar:
            for start in range(0, len(index), self._batch_size):
                pieces = [array[start : start + self._batch_size] for array in rows]
                if self._steps:
                    self._steps.begin(bar)
                made.append(np.asarray(self._drawn(self._state, key, *map(self._put, pieces)))[: len(pieces[0])])
                bar.update(self._steps.left() if self._steps else len(pieces[0]))
        made = np.concatenate(made)
        return made.reshape(n, samples, *made.shape[1:])

    def _put(self, piece):
        if self._steps:  # every device works on each image
            return sharding.put_whole(self._mesh, piece)
        return sharding.put_filled(self._mesh, piece, self._batch_size)

    def _divided_over_devices(self, array):
        return jax.lax.with_sharding_constraint(array, sharding.batched(self._mesh))


class _Steps:
    """The steps of a sampler that an image has behind it, for a bar."""

    def __init__(self, process, sampler):
        # Of ode, whose steps nobody knows before, an image is one.
        self._ratios = np.zeros(2) if sampler.name == "ode" else samplers.levels(process, sampler).noise_ratio
        self._bar, self._done = None, 0

    def __len__(self):
        return len(self._ratios) - 1

    def begin(self, bar):
        """An image begins."""
        self._bar, self._done = bar, 0

    def reached(self, ratio):
        """The network is asked at this sigma / alpha."""
        done = int((self._ratios[:-1] > 1.0001 * float(ratio)).sum())
        if done > self._done:
            self._bar.update(done - self._done)
            self._done = done

    def left(self):
        """Those of an image that is done which the bar has not seen."""
        jax.effects_barrier()
        return len(self) - self._done


def restores(method: inverse_problems.Method, operator, noise):
    """What a Redrawer draws images with of which y = A x + noise is known, and the rows that it takes.

    Returns:
      (draw, (n, h', w', c') uint8 y -> rows)
    """

    def draw(drawing, y, singular):
        a = operator._replace(singular=singular)
        y = linear_operators.apply(a, linear_operators.pseudo_inverse(a, images.to_float(y)))  # what A can make of an image
        return method.draw(drawing, inverse_problems.Observation(a, y, noise))

    def rows(y):
        return y, np.broadcast_to(operator.singular, (len(y), *operator.singular.shape[1:]))

    return draw, rows


def undoes(algorithm, noise):
    """The same of an algorithm that was trained to (capabilities.Restores).

    The rows are y, uint8, and, of pixels that are hidden, which those are.
    """

    def draw(drawing, y, hidden=None):
        told = algorithm.degradation.told(images.to_float(y), drawing.shape, hidden, noise)
        return drawing._replace(condition=drawing.condition | told).sample()

    return draw


def varies(strength):
    """The same of variations: see inverse_problems.noised."""
    return lambda drawing, image: inverse_problems.noised(drawing, images.to_float(image), strength)


@dataclasses.dataclass(frozen=True)
class Inversions:
    """A method that draws by denoising as one that autoencodes: the latents of an image are the noise that it is drawn from.

    Attributes:
      algorithm: one with capabilities.DrawsByDenoising.
      request: of its Request; its steps are those of the solver, from an image to noise and from noise to an image.
      prompt: what images show, where the method is told texts.
    """

    algorithm: capabilities.DrawsByDenoising
    request: Any
    prompt: str = ""
    prior_is_normal: ClassVar[bool] = True

    @property
    def latent_shape(self):
        """See capabilities.Decodes."""
        return self.algorithm.image_shape

    @property
    def classes(self):
        """See capabilities.Decodes."""
        return self.algorithm.classes

    def encode(self, state: base.TrainState, batch: base.Batch, rng: jax.Array | None = None) -> jax.Array:
        """See capabilities.Autoencodes; the flow is deterministic."""
        return inversion.to_noise(*self._flow(state, images.to_float(batch["image"]), batch["condition"]))

    def decode(self, state: base.TrainState, latents: jax.Array, condition: Mapping[str, jax.Array]) -> jax.Array:
        """See capabilities.Decodes."""
        return inversion.to_image(*self._flow(state, latents, condition))

    def _flow(self, state, x, condition):
        denoise, _ = self.algorithm.denoising(state, self.request)
        condition = _shown(self.algorithm, condition, self.prompt, len(x))
        return denoise, x, condition, self.algorithm.process, self.request.steps


def _shown(algorithm, condition, prompt, n):
    """What n images are to show: the labels of a condition and a prompt, as far as an algorithm is told such."""
    shown = dict(condition) if algorithm.classes else {}
    return shown | ({"text": algorithm.text.rows(prompt, n)} if algorithm.text else {})
