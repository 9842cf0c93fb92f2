"""Restoring, varying and inverting images of files or of a data set: the results, a page, scores where the truth is known."""

import dataclasses
import itertools
import json
import math
import pathlib
import re
from typing import NamedTuple

import jax
import numpy as np

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import images
from imagegen_jax import keys
from imagegen_jax.algorithms import capabilities
from imagegen_jax.api import editing
from imagegen_jax.api import restoring
from imagegen_jax.data import pictures
from imagegen_jax.data import pipeline
from imagegen_jax.diffusion import inverse_problems
from imagegen_jax.generation import damages
from imagegen_jax.generation import inputs
from imagegen_jax.generation import output
from imagegen_jax.generation import translation


def restore(
    trained, given, out, label=None, *, verb, overwrite=False, score=None, features=None, seed=0, tiled=False, **options
):
    """Restores the images that `--input` names.

    Args:
      trained: the run.
      given: files, a folder, or 'test:0,5' (inputs.read).
      out: a folder, which gets the images under their names, what became of them and a page; or .png or .npz.
      label: class of the files, by name or number.
      verb: of damages.DAMAGES.
      overwrite: whether to replace a folder of earlier results.
      score: whether files are the true images, as those of the data set are, which are damaged first and compared in the end;
        False compares none; None for those of the data set.
      features: of the perceptual distance, see comparing.scorer.
      seed: see restoring.
      tiled: whether files keep their own size, and are drawn in tiles; see restoring.
      **options: fields of the damage, as values or as a person writes them, and what restoring.solve takes.

    Returns:
      The scores as lines for a person; '' where there are none.

    Raises:
      errors.UserError: see restoring.restore.
    """
    from imagegen_jax.api import comparing  # here, since SciPy and the networks of scores take their time to import

    about, options = _about(verb, options)
    damage = restoring.damage_of(trained, verb, **about)
    if not tiled:
        damage.check_own_size()  # before files are read
    _check_out(out, overwrite)
    from_data = _from_data(given)
    true = bool(score) or from_data
    if tiled and from_data:
        raise errors.UserError(f"--tiled: the images of --input={given} have the run's size: leave it out")
    if true and about.get("to"):
        raise errors.UserError(f"--to={about['to']}: images that are scored are whole, and keep their size: leave it out")
    if tiled:
        parts = _by_size(trained, damage, given, out, label, true)
    else:
        shape = trained.spec.shape
        taken = damage.taken(shape)  # checked before files are read
        parts = [_read(trained, given, out, label, shape if true else taken)]
    scores = (features or "") if true and score is not False else None
    made, names, texts, lines = [], [], {}, ""
    for part in parts:
        made.append(_restored(trained, damage, part, true, scores, tiled, len(names), seed=seed, **options))
        names += part.names
    if scores is not None:
        found = {row: _joined([one.scores[row] for one in made], np.concatenate) for row in made[0].scores}
        texts["scores.json"], lines = _json(trained, names, found), comparing.text(found)
    columns = _joined([one.columns for one in made])
    _save(trained, verb, out, names, columns, [one.restored for one in made], texts)
    return lines


class _Made(NamedTuple):
    """Images of one size that were restored.

    Attributes:
      columns: {what they are: (n, h, w, c) uint8}, of which the last is 'after'.
      restored: restoring.Restored.
      scores: {answer: what comparing.scorer says}.
    """

    columns: dict[str, np.ndarray]
    restored: restoring.Restored
    scores: dict[str, dict[str, np.ndarray]]


def _restored(trained, damage, found, true, features, tiled, first, seed, **options):
    """The _Made of a _Given, whose first image has this number; `features` is None where nothing is scored."""
    from imagegen_jax.api import comparing  # here, too

    shape = found.image.shape[1:]
    damage, shape = (damage, shape) if true else restoring.sized(trained, damage, shape, tiled)
    problem = damage.problem(shape, len(found.image), found.alpha, first)
    y = problem.degraded(found.image, seed, first) if true else damage.placed(found.image, shape)
    scored = None if features is None else comparing.scorer(found.image, problem.hidden, features or None)
    divided = {"size": shape[:2], "first": first} if tiled else {}
    made = restoring.solve(trained, problem, y, found.label, seed=seed, **divided, **options)
    columns = ({"before": found.image} if true else {}) | {"damaged": _shown(y, problem.hidden, shape), "after": made.images}
    answers = {_answer(trained, options): made.images}
    if scored and not tiled:  # training images have the run's size
        answers |= comparing.trivial(trained, problem, y)
    return _Made(columns, made, {name: scored(answer) for name, answer in answers.items()} if scored else {})


def _by_size(trained, damage, given, out, label, true):
    """A _Given of neighbouring files of one size, which they keep, after the other.

    Raises errors.UserError where one is too small, or `out` takes one size.
    """
    own, listed, shapes = trained.spec.shape, inputs.find(given), []
    names = [str(name.with_suffix("")) for _, name in listed]
    _check_names(given, names)
    for path, _ in listed:
        with pictures.opened(path) as image:
            height, width, _ = pictures.header(image)
        shapes.append((height, width, own[-1] if true else damage.taken(own)[-1]))
        restoring.check_tiles(trained, shapes[-1] if true else damage.whole(shapes[-1], own[-1]))
    if pathlib.PurePath(out).suffix and len(set(shapes)) > 1:
        raise errors.UserError(f"--out={out}: the images have several sizes, and a file takes one: give a folder")
    found = []
    for shape, group in itertools.groupby(range(len(listed)), shapes.__getitem__):
        group = list(group)
        ones = [_read(trained, str(listed[i][0]), out, label, shape) for i in group]
        image, labels = (np.concatenate(arrays) for arrays in zip(*((one.image, one.label) for one in ones)))
        opaque = np.full((1, *shape[:2]), 255, np.uint8)
        alphas = [opaque if one.alpha is None else one.alpha for one in ones]
        alpha = None if all(one.alpha is None for one in ones) else np.concatenate(alphas)
        found.append(_Given([names[i] for i in group], image, labels, alpha))
    return found


def _joined(dicts, join=lambda arrays: [row for array in arrays for row in array]):
    """{name: the values of all dicts, joined}."""
    return {name: join([one[name] for one in dicts]) for name in dicts[0]}


def vary(trained, given, out, label=None, *, overwrite=False, strength=None, **options):
    """Draws images like those that `--input` names, see restoring.vary, and writes them as `restore` does."""
    restoring.check_denoises(trained)
    _check_out(out, overwrite)
    found = _read(trained, given, out, label, trained.spec.shape)
    if strength is not None:
        options["strength"] = _number("strength", strength)
    made = restoring.vary(trained, found.image, labels=found.label, **options)
    _save(trained, "vary", out, found.names, {"before": found.image, "after": made.images}, [made], {})


def invert(trained, given, out, label=None, *, overwrite=False, **request):
    """Takes images to their noise and back, see editing.invert, and writes both; returns the errors as lines for a person."""
    restoring.check_denoises(trained)
    _check_out(out, overwrite)
    found = _read(trained, given, out, label, trained.spec.shape)
    noise, made = editing.invert(trained, found.image, found.label, **request)
    shown = np.asarray(images.to_uint8(noise / 3))  # three standard deviations
    texts = {"errors.json": made.json(found.names, workdir=str(trained.workdir), step=trained.step)}
    _save(trained, "invert", out, found.names, {"before": found.image, "noise": shown, "after": made.images}, [], texts)
    return made.table(found.names)


def _number(name, value):
    """A number of what stands alone in a flag that is a list elsewhere. Raises errors.UserError."""
    try:
        (value,) = value if isinstance(value, list) else [value]
        return float(value)
    except ValueError:
        raise errors.UserError(f"--{name}={value}: give one number") from None


class _Given(NamedTuple):
    """What is to be edited.

    Attributes:
      names: of the results, without an ending.
      image: (n, h, w, c) uint8.
      label: (n,) int32, as the run is told.
      alpha: (n, h, w) uint8, the opacity; None where there is none.
    """

    names: list[str]
    image: np.ndarray
    label: np.ndarray
    alpha: np.ndarray | None


def _from_data(given):
    return re.match(r"(train|test):", given) is not None


def _answer(trained, options):
    """What a run's own images are called among scores: the method, or the family that was trained to make them."""
    if isinstance(trained.algorithm, capabilities.Restores):
        return trained.config.algorithm
    return options.get("method", inverse_problems.Method().method)


def _about(verb, options):
    """(fields of a verb's damage, the other options). Raises errors.UserError for those of other verbs, and bad values."""
    declared, left, chosen = keys.fields(damages.DAMAGES[verb]), {}, {}
    for name, value in options.items():
        owners = [other for other, cls in damages.DAMAGES.items() if name in keys.fields(cls)]
        if value is None or not owners:
            left[name] = value
            continue
        if verb not in owners:
            raise errors.UserError(f"--{name}={value} is of {' and '.join(owners)}, and this is {verb}: leave it out")
        try:
            chosen[name] = declared[name].parse(value) if isinstance(value, str) and name != "mask" else value
        except ValueError as error:
            raise errors.UserError(f"--{name}={value}: {error}") from error
        if text := declared[name].objection(chosen[name]):
            raise errors.UserError(f"--{name}={value}: {text}")
    return chosen, left


def _check_out(out, overwrite):
    output.check(out if pathlib.PurePath(out).suffix else f"{out.rstrip('/')}/", overwrite=overwrite)


def _read(trained, given, out, label, shape):
    """The _Given of images of a shape. Raises errors.UserError."""
    spec, alpha = dataclasses.replace(trained.spec, shape=shape), None
    found = inputs.read(given, out, trained.config.data, spec)
    if _from_data(given):
        names = [name.replace(":", "_") for name in found.names]
    else:
        listed = inputs.find(given)
        names = [str(name.with_suffix("")) for _, name in listed]
        alpha = _opacity([path for path, _ in listed], shape)
    _check_names(given, names)
    label = None if label is None else trained.spec.label_of(label)
    return _Given(names, found.image, inputs.labels(found.label, label, trained.algorithm.classes), alpha)


def _check_names(given, names):
    for name in {name for name in names if names.count(name) > 1}:
        raise errors.UserError(f"--input={given}: two images are called {name}, and so would the results be: rename one")


def _opacity(paths, shape):
    """(n, h, w) uint8, fitted as the images are; None where none has a transparency."""
    found = []
    for path in paths:
        with pictures.opened(path) as image:
            found.append(pictures.opacity(image))
    if all(alpha is None for alpha in found):
        return None
    opaque = np.full((*shape[:2], 1), 255, np.uint8)
    return np.stack([opaque if alpha is None else pipeline.fit(alpha, (*shape[:2], 1)) for alpha in found])[..., 0]


def _shown(y, hidden, shape):
    """An observation as (n, *shape) images to look at: with as large pixels as it takes, and grey where nothing is known."""
    for axis in (1, 2):
        y = np.repeat(y, shape[axis - 1] // y.shape[axis], axis)
    y = np.broadcast_to(y, (len(y), *shape))
    return y if hidden is None else np.where(hidden[..., None], np.uint8(128), y)


def _save(trained, verb, out, names, columns, made, texts):
    """Writes {what they are: images} beside each other, or to a folder with a page: the last, 'after', as its images.

    `made` are the restoring.Restored that they come from, one after the other; [] where they come from none.
    """
    if pathlib.PurePath(out).suffix in (".png", ".npz"):
        return output.save_cells(out, np.stack([np.stack(list(column)) for column in columns.values()], 1))
    if made and made[0].samples.shape[1] > 1:
        for i in range(1, made[0].samples.shape[1]):
            columns[f"sample {i + 1}"] = [sample for one in made for sample in one.samples[:, i]]
        columns["spread"] = [np.rint(2 * 255 * spread).astype(np.uint8) for one in made for spread in one.spread]
    if jax.process_index():
        return None
    title = f"{pathlib.Path(trained.workdir).name}, step {trained.step}: {verb}"
    with files.atomic_folder(out) as folder:
        rows = [(name, {kind: _path(folder, kind, name) for kind in columns}) for name in names]
        for i, (_, paths) in enumerate(rows):
            for kind, path in paths.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                pictures.of_array(np.ascontiguousarray(columns[kind][i])).save(path)
        for name, text in texts.items():
            (folder / name).write_text(text)
        translation.write_page(folder / "index.html", folder, rows, title)


def _path(folder, kind, name):
    return folder / f"{name}.png" if kind == "after" else folder / kind.replace(" ", "_") / f"{name}.png"


def _json(trained, names, scores):
    """The scores of images of these names as JSON, which has no infinity."""
    listed = {
        row: {name: [value if math.isfinite(value) else None for value in values] for name, values in found.items()}
        for row, found in scores.items()
    }
    about = {"workdir": str(trained.workdir), "step": trained.step, "inputs": names}
    return json.dumps(about | {"scores": listed}, indent=1) + "\n"
