"""Asks a trained run for changes to images that a person has.

translate   images of one domain of a CycleGAN to the other, whatever their size
reconstruct images from their codes, with the errors
interpolate from the code of each image to that of the next
traverse    from the code of one image along single dimensions
attribute   images towards the mean code of another class

python -m experiments.edit translate --workdir=runs/cyclegan --direction=ab --input=photos --out=translated
python -m experiments.edit reconstruct --workdir=runs/vae --input=test:0,1,2,3 --out=pairs.png
python -m experiments.edit interpolate --workdir=runs/vae --input=a.png,b.png --out=path.gif
python -m experiments.edit traverse --workdir=runs/vae --input=test:5 --out=dimensions.png
python -m experiments.edit attribute --workdir=runs/vae --input=test:0,5 --from=3 --to=7 --out=dressed.png

All but the first are of autoencoders of any kind, whose images have the size of the run's own or, where its training resized
them, are resized; interpolate is of GANs too, with --input=seed:1,2.
"""

import json
import math
import pathlib
import sys

from absl import flags
import jax
import numpy as np

from imagegen_jax import command_line
from imagegen_jax import errors
from imagegen_jax import progress
from imagegen_jax import similarity
from imagegen_jax.algorithms import capabilities
from imagegen_jax.algorithms import cyclegan
from imagegen_jax.data import domains
from imagegen_jax.generation import codes
from imagegen_jax.generation import inputs
from imagegen_jax.generation import output
from imagegen_jax.generation import tiling
from imagegen_jax.generation import translation
from imagegen_jax.training import run
from imagegen_jax.training import sharding

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_INPUT = flags.DEFINE_string(
    "input",
    None,
    "Folder of images, searched with its sub-folders; or files, separated by commas. Where there are codes also numbers of the "
    "run's own images, test:0,5,17 or train:0,5,17; interpolate: random codes, seed:1,2. reconstruct and interpolate have "
    "defaults: some test images, or random codes where images have none.",
)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "translate: folder for the results: PNGs under the inputs' names, and index.html. "
    f"The others: {output.FORMATS}; interpolate: also .gif.",
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a folder that holds earlier results, and all that is in it.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Step of the checkpoint, or best; by default the latest.")
_EMA = flags.DEFINE_bool("ema", True, "Use the moving average of the parameters.")
_ON_BAD_IMAGE = flags.DEFINE_enum(
    "on_bad_image", "error", ["error", "skip"], "translate: what to do where a file cannot be read."
)
_DIRECTION = flags.DEFINE_enum("direction", None, cyclegan.DIRECTIONS, "translate: from which domain to which.")
_TILE = flags.DEFINE_integer("tile", 512, "translate: larger images are translated in square tiles with this side, in pixels.")
_OVERLAP = flags.DEFINE_integer("overlap", None, "translate: pixels that neighbouring tiles share; by default at most 64.")
_MOST_PIXELS = flags.DEFINE_integer(
    "most_pixels",
    translation.MOST_PIXELS,
    "translate: files with more pixels count as unreadable, since a few bytes can become a great many.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images (un)coded at once; by default the run's sample.batch_size.")
_LABEL = flags.DEFINE_string(
    "label", None, "The class of the images in files and of random codes, by name or number, for a run with labels."
)
_NUM = flags.DEFINE_integer("num", 9, "interpolate: images from one to the next, with both; traverse: images a row.")
_RANGE = flags.DEFINE_float("range", 2.5, "traverse: how far to go to either side, in deviations of each dimension.")
_DIMENSIONS = flags.DEFINE_list("dimensions", None, "traverse: which, such as 0,3,7; by default the 10 that vary most.")
_FROM = flags.DEFINE_string("from", None, "attribute: the class to come from, by name or number.")
_TO = flags.DEFINE_string("to", None, "attribute: the class to go to, likewise.")
_STRENGTH = flags.DEFINE_list("strength", ["0.5", "1", "1.5"], "attribute: how far to go, 1 being from one mean to the other.")

_SHOWN = 16  # images that are reconstructed by default
_ENDS = 4  # images, or codes, that are interpolated between by default
_TRAVERSED = 10  # dimensions by default
_SURVEYED = 500  # images whose codes tell what the deviations are
_AVERAGED = 2000  # labelled images whose codes are averaged


def translate():
    """Checks what was asked for before anything is translated or written."""
    if jax.process_count() > 1:
        raise errors.UserError("images are translated in one process: start it on one host, without --distributed")
    command_line.check_at_least(most_pixels=1)
    translation.set_most_pixels(_MOST_PIXELS.value)
    planned = translation.plan(_INPUT.value, _OUT.value)
    _check_translates(_WORKDIR.value)
    trained = run.load(_WORKDIR.value, _CHECKPOINT.value, _EMA.value, replicate=True)
    overlap = min(64, _TILE.value // 4) if _OVERLAP.value is None else _OVERLAP.value
    translator = tiling.Translator(trained.algorithm, trained.state, _DIRECTION.value, _TILE.value, overlap)
    reader = translation.Reader(translator.channels, _ON_BAD_IMAGE.value)
    planned = reader.check(planned)
    output.check_folder(_OUT.value, _OVERWRITE.value)

    output.clear(_OUT.value)
    done = []
    try:
        with progress.Progress(len(planned), "image", f"step {trained.step}") as bar:
            for file in planned:
                image = reader.read(file.source)
                if image is not None:
                    translation.save(file.target, translator(image))
                    done.append(file)
                bar.update()
    finally:  # what is done has its page, however this ends
        if done:
            title = f"{pathlib.Path(_WORKDIR.value).name}, step {trained.step}: {' to '.join(_DIRECTION.value)}"
            translation.save_index(_OUT.value, done, title)
    if not done:
        raise errors.UserError(f"none of the {len(planned)} images can be read, such as: {reader.skipped[0]}")
    for error in reader.skipped:
        print(f"skipped: {error}", file=sys.stderr)
    if reader.skipped:
        print(f"{len(reader.skipped)} unreadable images were skipped", file=sys.stderr)


def _check_translates(workdir):
    """Raises errors.UserError where the run is not of two domains; its checkpoint need not be read to know."""
    saved = run.load_config(workdir)
    if saved is not None and not isinstance(run.build_algorithm(*saved), capabilities.Translates):
        raise errors.UserError(
            f"{workdir} is a run of {saved[0].algorithm}, which does not translate: give the folder of a CycleGAN's run"
        )


def reconstruct():
    """Writes pairs of image and reconstruction as a grid, otherwise the reconstructions alone; prints the errors.

    A folder also gets them as errors.json.
    """
    config, spec, algorithm = _checked_run()
    given = _images(_input(config, spec, algorithm, _SHOWN), config, spec, algorithm)
    coder, step = _load(config, spec)
    output.check(_OUT.value, overwrite=_OVERWRITE.value)

    made = coder.decode(coder.encode(given.image, given.label), given.label)
    squared, psnr = similarity.reconstruction_errors(given.image, made)
    rows = [*zip(given.names, squared, psnr)]
    if _OUT.value.endswith(".png"):
        pairs = math.ceil(math.sqrt(len(made) / 2))  # a row
        output.save_grid(_OUT.value, np.stack([given.image, made], 1).reshape(-1, *spec.shape), 2 * pairs)
    else:
        output.save(_OUT.value, [made], texts={"errors.json": _errors_json(step, rows)})
    if jax.process_index() == 0:
        _print_errors([*rows, ("mean", squared.mean(), psnr.mean())])


def _print_errors(rows):
    width = max(len(name) for name, _, _ in rows)
    print(f"{'':{width}}  squared error  PSNR (dB)")
    for name, error, ratio in rows:
        print(f"{name:{width}}  {error:13.5f}  {ratio:9.2f}")


def interpolate():
    """Writes one row for each two neighbours among the inputs; as a GIF the way through all of them and back."""
    encodes = _INPUT.value is not None and inputs.seeds(_INPUT.value) is None
    config, spec, algorithm = _checked_run(encodes)
    asked = _input(config, spec, algorithm, _ENDS)
    seeds = inputs.seeds(asked)
    if seeds is None:
        given = _images(asked, config, spec, algorithm)
        label = given.label
    else:
        codes.check_prior(algorithm)
        label = inputs.labels(np.full(len(seeds), -1, np.int32), _label(spec), algorithm.classes)
    if len(label) < 2:
        raise errors.UserError(f"--input={asked}: give at least two, to go from one to the other")
    coder, _ = _load(config, spec)
    output.check(_OUT.value, animated=True, overwrite=_OVERWRITE.value)

    ends = coder.encode(given.image, label) if seeds is None else codes.of_prior(seeds, coder.dimensions)
    cells = coder.decode(codes.paths(ends, _NUM.value), codes.labels_of_paths(label, _NUM.value))
    if _OUT.value.endswith(".gif"):
        output.save_animation(_OUT.value, codes.there_and_back(cells))
    else:
        _save(cells)


def traverse():
    """Writes one row for each dimension of a code, in deviations of the test images' codes, or else the training images'."""
    config, spec, algorithm = _checked_run()
    given = _images(_INPUT.value, config, spec, algorithm)
    if len(given.image) > 1:
        raise errors.UserError(f"--input={_INPUT.value}: give one image; these are {len(given.image)}")
    wanted = command_line.numbers("dimensions", int) or []
    surveyed = domains.open_domains(config.data, "test", {"": spec}) or domains.open_domains(config.data, "train", {"": spec})
    coder, _ = _load(config, spec)
    for dimension in wanted:
        if not 0 <= dimension < coder.dimensions:
            raise errors.UserError(f"--dimensions: there is no {dimension}, they go from 0 to {coder.dimensions - 1}")
    output.check(_OUT.value, overwrite=_OVERWRITE.value)

    deviations = codes.of_domain(coder, surveyed[""], _SURVEYED)[0].std(0)
    dimensions = wanted or [int(dimension) for dimension in np.argsort(-deviations, kind="stable")[:_TRAVERSED]]
    values = np.linspace(-_RANGE.value, _RANGE.value, _NUM.value)
    (code,) = coder.encode(given.image, given.label)
    _save(coder.decode(codes.traversals(code, deviations, dimensions, values), given.label))
    if jax.process_index() == 0:
        print("row  dimension  deviation")
        for row, dimension in enumerate(dimensions):
            print(f"{row:3}  {dimension:9}  {deviations[dimension]:9.4f}")


def attribute():
    """Writes a row for each image: itself, its reconstruction, and what it becomes on the way from one class to another.

    Where the decoder is told a class, for the last it is the other one.
    """
    config, spec, algorithm = _checked_run()
    if not spec.classes:
        raise errors.UserError(f"attribute goes from class to class, and the images of {config.data.source} have no labels")
    source, target = (spec.label_of(flag.value, flag.name) for flag in (_FROM, _TO))
    strengths = command_line.numbers("strength")
    given = _images(_INPUT.value, config, spec, algorithm)
    labelled = domains.open_domains(config.data, "train", {"": spec})
    coder, _ = _load(config, spec)
    output.check(_OUT.value, overwrite=_OVERWRITE.value)

    towards = codes.direction(*codes.of_domain(coder, labelled[""], _AVERAGED), source, target)
    moved = codes.shifts(coder.encode(given.image, given.label), towards, [0, *strengths])
    told = np.stack([given.label, *[np.full_like(given.label, target)] * len(strengths)], 1)
    _save(np.concatenate([given.image[:, None], coder.decode(moved, told)], 1))


def _checked_run(encodes=True):
    """(config, images.Spec, algorithm) of a run whose images have codes; its checkpoint need not be read to know.

    Where nothing is encoded, a run whose codes have a prior will do.
    """
    command_line.check_at_least(num=2, batch_size=1)
    if not 0 < _RANGE.value < math.inf:
        raise errors.UserError(f"--range is {_RANGE.value}: it must be more than 0, and finite")
    saved = run.load_config(_WORKDIR.value)
    if saved is None:
        raise errors.UserError(f"{_WORKDIR.value} is not the folder of a run: it has no config.json")
    config, specs = saved
    algorithm = run.build_algorithm(config, specs)
    decodes_noise = isinstance(algorithm, capabilities.Decodes) and algorithm.prior_is_normal
    if not isinstance(algorithm, capabilities.Autoencodes) and (encodes or not decodes_noise):
        raise errors.UserError(
            f"{_WORKDIR.value} is a run of {config.algorithm}, whose images have no codes: "
            "give the folder of an autoencoder's run"
            + (", or interpolate between random codes with --input=seed:1,2,3" if decodes_noise else "")
        )
    return config, specs[""], algorithm


def _input(config, spec, algorithm, num):
    """--input; by default some of the run's images, or codes where images have none, whose names are printed."""
    if _INPUT.value is not None:
        return _INPUT.value
    encodes = isinstance(algorithm, capabilities.Autoencodes)
    chosen = inputs.some(config.data, spec, num) if encodes else f"seed:{','.join(map(str, range(num)))}"
    progress.tell(f"--input={chosen}")
    return chosen


def _images(given, config, spec, algorithm):
    """The inputs.Inputs that `given` names, with the labels that the algorithm is told."""
    given = inputs.read(given, _OUT.value, config.data, spec)
    return given._replace(label=inputs.labels(given.label, _label(spec), algorithm.classes))


def _label(spec):
    """The number of the class in --label; None where it is not given."""
    return None if _LABEL.value is None else spec.label_of(_LABEL.value)


def _load(config, spec):
    """(codes.Coder of the trained run, step of its checkpoint)."""
    trained = run.load(_WORKDIR.value, _CHECKPOINT.value, _EMA.value)
    mesh = sharding.make_mesh(jax.device_count())
    batch_size = _BATCH_SIZE.value or config.sample.batch_size
    return codes.Coder(trained.algorithm, trained.state, mesh, batch_size), trained.step


def _errors_json(step, rows):
    """(name, squared error, PSNR) as JSON, which has no infinity for the PSNR of an image that comes back exactly."""
    listed = [
        {"input": name, "squared_error": error, "psnr": ratio if math.isfinite(ratio) else None} for name, error, ratio in rows
    ]
    return json.dumps({"workdir": _WORKDIR.value, "step": step, "images": listed}, indent=1) + "\n"


def _save(cells):
    """Writes (rows, columns, h, w, c) uint8: a grid as it is, the others row by row."""
    flat = cells.reshape(-1, *cells.shape[2:])
    if _OUT.value.endswith(".png"):
        output.save_grid(_OUT.value, flat, cells.shape[1])
    else:
        output.save(_OUT.value, [flat])


VERBS = {
    "translate": (translate, ("workdir", "direction", "input", "out")),
    "reconstruct": (reconstruct, ("workdir", "out")),
    "interpolate": (interpolate, ("workdir", "out")),
    "traverse": (traverse, ("workdir", "input", "out")),
    "attribute": (attribute, ("workdir", "input", "from", "to", "out")),
}

if __name__ == "__main__":
    command_line.run_verb(VERBS)
