"""Draws images from a run.

python -m experiments.sample --workdir=runs/ddpm --num=64 --seed=0 --out=grid.png
"""

from absl import flags
import jax
import numpy as np

from imagegen_jax import command_line
from imagegen_jax import progress
from imagegen_jax import rng
from imagegen_jax.generation import drawing_flags
from imagegen_jax.generation import latents
from imagegen_jax.generation import output
from imagegen_jax.generation import requests
from imagegen_jax.generation import sampling
from imagegen_jax.training import run
from imagegen_jax.training import sharding

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_OUT = flags.DEFINE_string("out", None, f"Where to: {output.FORMATS}.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a folder that holds earlier images, and all that is in it.")
_NUM = flags.DEFINE_integer("num", 64, "How many images.")
_SEED = flags.DEFINE_integer("seed", 0, "Image i depends on the seed and i alone, whatever the batch size.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Step of the checkpoint, or best; by default the latest.")
_EMA = flags.DEFINE_bool("ema", True, "Draw with the moving average of the parameters.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images drawn at once; by default the run's sample.batch_size.")
drawing_flags.define()
flags.adopt_module_key_flags(drawing_flags)  # for --help


def main():
    """Checks what was asked for before anything is drawn or written."""
    command_line.check_at_least(num=1, batch_size=1)
    rng.check_seed(_SEED.value, "--seed")
    asked = drawing_flags.latents()
    trained = run.load(_WORKDIR.value, _CHECKPOINT.value, _EMA.value)
    algorithm, specs = trained.algorithm, trained.specs
    fields = requests.typed(drawing_flags.given(), algorithm, specs)
    label = fields.get("label")
    options = latents.resolve(asked, algorithm, specs, **fields)
    output.check(_OUT.value, overwrite=_OVERWRITE.value)

    mesh = sharding.make_mesh(jax.device_count())
    draw, _ = latents.drawing(options, trained, mesh, () if label is None else (label,))
    drawer = sampling.Drawer(algorithm, mesh, _BATCH_SIZE.value or trained.config.sample.batch_size, draw)
    bar = progress.Progress(_NUM.value, "image", f"step {trained.step}")

    def drawn():
        for batch in drawer.batches(trained.state, _SEED.value, _NUM.value, **fields):
            bar.update(len(batch))
            yield batch

    labels = sampling.labels(np.arange(_NUM.value), algorithm.classes, label)
    output.save(_OUT.value, drawn(), labels)
    bar.close()
    if labels is not None and _OUT.value.endswith(".png"):
        progress.tell(f"rows, from the top: {', '.join(map(specs[''].name_of, np.unique(labels)))}")


if __name__ == "__main__":
    command_line.run(main, required=("workdir", "out"))
