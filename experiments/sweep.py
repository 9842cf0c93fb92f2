r"""Trains a recipe with each combination of some values, one after the other, and says which did best.

python -m experiments.sweep --config=configs/ddpm.py --config.duration='1000 steps' --workdir=runs/sweep \
    --grid=optimizer.lr:1e-3,2e-3 --grid=optimizer.b2:.99,.999

The same command goes on with a sweep that was stopped. It leaves sweep.json, and sweep.png with the curves.
"""

from absl import flags
from ml_collections import config_flags

from imagegen_jax import command_line
from imagegen_jax.api import sweeping
from imagegen_jax.training import interruption

_CONFIG = config_flags.DEFINE_config_file("config", None, "A recipe and its variant; --config.KEY=VALUE changes a key of all.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder in which each training has a folder.")
_GRID = flags.DEFINE_multi_string("grid", None, "A key and its values, such as optimizer.lr:1e-3,2e-3; several multiply.")
_METRIC = flags.DEFINE_string("metric", "eval/loss", "Of metrics.jsonl, by which the best comes first.")


def main():
    """Trains, and prints the table."""
    with interruption.Interruption() as stop:
        try:
            results = sweeping.sweep(_CONFIG.value, _GRID.value, _WORKDIR.value, stop, _METRIC.value)
            print(sweeping.table(_METRIC.value, results))
        except interruption.StopRequested:
            pass
        command_line.finish(stop.abandoned)


if __name__ == "__main__":
    command_line.run(main, required=("config", "workdir", "grid"))
