"""Repair, filling, enlarging, colouring and variation of images by a trained run that draws by denoising, such as a diffusion.

Each function takes a runs.Run, whose methods they are: run.inpaint(images, "half:left"). Images are (n, height, width,
channels) uint8, labels (n,), wanted where the run is told a class. `options` are

    samples  how many images are drawn of each, 1
    seed     sample j of image i depends on the seed, on i, on j and on what is asked for alone
    noise    standard deviation of noise in the images, of pixels from -1 to 1
    method, repeats, weight, iterations     see diffusion/inverse_problems.py
    steps, sampler, guidance_scale, ...     of the run's own, as Run.sample takes them; by default 20 steps of ddpm

What a run cannot do is an errors.UserError.
"""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from imagegen_jax import errors
from imagegen_jax import keys
from imagegen_jax import rng
from imagegen_jax.algorithms import capabilities
from imagegen_jax.api import companions
from imagegen_jax.diffusion import inverse_problems
from imagegen_jax.generation import damages
from imagegen_jax.generation import inputs
from imagegen_jax.generation import redrawing
from imagegen_jax.generation import requests as requests_lib
from imagegen_jax.training import sharding

_STEPS = 20  # unless it is said otherwise


class Restored(NamedTuple):
    """Images that were drawn of others.

    Attributes:
      images: (n, h, w, c) uint8, the first sample of each.
      samples: (n, samples, h, w, c) uint8.
    """

    images: np.ndarray
    samples: np.ndarray

    @property
    def spread(self):
        """(n, h, w, c) float32: standard deviation of the samples, pixel by pixel, on the scale of [0, 1]."""
        return (self.samples.astype(np.float32) / 255).std(1)


def inpaint(trained, images, mask, labels=None, **options) -> Restored:
    """Fills what the mask hides, as masks.hidden has it; all other pixels are those of the images, to the bit."""
    return restore(trained, damages.Inpaint(mask=mask), images, labels, **options)


def outpaint(trained, images, box="", labels=None, **options) -> Restored:
    """Paints on around images, whose place in the result is box:x,y,w,h."""
    return restore(trained, damages.Outpaint(box=box), images, labels, **options)


def superres(trained, images, factor=4, labels=None, **options) -> Restored:
    """Enlarges images to the size of the run's."""
    return restore(trained, damages.Superres(factor=factor), images, labels, **options)


def colorize(trained, images, labels=None, **options) -> Restored:
    """Colours grey images, (n, h, w, 1)."""
    return restore(trained, damages.Colorize(), images, labels, **options)


def deblur(trained, images, sigma=2.0, labels=None, **options) -> Restored:
    """Sharpens images that a Gaussian of this standard deviation in pixels has blurred."""
    return restore(trained, damages.Deblur(sigma=sigma), images, labels, **options)


def denoise(trained, images, sigma=0.2, labels=None, **options) -> Restored:
    """Takes Gaussian noise from images."""
    return restore(trained, damages.Denoise(sigma=sigma), images, labels, **options)


def vary(trained, images, strength=0.6, labels=None, *, samples=1, seed=0, **request) -> Restored:
    """Other images like these: noise is given and taken away again, the more, the stronger (Meng et al. 2022).

    `strength` is above 0, and 1 draws from noise; `request` is of the run's own options, by default 100 steps of ddpm.
    """
    if not 0 < strength <= 1:
        raise errors.UserError(f"--strength={strength}: it must be above 0, and at most 1")
    ours, request, prompt = prepared(trained, request, steps=100)
    if ours.algorithm.denoising(ours.state, request)[1].name == "ode":
        raise errors.UserError("--sampler=ode draws from noise alone: choose another")
    return _drawn(ours, request, prompt, redrawing.varies(strength), labels, samples, seed, images)


def restore(trained, damage, images, labels=None, *, noise=None, alpha=None, **options) -> Restored:
    """Draws the images of which damaged ones are left; `damage` is one of damages.DAMAGES, `alpha` see masks.hidden."""
    damage = damage if noise is None else dataclasses.replace(damage, noise=noise)
    check_denoises(trained)
    shape = trained.spec.shape
    if images.shape[1:] != damage.taken(shape):
        has, takes = ("x".join(map(str, size)) for size in (images.shape[1:], damage.taken(shape)))
        raise errors.UserError(f"the images are {has}, and what this run can mend so is {takes}")
    return solve(trained, damage.problem(shape, len(images), alpha), damage.placed(images, shape), labels, **options)


def solve(trained, problem, y, labels=None, *, samples=1, seed=0, **options) -> Restored:
    """Draws images of which y, (n, h', w', c') uint8, is known by a damages.Problem."""
    method, request = _split(options)
    ours, request, prompt = prepared(trained, request)
    _check_method(method, ours.algorithm.denoising(ours.state, request)[1])
    draw, rows = redrawing.restores(inverse_problems.Method(**method), problem.operator, problem.noise)
    made = _drawn(ours, request, prompt, draw, labels, samples, seed, *rows(y))
    if problem.hidden is None:
        return made
    kept = np.where(problem.hidden[:, None, ..., None], made.samples, y[:, None])
    return Restored(kept[:, 0], kept)


def check_denoises(trained):
    """Raises errors.UserError where a run does not draw by denoising."""
    if not isinstance(trained.algorithm, capabilities.DrawsByDenoising):
        raise errors.UserError(
            f"{trained.workdir} is a run of {trained.config.algorithm}, which does not draw by denoising: "
            "give the folder of a diffusion's run"
        )


def prepared(trained, request, steps=_STEPS):
    """(the run with the companions that a request names, its algorithm.Request, the prompt), checked. Raises errors.UserError.

    The request is for ancestral steps, of which `steps` is the number, unless it says otherwise.
    """
    check_denoises(trained)
    asked = {name: value for name, value in request.items() if value is not None}
    typed = requests_lib.typed(asked, trained.algorithm, trained.spec)
    ours = companions.each(trained, [typed])[0].run
    default = {"sampler": "ddpm", "steps": min(steps, ours.algorithm.process.longest)}
    request = ours.algorithm.Request(**default | requests_lib.options(typed))
    ours.algorithm.check_request(request)
    (prompt,) = typed.get(requests_lib.PROMPT, ("",))
    return ours, request, prompt


def _split(options):
    """(those of a method, typed; those of a request), as far as they are asked for. Raises errors.UserError."""
    asked = {name: value for name, value in options.items() if value is not None}
    declared = keys.fields(inverse_problems.Method)
    method = {name: declared[name].parse(value) for name, value in asked.items() if name in declared}
    for name, value in method.items():
        if text := declared[name].objection(value):
            raise errors.UserError(f"--{name}={value}: {text}")
    return method, {name: value for name, value in asked.items() if name not in declared}


def _check_method(method, sampler):
    chosen = inverse_problems.Method(**method)
    for name, owner in chosen.foreign(method):
        raise errors.UserError(f"--{name} is of --method={owner}, and the method is {chosen.method}: leave it out")
    if not chosen.takes(sampler):
        raise errors.UserError(
            f"--method={chosen.method} repeats single steps: choose --sampler={', '.join(inverse_problems.SINGLE)} without a "
            "learned variance" + (", or --repeats=1" if chosen.method == "ddnm" else "")
        )


def _drawn(ours, request, prompt, draw, labels, samples, seed, *rows):
    """The Restored of arrays with a row for each image."""
    errors.check_at_least({"samples": samples}, samples=1)
    rng.check_seed(seed, "--seed")
    labels = inputs.labels_of(labels, len(rows[0]), ours.algorithm.classes)
    mesh = sharding.make_mesh(jax.device_count())
    redraw = redrawing.Redrawer(ours.algorithm, ours.state, mesh, ours.at_once, request, draw, prompt)
    made = redraw(seed, samples, labels, *rows)
    return Restored(made[:, 0], made)
