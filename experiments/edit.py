"""Asks a trained run for changes to images that a person has.

translate   images of one domain of a CycleGAN to the other, whatever their size
reconstruct images from their latents, with the errors
interpolate from the latents of each image to those of the next
traverse    from the latents of one image along single dimensions
attribute   images towards the mean latents of another class

python -m experiments.edit translate --workdir=runs/cyclegan --direction=ab --input=photos --out=translated
python -m experiments.edit reconstruct --workdir=runs/vae --input=test:0,1,2,3 --out=pairs.png
python -m experiments.edit interpolate --workdir=runs/vae --input=a.png,b.png --out=path.gif
python -m experiments.edit traverse --workdir=runs/vae --input=test:5 --out=dimensions.png
python -m experiments.edit attribute --workdir=runs/vae --input=test:0,5 --from=3 --to=7 --out=dressed.png

All but the first are of autoencoders of any kind, whose images have the size of the run's own or, where its training resized
them, are resized; interpolate is of GANs too, with --input=seed:1,2. Without --input, reconstruct and interpolate show some
test images, or random latents where images have none.
"""

import functools

from absl import flags
import jax

from imagegen_jax import command_line
from imagegen_jax.api import editing
from imagegen_jax.api import runs
from imagegen_jax.generation import inputs
from imagegen_jax.generation import output
from imagegen_jax.generation import translation

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_INPUT = flags.DEFINE_string(
    "input", None, "A folder, or files separated by commas; or the run's own images, test:0,5 or train:0,5; see above."
)
_OUT = flags.DEFINE_string("out", None, f"translate: a folder. The others: {output.FORMATS}; interpolate: also .gif.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a folder that holds earlier results, and all that is in it.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Step of the checkpoint, or best; by default the latest.")
_EMA = flags.DEFINE_flag(command_line.EmaFlag("Use"))
_ON_BAD_IMAGE = flags.DEFINE_enum("on_bad_image", "error", ["error", "skip"], "translate: where a file cannot be read.")
_DIRECTION = flags.DEFINE_string("direction", None, "translate: one of the run's directions, such as ab or ba.")
_TILE = flags.DEFINE_integer("tile", 512, "translate: larger images are translated in square tiles with this side, in pixels.")
_OVERLAP = flags.DEFINE_integer("overlap", None, "translate: pixels that neighbouring tiles share; by default at most 64.")
_MOST_PIXELS = flags.DEFINE_integer("most_pixels", translation.MOST_PIXELS, "translate: files with more are unreadable.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images (un)coded at once; by default the run's sample.batch_size.")
_LABEL = flags.DEFINE_string("label", None, "The class of files and random latents, by name or number, for a run with labels.")
_NUM = flags.DEFINE_integer("num", 9, "interpolate: images from one to the next, with both; traverse: images a row.")
_RANGE = flags.DEFINE_float("range", 2.5, "traverse: how far to go to either side, in deviations of each dimension.")
_DIMENSIONS = flags.DEFINE_list("dimensions", None, "traverse: which, such as 0,3,7; by default the 10 that vary most.")
_FROM = flags.DEFINE_string("from", None, "attribute: the class to come from, by name or number.")
_TO = flags.DEFINE_string("to", None, "attribute: the class to go to, likewise.")
_STRENGTH = flags.DEFINE_list("strength", ["0.5", "1", "1.5"], "attribute: how far to go, 1 being from one mean to the other.")


def translate():
    """To a folder, which gets a page too."""
    command_line.check_at_least(most_pixels=1)
    translation.set_most_pixels(_MOST_PIXELS.value)
    options = {name: flags.FLAGS[name].value for name in ("direction", "tile", "overlap", "on_bad_image", "overwrite")}
    _load(editing.check_translates).translate_files(_INPUT.value, _OUT.value, **options)


def reconstruct():
    """Pairs of image and reconstruction as a grid, otherwise the reconstructions alone; a folder also gets the errors."""
    trained, given = _opened(default=16)
    made = trained.reconstruct(given.image, given.label)
    texts = {"errors.json": made.json(given.names, workdir=_WORKDIR.value, step=trained.step)}
    output.save_pairs(_OUT.value, given.image, made.images, texts)
    if jax.process_index() == 0:
        print(made.table(given.names))


def interpolate():
    """A row for each two neighbours among the inputs; as a GIF the way through all of them and back."""
    trained, given = _opened(default=4, seeded=True, least=2)
    output.save_cells(_OUT.value, trained.interpolate(given.image, _NUM.value, given.label))


def traverse():
    """A row for each dimension of latents, in deviations of those of the test images, or else the training images'."""
    dimensions = command_line.numbers("dimensions", int)
    trained, given = _opened(most=1)
    made = trained.traverse(given.image[0], dimensions, _NUM.value, _RANGE.value, given.label[0])
    output.save_cells(_OUT.value, made.images)
    if jax.process_index() == 0:
        print(made.table())


def attribute():
    """A row for each image: itself, its reconstruction, and what it becomes on the way from one class to another."""
    strengths = command_line.numbers("strength")
    trained, given = _opened()
    output.save_cells(_OUT.value, trained.attribute(given.image, _FROM.value, _TO.value, strengths, given.label))


def _load(check):
    return runs.load(_WORKDIR.value, _CHECKPOINT.value, _EMA.value, _BATCH_SIZE.value, check)


def _opened(default=None, seeded=False, **numbers):
    """(runs.Run, inputs.Inputs), both checked, and where the results go."""
    command_line.check_at_least(num=2, batch_size=1)
    random = seeded and (_INPUT.value is None or inputs.seeds(_INPUT.value) is not None)
    trained = _load(functools.partial(editing.check_encodes, or_random=random))
    asked = inputs.default(trained, default) if _INPUT.value is None else _INPUT.value
    given = inputs.of_run(trained, asked, _OUT.value, _LABEL.value, seeded, **numbers)
    output.check(_OUT.value, animated=seeded, overwrite=_OVERWRITE.value)
    return trained, given


VERBS = {
    "translate": (translate, ("workdir", "direction", "input", "out")),
    "reconstruct": (reconstruct, ("workdir", "out")),
    "interpolate": (interpolate, ("workdir", "out")),
    "traverse": (traverse, ("workdir", "input", "out")),
    "attribute": (attribute, ("workdir", "input", "from", "to", "out")),
}

if __name__ == "__main__":
    command_line.run_verb(VERBS)
