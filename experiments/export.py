"""Writes the parameters of a run to one file that other programs read.

python -m experiments.export --workdir=runs/classifier --out=classifier.safetensors

The names of the arrays are their paths, such as 'unet/conv_in/kernel'. What a family needs beside parameters stands under
'extra/': batch statistics, a codebook. The metadata hold the run's config.json under 'run'.
"""

from absl import flags

from imagegen_jax import command_line
from imagegen_jax.api import runs

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_OUT = flags.DEFINE_string("out", None, "Where to: a path ending in .safetensors.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Step of the checkpoint, or best; by default the latest.")
_EMA = flags.DEFINE_flag(command_line.EmaFlag("Write"))


def main():
    """Loads, and writes."""
    runs.load(_WORKDIR.value, _CHECKPOINT.value, _EMA.value).export(_OUT.value)


if __name__ == "__main__":
    command_line.run(main, required=("workdir", "out"))
