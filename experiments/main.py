"""Trains a recipe, or continues a run that was stopped.

python -m experiments.main --config=configs/ddpm.py --workdir=runs/ddpm
"""

import sys

from absl import flags
from ml_collections import config_flags

from imagegen_jax import command_line
from imagegen_jax.api import training
from imagegen_jax.training import interruption
from imagegen_jax.training import profiling

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A recipe and its variant, such as configs/ddpm.py or configs/ddpm.py:smoke; --config.KEY=VALUE changes a key.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; one that holds checkpoints is continued.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Continue from this step, or best; what is later is moved aside.")
_PROFILE = flags.DEFINE_string("profile", None, "Record so many steps from one on, STEP:STEPS such as 100:5, to profile/.")


def main():
    """Trains until the end or until a signal asks to stop; either way what was trained is saved."""
    profile = profiling.steps_of(_PROFILE.value)
    with interruption.Interruption() as stop:
        try:
            training.train(_CONFIG.value, _WORKDIR.value, stop, _CHECKPOINT.value, profile)
        except interruption.StopRequested:
            print("stopped before the first step: nothing is lost, the same command starts again", file=sys.stderr)
        command_line.finish(stop.abandoned)


if __name__ == "__main__":
    command_line.run(main, required=("config", "workdir"))
