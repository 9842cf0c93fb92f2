"""Draws images from a run.

python -m experiments.sample --workdir=runs/ddpm --num=64 --seed=0 --out=grid.png
"""

from absl import flags
import jax
import numpy as np
import tqdm

from imagegen_jax import command_line
from imagegen_jax.generation import latents
from imagegen_jax.generation import output
from imagegen_jax.generation import sampling
from imagegen_jax.training import run
from imagegen_jax.training import sharding

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_OUT = flags.DEFINE_string("out", None, f"Where to: {output.FORMATS}.")
_NUM = flags.DEFINE_integer("num", 64, "How many images.")
_SEED = flags.DEFINE_integer("seed", 0, "Image i depends on the seed and i alone, whatever the batch size.")
_CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Step of the checkpoint; by default the latest.")
_EMA = flags.DEFINE_bool("ema", True, "Draw with the moving average of the parameters.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images drawn at once; by default the run's sample.batch_size.")
_SAMPLER = flags.DEFINE_string("sampler", None, "ddpm or ddim, instead of what the recipe says.")
_STEPS = flags.DEFINE_integer("steps", None, "Network evaluations an image, instead of what the recipe says.")
_LABEL = flags.DEFINE_integer("label", None, "The class that is drawn; by default all in turn, a row of the grid each.")
_TEMPERATURE = flags.DEFINE_list(
    "temperature", None, "Factor on the standard deviation of a VAE's prior; or one for each level of latents, the top's first."
)
_TRUNCATION = flags.DEFINE_float(
    "truncation", None, "Draw a GAN's noise within so many standard deviations: less variety, fewer failures."
)
_LATENTS = flags.DEFINE_enum(
    "latents",
    None,
    latents.KINDS,
    "What codes are drawn from: the family's prior, or what is fitted to training images' codes.",
)
_COMPONENTS = flags.DEFINE_integer("components", None, "Gaussians of --latents=gmm; by default 10.")
_LEAVES = flags.DEFINE_integer("leaves", None, "Leaves of --latents=tree, at most; by default 64.")


def main():
    """Checks what was asked for before anything is drawn or written."""
    command_line.check_at_least(num=1, batch_size=1, seed=0)
    fields = dict(
        sampler=_SAMPLER.value,
        steps=_STEPS.value,
        temperature=command_line.numbers("temperature"),
        truncation=_TRUNCATION.value,
    )
    asked = latents.Options(_LATENTS.value, _COMPONENTS.value, _LEAVES.value)
    loaded = run.load(_WORKDIR.value, _CHECKPOINT.value, _EMA.value)
    config, algorithm, state, step = loaded
    _, specs = run.load_config(_WORKDIR.value)
    options = latents.resolve(asked, algorithm, specs, _LABEL.value, **fields)
    output.check(_OUT.value)

    mesh = sharding.make_mesh(jax.device_count())
    wanted = () if _LABEL.value is None else (_LABEL.value,)
    draw, _ = latents.drawing(options, _WORKDIR.value, loaded, _EMA.value, specs, mesh, wanted)
    drawer = sampling.Drawer(algorithm, mesh, _BATCH_SIZE.value or config.sample.batch_size, draw)
    bar = tqdm.tqdm(total=_NUM.value, desc=f"step {step}", unit="image", disable=jax.process_index() != 0)

    def drawn():
        for batch in drawer.batches(state, _SEED.value, _NUM.value, label=_LABEL.value, **fields):
            bar.update(len(batch))
            yield batch

    output.save(_OUT.value, drawn(), sampling.labels(np.arange(_NUM.value), algorithm.classes, _LABEL.value))
    bar.close()


if __name__ == "__main__":
    command_line.run(main, required=("workdir", "out"))
