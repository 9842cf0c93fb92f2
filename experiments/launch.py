"""Starts several processes of a training on this machine, one for each GPU or to try what a job of several hosts does.

python -m experiments.launch --processes=2 -- --config=configs/ddpm.py:smoke --workdir=runs/smoke

On several hosts start experiments.main itself, once on each, with --distributed.
"""

import sys

from absl import flags

from imagegen_jax import command_line
from imagegen_jax import errors
from imagegen_jax.api import launching

_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes.")
_DEVICES = flags.DEFINE_integer("devices", 1, "Devices of each process: GPUs of this machine, or CPU devices, which are made.")


def main(words):
    """Starts them, and ends as they do."""
    command_line.check_at_least(processes=1, devices=1)
    if not words:
        raise errors.UserError("there is nothing to start: write -- and the flags of experiments.main behind it")
    sys.exit(launching.launch(["-m", "experiments.main", *words], _PROCESSES.value, _DEVICES.value))


if __name__ == "__main__":
    command_line.run_others(main, required=("processes",))
