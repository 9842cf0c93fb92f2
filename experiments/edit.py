"""Asks a trained run for changes to images that a person has.

inpaint, outpaint, superres, colorize, deblur, denoise    what is missing of images, by a diffusion; or by one that was trained
                     for it: configs/superres.py, inpaint.py, colorize.py
vary, invert         by a diffusion: other images like these; to the noise that images are drawn from, and back
interpolate, blend   by latents of an autoencoder or noise of a diffusion: from each image to the next; all as one
reconstruct, traverse, attribute    by latents of an autoencoder: there and back; single dimensions; towards another class
translate            images of one domain of a CycleGAN to the other, whatever their size

python -m experiments.edit inpaint --workdir=runs/ddpm --input=photo.png --mask=mask.png --out=filled

But for translate, and with --tiled for repair, images have the size of the run's own or, where its training resized them, are
resized. interpolate takes random latents, --input=seed:1,2, of a GAN too. Without --input, reconstruct and interpolate show
test images or random latents.
"""

import functools

from absl import flags

from imagegen_jax import command_line
from imagegen_jax.api import editing
from imagegen_jax.api import restoring
from imagegen_jax.api import restoring_files
from imagegen_jax.api import runs
from imagegen_jax.generation import damages
from imagegen_jax.generation import editing_flags
from imagegen_jax.generation import inputs
from imagegen_jax.generation import output
from imagegen_jax.generation import translation

_FLAGS = flags.FLAGS
_EMA = flags.DEFINE_flag(command_line.EmaFlag("Use"))
editing_flags.define()
flags.adopt_module_key_flags(editing_flags)  # for --help


def translate():
    """To a folder, which gets a page too."""
    trained = _load(editing.check_translates)
    translation.set_most_pixels(_FLAGS.most_pixels)
    options = {name: _FLAGS[name].value for name in ("direction", "tile", "overlap", "on_bad_image", "overwrite")}
    trained.translate_files(_FLAGS.input, _FLAGS.out, **options)


def reconstruct():
    """Pairs of image and reconstruction as a grid, otherwise the reconstructions alone; a folder also gets the errors."""
    trained, given = _opened(editing.check_encodes, default=16)
    made = trained.reconstruct(given.image, given.label)
    texts = {"errors.json": made.json(given.names, workdir=_FLAGS.workdir, step=trained.step)}
    output.save_pairs(_FLAGS.out, given.image, made.images, texts)
    command_line.tell(made.table(given.names))


def interpolate():
    """A row for each two neighbours among the inputs; as a GIF the way through all of them and back."""
    random = _FLAGS.input is None or inputs.seeds(_FLAGS.input) is not None
    check = functools.partial(editing.check_encodes, or_random=random, or_inverts=True)
    trained, given = _opened(check, default=4, seeded=True, least=2)
    output.save_cells(_FLAGS.out, trained.interpolate(given.image, _FLAGS.num, given.label, **editing_flags.drawing()))


def blend():
    """One image."""
    weights = command_line.numbers("weights")
    trained, given = _opened(functools.partial(editing.check_encodes, or_inverts=True), least=2)
    output.save_cells(_FLAGS.out, trained.blend(given.image, weights, given.label, **editing_flags.drawing())[None, None])


def traverse():
    """A row for each dimension of latents, in deviations of those of the test images, or else the training images'."""
    dimensions = command_line.numbers("dimensions", int)
    trained, given = _opened(editing.check_encodes, most=1)
    made = trained.traverse(given.image[0], dimensions, _FLAGS.num, _FLAGS.range, given.label[0])
    output.save_cells(_FLAGS.out, made.images)
    command_line.tell(made.table())


def attribute():
    """A row for each image: itself, its reconstruction, and what it becomes on the way from one class to another."""
    strengths = command_line.numbers("strength") or editing.STRENGTHS
    trained, given = _opened(editing.check_encodes)
    moved = trained.attribute(given.image, _FLAGS["from"].value, _FLAGS.to, strengths, given.label)
    output.save_cells(_FLAGS.out, moved)


def redraw(edit, *names, check=restoring.check_denoises):
    """What a diffusion makes of images: a folder with a page, or a grid."""
    trained = _load(check)
    options = {name: _FLAGS[name].value for name in ("overwrite", *names)} | editing_flags.given()
    command_line.tell(edit(trained, _FLAGS.input, _FLAGS.out, _FLAGS.label, **options))


def _load(check):
    command_line.check_at_least(num=2, batch_size=1, most_pixels=1)
    return runs.load(_FLAGS.workdir, _FLAGS.checkpoint, _EMA.value, _FLAGS.batch_size, check)


def _opened(check, default=None, seeded=False, **numbers):
    """(runs.Run, inputs.Inputs), both checked, and where the results go."""
    trained = _load(check)
    asked = inputs.default(trained, default) if _FLAGS.input is None else _FLAGS.input
    given = inputs.of_run(trained, asked, _FLAGS.out, _FLAGS.label, seeded, **numbers)
    output.check(_FLAGS.out, animated=seeded, overwrite=_FLAGS.overwrite)
    return trained, given


_GIVEN = ("workdir", "input", "out")


def _repair(verb):
    restore, check = (functools.partial(fn, verb=verb) for fn in (restoring_files.restore, restoring.check_repairs))
    return functools.partial(redraw, restore, "samples", "seed", "score", "features", "tiled", "overlap", check=check), _GIVEN


VERBS = {
    "translate": (translate, ("direction", *_GIVEN)),
    "reconstruct": (reconstruct, ("workdir", "out")),
    "interpolate": (interpolate, ("workdir", "out")),
    "blend": (blend, _GIVEN),
    "traverse": (traverse, _GIVEN),
    "attribute": (attribute, (*_GIVEN, "from", "to")),
    "invert": (functools.partial(redraw, restoring_files.invert), _GIVEN),
    "vary": (functools.partial(redraw, restoring_files.vary, "samples", "seed", "strength"), _GIVEN),
} | {verb: _repair(verb) for verb in damages.DAMAGES}

if __name__ == "__main__":
    command_line.run_verb(VERBS)
