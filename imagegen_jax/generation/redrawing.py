"""Drawing images anew from given ones by a method that denoises: in batches, over all devices; and their noise as latents."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools
import operator
from typing import Any
from typing import ClassVar
from typing import NamedTuple

import jax
import numpy as np

from imagegen_jax import images
from imagegen_jax import progress
from imagegen_jax import rng
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import capabilities
from imagegen_jax.diffusion import degradations
from imagegen_jax.diffusion import inverse_problems
from imagegen_jax.diffusion import inversion
from imagegen_jax.diffusion import linear_operators
from imagegen_jax.diffusion import samplers
from imagegen_jax.diffusion import tiles
from imagegen_jax.training import compiler
from imagegen_jax.training import sharding


class Redrawing(NamedTuple):
    """How images are drawn from others; what is hashable of it is compiled once, however often it is asked for.

    Attributes:
      draw: (inverse_problems.Drawing, given, *rows) -> (n, h, w, c), hashable.
      given: pytree of arrays that is the same for all images.
      rows: arrays with a row for each image.
    """

    draw: Callable
    given: Any
    rows: tuple[np.ndarray, ...]


class Redrawer:
    """Draws images from others: sample j of image i depends on the seed, on i, on j and on what is asked for alone."""

    def __init__(self, algorithm, state, mesh, batch_size, request, prompt="", size=None, overlap=None):
        """Prepares the drawing.

        Args:
          algorithm: one that draws by denoising (capabilities.DrawsByDenoising or Restores).
          state: its TrainState.
          mesh: the devices.
          batch_size: images drawn at once, rounded up to a multiple of the number of devices.
          request: of algorithm.Request.
          prompt: what all images are to show, of a method that is told texts.
          size: (height, width) of images larger than the algorithm's, which are drawn one after the other, each in tiles of
            which so many are seen at once as there would be images; None for images as the algorithm's.
          overlap: pixels that neighbouring tiles share.
        """
        self._mesh, self._state = mesh, state
        at_once = sharding.divisible(batch_size, mesh)
        self._batch_size = 1 if size else at_once
        self._algorithm, self._prompt = algorithm, prompt
        self._what = algorithm.denoising, algorithm.process, algorithm.image_shape, mesh, request
        self._tiles = tiles.Tiles(tuple(size), algorithm.image_shape[:2], overlap, at_once) if size else None
        self._ratios = _ratios(algorithm.process, algorithm.denoising(state, request)[1]) if size else None

    def __call__(self, redrawing, seed, samples, labels, first=0):
        """(n, samples, h, w, c) uint8, behind a progress bar, of a Redrawing and (n,) labels, from image `first` on."""
        drawn, steps = _compiled(*self._what, redrawing.draw, self._tiles, self._ratios)
        n = len(labels)
        index, number = np.divmod(np.arange(n * samples, dtype=np.int32), samples)
        shown = _shown(self._algorithm, {"label": labels[index]}, self._prompt, len(index))
        rows = [index + np.int32(first), number, shown, *(array[index] for array in redrawing.rows)]
        key = sharding.key(self._mesh, seed, "edit")
        made = []
        counted = (len(index) * len(steps), "step") if steps else (len(index), "image")
        with progress.Progress(*counted, "drawing") as bar:
            for start in range(0, len(index), self._batch_size):
                pieces = jax.tree.map(operator.itemgetter(slice(start, start + self._batch_size)), rows)
                if steps:
                    steps.begin(bar)
                batch = drawn(self._state, key, redrawing.given, *jax.tree.map(self._put, pieces))
                made.append(np.asarray(batch)[: len(pieces[0])])
                bar.update(steps.left() if steps else len(pieces[0]))
        made = np.concatenate(made)
        return made.reshape(n, samples, *made.shape[1:])

    def _put(self, piece):
        if self._tiles:  # every device works on each image
            return sharding.put_whole(self._mesh, piece)
        return sharding.put_filled(self._mesh, piece, self._batch_size)


@functools.lru_cache(maxsize=8)
def _compiled(denoising, process, shape, mesh, request, draw, divided, ratios):
    """The compiled (state, key, given, index, number, condition, *rows) -> images, and its _Steps where they are in tiles."""
    whole = (*divided.size, shape[-1]) if divided else shape
    steps = _Steps(ratios) if divided else None

    def over_devices(array):
        return jax.lax.with_sharding_constraint(array, sharding.batched(mesh))

    def drawn(state, key, given, index, number, condition, *rows):
        keys = jax.vmap(jax.random.fold_in)(rng.per_index(key, index), number)
        denoise, sampler = denoising(state, request)
        if divided:
            denoise = tiles.denoiser(denoise, divided, over_devices, steps.reached)
        drawing = inverse_problems.Drawing(denoise, process, sampler, keys, whole, condition)
        return images.to_uint8(draw(drawing, given, *rows))

    return jax.jit(drawn, out_shardings=sharding.replicated(mesh), compiler_options=compiler.options()), steps


def _ratios(process, sampler):
    """sigma / alpha at the steps of a sampler; of ode, whose steps nobody knows before, an image is one."""
    return (0.0, 0.0) if sampler.name == "ode" else tuple(samplers.levels(process, sampler).noise_ratio.tolist())


class _Steps:
    """The steps of a sampler that an image has behind it, for a bar."""

    def __init__(self, ratios):
        self._ratios = np.asarray(ratios)
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


def restores(method: inverse_problems.Method, a: linear_operators.Operator, noise, y):
    """The Redrawing of images of which y = A x + noise, (n, h', w', c') uint8, is known, by a method."""
    singular = np.broadcast_to(a.singular, (len(y), *a.singular.shape[1:]))
    return Redrawing(_Restores(method, noise, a.least), (a.left, a.right), (y, singular))


@dataclasses.dataclass(frozen=True)
class _Restores:
    method: inverse_problems.Method
    noise: float
    least: float

    def __call__(self, drawing, given, y, singular):
        left, right = given
        a = linear_operators.Operator(left, singular, right, self.least)
        y = linear_operators.apply(a, linear_operators.pseudo_inverse(a, images.to_float(y)))  # what A can make of an image
        return self.method.draw(drawing, inverse_problems.Observation(a, y, self.noise))


def undoes(algorithm, noise, y, hidden):
    """The same by an algorithm that was trained to (capabilities.Restores); of pixels that are `hidden`, which, or None."""
    return Redrawing(_Undoes(algorithm.degradation, noise), (), (y,) if hidden is None else (y, hidden))


@dataclasses.dataclass(frozen=True)
class _Undoes:
    degradation: degradations.Degradation
    noise: float

    def __call__(self, drawing, given, y, hidden=None):
        told = self.degradation.told(images.to_float(y), drawing.shape, hidden, self.noise)
        return drawing._replace(condition=drawing.condition | told).sample()


def varies(strength, image):
    """The Redrawing of variations of (n, h, w, c) uint8 images: see inverse_problems.noised."""
    return Redrawing(_Varies(strength), (), (image,))


@dataclasses.dataclass(frozen=True)
class _Varies:
    strength: float

    def __call__(self, drawing, given, image):
        return inverse_problems.noised(drawing, images.to_float(image), self.strength)


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
