"""Asks a trained run for changes to images that a person has.

translate   images of one domain of a CycleGAN to the other, whatever their size

python -m experiments.edit translate --workdir=runs/cyclegan --direction=ab --input=photos --out=translated/
"""

import pathlib
import sys

from absl import flags
from PIL import Image
import tqdm

from imagegen_jax import command_line
from imagegen_jax import errors
from imagegen_jax.algorithms import cyclegan
from imagegen_jax.generation import output
from imagegen_jax.generation import translation
from imagegen_jax.training import run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_INPUT = flags.DEFINE_string("input", None, "Folder of images, searched with its sub-folders; or files, separated by commas.")
_OUT = flags.DEFINE_string("out", None, "Folder for the results, ending in /: PNGs under the inputs' names, and index.html.")
_CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Step of the checkpoint; by default the latest.")
_EMA = flags.DEFINE_bool("ema", True, "Use the moving average of the parameters.")
_ON_BAD_IMAGE = flags.DEFINE_enum("on_bad_image", "error", ["error", "skip"], "What to do where a file cannot be read.")
_DIRECTION = flags.DEFINE_enum("direction", None, cyclegan.DIRECTIONS, "translate: from which domain to which.")
_TILE = flags.DEFINE_integer("tile", 512, "translate: larger images are translated in square tiles with this side, in pixels.")
_OVERLAP = flags.DEFINE_integer("overlap", None, "translate: pixels that neighbouring tiles share; by default at most 64.")


def translate():
    """Checks what was asked for before anything is translated or written."""
    # The person vouches for the files; Pillow's limit of pixels protects those who open a stranger's.
    Image.MAX_IMAGE_PIXELS = None
    files = translation.plan(_INPUT.value, _OUT.value)
    _check_translates(_WORKDIR.value)
    _, algorithm, state, step = run.load(_WORKDIR.value, _CHECKPOINT.value, _EMA.value)
    overlap = min(64, _TILE.value // 4) if _OVERLAP.value is None else _OVERLAP.value
    translator = translation.Translator(algorithm, state, _DIRECTION.value, _TILE.value, overlap)
    reader = translation.Reader(translator.channels, _ON_BAD_IMAGE.value)
    files = reader.check(files)
    output.check(_OUT.value)

    done = []
    try:
        with tqdm.tqdm(files, f"step {step}", unit="image") as bar:
            for file in bar:
                image = reader.read(file.source)
                if image is not None:
                    translation.save(file.target, translator(image))
                    done.append(file)
    finally:  # what is done has its page, however this ends
        if done:
            title = f"{pathlib.Path(_WORKDIR.value).name}, step {step}: {' to '.join(_DIRECTION.value)}"
            translation.save_index(_OUT.value, done, title)
    if not done:
        raise errors.UserError(f"none of the {len(files)} images can be read, such as: {reader.skipped[0]}")
    for error in reader.skipped:
        print(f"skipped: {error}", file=sys.stderr)
    if reader.skipped:
        print(f"{len(reader.skipped)} unreadable images were skipped", file=sys.stderr)


def _check_translates(workdir):
    """Raises errors.UserError where the run is not of two domains; its checkpoint need not be read to know."""
    saved = run.load_config(workdir)
    if saved is not None and run.build_algorithm(*saved).domains != ("a", "b"):
        raise errors.UserError(
            f"{workdir} is a run of {saved[0].algorithm}, which does not translate: give the folder of a CycleGAN's run"
        )


if __name__ == "__main__":
    command_line.run_verb({"translate": (translate, ("workdir", "direction", "input", "out"))})
