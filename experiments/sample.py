"""Draws images from a run.

python -m experiments.sample --workdir=runs/ddpm --num=64 --seed=0 --out=grid.png
"""

from absl import flags
import jax
import tqdm

from imagegen_jax import command_line
from imagegen_jax import errors
from imagegen_jax.algorithms import base
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


def main():
    """Checks what was asked for before anything is drawn or written."""
    for name, flag, least in (("num", _NUM, 1), ("batch_size", _BATCH_SIZE, 1), ("seed", _SEED, 0)):
        if flag.value is not None and flag.value < least:
            raise errors.UserError(f"--{name} is {flag.value}: it must be at least {least}")
    config, algorithm, state, step = run.load(_WORKDIR.value, _CHECKPOINT.value, _EMA.value)
    options = dict(sampler=_SAMPLER.value, steps=_STEPS.value)
    algorithm.check_request(base.SampleRequest(index=None, **options))
    output.check(_OUT.value)

    drawer = sampling.Drawer(algorithm, sharding.make_mesh(jax.device_count()), _BATCH_SIZE.value or config.sample.batch_size)
    bar = tqdm.tqdm(total=_NUM.value, desc=f"step {step}", unit="image", disable=jax.process_index() != 0)

    def drawn():
        for batch in drawer.batches(state, _SEED.value, _NUM.value, **options):
            bar.update(len(batch))
            yield batch

    output.save(_OUT.value, drawn())
    bar.close()


if __name__ == "__main__":
    command_line.run(main, required=("workdir", "out"))
