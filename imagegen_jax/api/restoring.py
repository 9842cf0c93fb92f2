"""Repair, filling, enlarging, colouring and variation of images by a trained run that draws by denoising, such as a diffusion.

A run that was trained to repair (capabilities.Restores) repairs that alone, by its own sampler and without a method.

Each function takes a runs.Run, whose methods they are: run.inpaint(images, "half:left"). Images are (n, height, width,
channels) uint8, labels (n,), wanted where the run is told a class. `options` are

    samples  how many images are drawn of each, 1
    seed     sample j of image i depends on the seed, on i, on j and on what is asked for alone
    noise    standard deviation of noise in the images, of pixels from -1 to 1
    method, repeats, weight, iterations     see diffusion/inverse_problems.py
    steps, sampler, guidance_scale, ...     of the run's own, as Run.sample takes them; by default 20 steps of ddpm
    tiled    whether images have any size, and are drawn in overlapping tiles of the run's (diffusion/tiles.py)
    overlap  pixels that neighbouring tiles share, by default a quarter of a tile

What a run cannot do is an errors.UserError.
"""

import itertools
from typing import NamedTuple

import jax
import numpy as np

from imagegen_jax import errors
from imagegen_jax import images as images_lib
from imagegen_jax import keys
from imagegen_jax import rng
from imagegen_jax.algorithms import capabilities
from imagegen_jax.api import companions
from imagegen_jax.diffusion import inverse_problems
from imagegen_jax.diffusion import linear_operators
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
    return restore(trained, "inpaint", {"mask": mask}, images, labels, **options)


def outpaint(trained, images, box="", labels=None, *, to="", **options) -> Restored:
    """Paints on around images, whose place in the result is box:x,y,w,h; tiled, in the middle of WIDTHxHEIGHT pixels."""
    return restore(trained, "outpaint", {"box": box, "to": to}, images, labels, **options)


def superres(trained, images, factor=None, labels=None, *, downscaling=None, **options) -> Restored:
    """Enlarges images to the size of the run's: fourfold, or as it was trained for, unless it is said otherwise."""
    return restore(trained, "superres", {"factor": factor, "downscaling": downscaling}, images, labels, **options)


def colorize(trained, images, labels=None, **options) -> Restored:
    """Colours grey images, (n, h, w, 1)."""
    return restore(trained, "colorize", {}, images, labels, **options)


def deblur(trained, images, sigma=2.0, labels=None, **options) -> Restored:
    """Sharpens images that a Gaussian of this standard deviation in pixels has blurred."""
    return restore(trained, "deblur", {"sigma": sigma}, images, labels, **options)


def denoise(trained, images, sigma=0.2, labels=None, **options) -> Restored:
    """Takes Gaussian noise from images."""
    return restore(trained, "denoise", {"sigma": sigma}, images, labels, **options)


def enlarge_drawn(trained, images, labels=None, *, noise=0.0, seed=0, **options) -> Restored:
    """Enlarges images that another run has drawn to the size of this one's: a cascade (Ho et al. 2022a, section 4).

    Such noise is added to them, and the run told so: it hides what they have that images of the data have not.
    """
    check_enlarges(trained, images.shape[1:], noise)
    eps = np.random.default_rng(seed).standard_normal(images.shape)
    noisy = np.asarray(images_lib.to_uint8(images_lib.to_float(images) + noise * eps))
    return superres(trained, noisy, _factor(trained, images.shape[1:]), labels, noise=noise, seed=seed, **options)


def vary(trained, images, strength=0.6, labels=None, *, samples=1, seed=0, **request) -> Restored:
    """Other images like these: noise is given and taken away again, the more, the stronger (Meng et al. 2022).

    `strength` is above 0, and 1 draws from noise; `request` is of the run's own options, by default 100 steps of ddpm.
    """
    if not 0 < strength <= 1:
        raise errors.UserError(f"--strength={strength}: it must be above 0, and at most 1")
    ours, request, prompt = prepared(trained, request, steps=100)
    if ours.algorithm.denoising(ours.state, request)[1].name == "ode":
        raise errors.UserError("--sampler=ode draws from noise alone: choose another")
    return _drawn(ours, request, prompt, redrawing.varies(strength, images), labels, samples, seed)


def restore(trained, verb, about, images, labels=None, *, noise=None, alpha=None, tiled=False, **options) -> Restored:
    """Draws the images of which damaged ones are left; for `verb` and `about` see `damage_of`, for `alpha` masks.hidden."""
    damage = damage_of(trained, verb, **about, noise=noise)
    damage, shape = sized(trained, damage, images.shape[1:], tiled)
    if images.shape[1:] != damage.taken(shape):
        has, takes = ("x".join(map(str, size)) for size in (images.shape[1:], damage.taken(shape)))
        raise errors.UserError(f"the images are {has}, and what this run can mend so is {takes}")
    problem = damage.problem(shape, len(images), alpha)
    return solve(trained, problem, damage.placed(images, shape), labels, size=shape[:2] if tiled else None, **options)


def sized(trained, damage, damaged, tiled):
    """(damage, (h, w, c)) of what is drawn of (h', w', c') damaged images: the run's size, or with tiles any no smaller."""
    if not tiled:
        damage.check_own_size()
        return damage, trained.spec.shape
    shape = damage.whole(damaged, trained.spec.shape[-1])
    check_tiles(trained, shape)
    return damage.of_size(damaged), shape


def check_tiles(trained, shape):
    """Raises errors.UserError where an image is smaller than a tile."""
    if any(ours < tile for ours, tile in zip(shape, trained.spec.shape)):
        has, takes = ("{}x{}".format(*size) for size in (shape, trained.spec.shape))
        raise errors.UserError(f"--tiled: an image of {has} pixels is smaller than a tile of this run, {takes}: leave it out")


def solve(trained, problem, y, labels=None, *, size=None, overlap=None, first=0, **options) -> Restored:
    """Draws images of which y, (n, h', w', c') uint8, is known by a damages.Problem of a damage_of the run.

    `size` is that of the images where they are drawn in tiles, and `first` the number of the first. Where pixels are hidden,
    the tiles are those around them, and the rest of an image is left alone.
    """
    if size is None and overlap is not None:
        raise errors.UserError(f"--overlap={overlap} is of --tiled: leave it out")
    told = dict(overlap=overlap, first=first, **options)
    if problem.hidden is None:
        return _solve(trained, problem, y, labels, size=size, **told)
    if size is None:
        samples = _solve(trained, problem, y, labels, **told).samples
    else:
        samples = _solve_around(trained, problem, y, labels, **told)
    kept = np.where(problem.hidden[:, None, ..., None], samples, y[:, None])
    return Restored(kept[:, 0], kept)


def _solve_around(trained, problem, y, labels, *, first, **options):
    """(n, samples, h, w, c) uint8 whose hidden pixels are drawn in tiles: of each image those around them."""
    places = [_around(hidden, trained.spec.shape) for hidden in problem.hidden]
    labels = None if labels is None else np.broadcast_to(labels, len(y))
    found = []
    for _, group in itertools.groupby(range(len(y)), lambda i: problem.hidden[i][places[i]].shape):
        group = list(group)
        known, hidden = (np.stack([array[i][places[i]] for i in group]) for array in (y, problem.hidden))
        part = problem._replace(operator=linear_operators.masking(~hidden, y.shape[-1]), hidden=hidden)
        told = dict(labels=None if labels is None else labels[group], size=hidden.shape[1:], first=first + group[0])
        for i, drawn in zip(group, _solve(trained, part, known, **told, **options).samples):
            found.append(np.repeat(y[i][None], len(drawn), 0))
            found[-1][:, *places[i]] = drawn
    return np.stack(found)


def _around(hidden, tile):
    """(rows, columns), slices: all that tiles with a hidden pixel can reach; the whole image where that is most of it."""
    place = []
    for axis, side in enumerate(tile[:2]):
        lines = np.flatnonzero(hidden.any(1 - axis))
        place.append(slice(max(0, lines[0] - side), lines[-1] + 1 + side))
    return tuple(place) if hidden[*place].size < 0.7 * hidden.size else (slice(None),) * 2


def _solve(trained, problem, y, labels=None, *, samples=1, seed=0, size=None, overlap=None, first=0, **options):
    """The Restored of `solve`, whose known pixels need not be those of y."""
    method, request = _split(options)
    if isinstance(trained.algorithm, capabilities.Restores):
        for name, value in method.items():
            raise errors.UserError(f"--{name}={value} is of runs that were not trained to repair: leave it out")
        ours, request, prompt = _requested(trained, request, {})
        anew = redrawing.undoes(ours.algorithm, problem.added, y, problem.hidden)
    else:
        ours, request, prompt = prepared(trained, request)
        _check_method(method, ours.algorithm.denoising(ours.state, request)[1])
        anew = redrawing.restores(inverse_problems.Method(**method), problem.operator, problem.noise, y)
    divided = {} if size is None else {"size": size, "overlap": _overlap(trained, overlap)}
    return _drawn(ours, request, prompt, anew, labels, samples, seed, first, **divided)


def check_denoises(trained):
    """Raises errors.UserError where a run does not draw by denoising."""
    if isinstance(trained.algorithm, capabilities.Restores):
        verbs = " or ".join(trained.algorithm.degradation.repairs)
        raise errors.UserError(
            f"{trained.workdir} was trained for {verbs} alone: ask it for that, or give the folder of a diffusion's run"
        )
    if not isinstance(trained.algorithm, capabilities.DrawsByDenoising):
        raise errors.UserError(
            f"{trained.workdir} is a run of {trained.config.algorithm}, which does not draw by denoising: "
            "give the folder of a diffusion's run"
        )


def check_repairs(trained, verb):
    """Raises errors.UserError where a run does not repair this damage."""
    restores = isinstance(trained.algorithm, capabilities.Restores)
    if not restores or verb not in trained.algorithm.degradation.repairs:
        check_denoises(trained)


def check_enlarges(trained, shape, noise=0.0):
    """Raises errors.UserError where a run does not enlarge (h, w, c) images with such noise to the size of its own."""
    errors.check_at_least({"upsample_noise": noise}, upsample_noise=0)
    takes = damage_of(trained, "superres", factor=_factor(trained, shape), noise=noise).taken(trained.spec.shape)
    if takes != tuple(shape):
        has, takes = ("x".join(map(str, size)) for size in (shape, takes))
        raise errors.UserError(f"--upsample={trained.workdir}: it enlarges images of {takes}, and these are {has}")


def _factor(trained, shape):
    """How many times larger a run's images are than these; None where it was trained for a factor."""
    return None if isinstance(trained.algorithm, capabilities.Restores) else max(2, trained.spec.shape[0] // shape[0])


def damage_of(trained, verb, **about):
    """A damage that a run can repair.

    Args:
      trained: the run.
      verb: of damages.DAMAGES.
      **about: fields of the damage; None is not asked for. Of a run that was trained to repair it they are what it was trained
        for, and their noise is at most that.

    Raises:
      errors.UserError: the run does not repair such damage.
    """
    check_repairs(trained, verb)
    cls, asked = damages.DAMAGES[verb], {name: value for name, value in about.items() if value is not None}
    if not isinstance(trained.algorithm, capabilities.Restores):
        return cls(**asked)
    undoes = trained.algorithm.degradation
    if asked.get("noise", 0) > undoes.noise:
        raise errors.UserError(
            f"--noise={asked['noise']}: {trained.workdir} was trained for noise of at most {undoes.noise}; give less, or none"
        )
    own = {name: getattr(undoes, name) for name in keys.fields(type(undoes)) if name in keys.fields(cls) and name != "noise"}
    for name, value in own.items():
        if asked.get(name, value) != value:
            raise errors.UserError(f"--{name}={asked[name]}: {trained.workdir} was trained for {value}; leave it out")
    return cls(**own | asked)


def prepared(trained, request, steps=_STEPS):
    """(the run with the companions that a request names, its algorithm.Request, the prompt), checked. Raises errors.UserError.

    The request is for ancestral steps, of which `steps` is the number, unless it says otherwise.
    """
    check_denoises(trained)
    return _requested(trained, request, {"sampler": "ddpm", "steps": min(steps, trained.algorithm.process.longest)})


def _requested(trained, request, default):
    """The same of a request that is what `default` says unless it says otherwise."""
    asked = {name: value for name, value in request.items() if value is not None}
    typed = requests_lib.typed(asked, trained.algorithm, trained.spec)
    ours = companions.each(trained, [typed])[0].run
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


def _overlap(trained, overlap):
    """Pixels that neighbouring tiles share. Raises errors.UserError."""
    side = min(trained.spec.shape[:2])
    overlap = side // 4 if overlap is None else int(overlap)
    if not 0 <= overlap <= side // 2:
        raise errors.UserError(f"--overlap is {overlap}: it must be between 0 and {side // 2}, half of a tile")
    return overlap


def _check_method(method, sampler):
    chosen = inverse_problems.Method(**method)
    for name, owner in chosen.foreign(method):
        raise errors.UserError(f"--{name} is of --method={owner}, and the method is {chosen.method}: leave it out")
    if not chosen.takes(sampler):
        raise errors.UserError(
            f"--method={chosen.method} repeats single steps: choose --sampler={', '.join(inverse_problems.SINGLE)} without a "
            "learned variance" + (", or --repeats=1" if chosen.method == "ddnm" else "")
        )


def _drawn(ours, request, prompt, anew, labels, samples, seed, first=0, **divided):
    """The Restored of a redrawing.Redrawing; `divided` is of redrawing.Redrawer."""
    errors.check_at_least({"samples": samples}, samples=1)
    rng.check_seed(seed, "--seed")
    labels = inputs.labels_of(labels, len(anew.rows[0]), ours.algorithm.classes)
    mesh = sharding.make_mesh(jax.device_count())
    redraw = redrawing.Redrawer(ours.algorithm, ours.state, mesh, ours.at_once, request, prompt, **divided)
    made = redraw(anew, seed, samples, labels, first)
    return Restored(made[:, 0], made)
