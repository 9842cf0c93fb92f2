"""Draws images from a run.

python -m experiments.sample --workdir=runs/ddpm --num=64 --seed=0 --out=grid.png
"""

import functools

from absl import flags
import numpy as np

from imagegen_jax import command_line
from imagegen_jax import errors
from imagegen_jax import progress
from imagegen_jax.api import restoring
from imagegen_jax.api import runs
from imagegen_jax.api import sampling
from imagegen_jax.generation import drawing_flags
from imagegen_jax.generation import inputs
from imagegen_jax.generation import output

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_OUT = flags.DEFINE_string("out", None, f"Where to: {output.FORMATS}.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a folder that holds earlier images, and all that is in it.")
_LABELS = flags.DEFINE_enum(
    "labels",
    None,
    ["csv", "folders", "tfds"],
    "Of a folder: labels.csv, a sub-folder for each class, or a data set for TFDS in place of PNGs.",
)
_NUM = flags.DEFINE_integer("num", 64, "How many images.")
_SEED = flags.DEFINE_integer("seed", 0, "Image i depends on the seed and i alone, whatever the batch size.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Step of the checkpoint, or best; by default the latest.")
_EMA = flags.DEFINE_flag(command_line.EmaFlag("Draw with"))
_UPSAMPLE = flags.DEFINE_string("upsample", None, "Folder of a run that enlarges them, such as one of configs/superres.py.")
_UPSAMPLE_NOISE = flags.DEFINE_float("upsample_noise", 0.0, "Noise that is given to them before: it hides errors.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images drawn at once; by default the run's sample.batch_size.")
drawing_flags.define()
flags.adopt_module_key_flags(drawing_flags)  # for --help


def main():
    """Checks what was asked for before anything is drawn or written."""
    trained = runs.load(_WORKDIR.value, _CHECKPOINT.value, _EMA.value)
    asked = dict(batch_size=_BATCH_SIZE.value, latents=drawing_flags.latents(), **drawing_flags.given())
    drawing = sampling.prepare(trained, _NUM.value, _SEED.value, **asked)
    if _UPSAMPLE_NOISE.value and not _UPSAMPLE.value:
        raise errors.UserError(f"--upsample_noise={_UPSAMPLE_NOISE.value} is of --upsample: name a run, or leave it out")
    larger = _UPSAMPLE.value and _larger(trained, drawing)
    output.check(_OUT.value, overwrite=_OVERWRITE.value)
    layout = _layout(trained, drawing) if _LABELS.value else {}
    with progress.Progress(_NUM.value, "image", f"step {trained.step}") as bar:
        batches = bar.over(drawing.batches())
        if larger:
            labels, small = drawing.labels if larger.algorithm.classes else None, np.concatenate(list(batches))
            batches = [larger.enlarge_drawn(small, labels, noise=_UPSAMPLE_NOISE.value, seed=_SEED.value).images]
        output.save(_OUT.value, batches, drawing.labels, rows=drawing.rows, **layout)
    if drawing.rows is not None and _OUT.value.endswith(".png"):
        progress.tell(f"rows, from the top: {', '.join(drawing.row_names)}")


def _layout(trained, drawing):
    """What output.save is told of a labelled set. Raises errors.UserError where what is drawn has no labels, or no folder."""
    if not _OUT.value.endswith("/"):
        raise errors.UserError(f"--labels={_LABELS.value}: --out={_OUT.value} is no folder: end it in /, or leave --labels out")
    if drawing.labels is None:
        raise errors.UserError(f"--labels={_LABELS.value}: this run is told no labels; leave it out")
    names = list(map(trained.spec.name_of, range(trained.spec.classes)))
    if _LABELS.value == "tfds":
        return {"class_names": names}
    paths, texts = output.labelled(_LABELS.value, drawing.labels, names.__getitem__)
    return {"paths": paths, "texts": texts}


def _larger(trained, drawing):
    """The run of --upsample. Raises errors.UserError where it cannot enlarge these images."""
    check = functools.partial(restoring.check_repairs, verb="superres")
    larger = runs.load(_UPSAMPLE.value, batch_size=_BATCH_SIZE.value, check=check)
    restoring.check_enlarges(larger, trained.spec.shape, _UPSAMPLE_NOISE.value)
    inputs.labels_of(drawing.labels, _NUM.value, larger.algorithm.classes)
    return larger


if __name__ == "__main__":
    command_line.run(main, required=("workdir", "out"))
