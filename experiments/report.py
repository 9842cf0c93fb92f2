"""Writes what a run's folder holds as one page, or several runs' scores as a leaderboard, to read without a network.

python -m experiments.report --workdir=runs/ddpm
python -m experiments.report --compare='runs/*' --out=leaderboard.html
"""

import itertools
import sys

from absl import flags
import jax

from imagegen_jax import command_line
from imagegen_jax import errors
from imagegen_jax import reports

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run that the page is about.")
_COMPARE = flags.DEFINE_list("compare", None, "Folders of runs to compare instead, or patterns of such: 'runs/*'.")
_OUT = flags.DEFINE_string(
    "out", None, "Where to, a path ending in .html; by default report.html in the workdir, or leaderboard.html here."
)


def main():
    """Writes a page."""
    if (_WORKDIR.value is None) == (_COMPARE.value is None):
        raise errors.UserError("give either --workdir, a run to report on, or --compare, several to compare")
    if _COMPARE.value is None:
        print(reports.report(_WORKDIR.value, _OUT.value))
    else:
        print(reports.leaderboard(_COMPARE.value, _OUT.value))


def _with_words(arguments):
    """The arguments, with `--compare a b c`, as a shell writes `--compare runs/*`, made `--compare=a,b,c`."""
    if "--compare" not in arguments:
        return arguments
    at = arguments.index("--compare")
    words = list(itertools.takewhile(lambda word: not word.startswith("--"), arguments[at + 1 :]))
    return [*arguments[:at], f"--compare={','.join(words)}", *arguments[at + 1 + len(words) :]]


if __name__ == "__main__":
    sys.argv = _with_words(sys.argv)
    jax.config.update("jax_platforms", "cpu")  # nothing is computed, and an accelerator may be busy with the run
    command_line.run(main)
