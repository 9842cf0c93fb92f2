"""What a run's folder holds of steps that will be trained anew."""

import json
import re
import time

import jax
from jax.experimental import multihost_utils

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax.training import checkpoint
from imagegen_jax.training import logging
from imagegen_jax.training import run

_FOLDERS = (run.CHECKPOINTS, "samples", "panels", "eval", "latents")


def set_aside(workdir, step, foreign=False):
    """Moves what was made of later steps to `superseded-<time>/` in the run's folder, if training is to pass there again.

    That is so where there are later checkpoints. All of it goes, so that no report shows it beside what comes: checkpoints,
    grids, panels, scores and fits; of the metrics a copy. What a killed run left behind its last checkpoint stays, since the
    same training writes the same again.

    Args:
      workdir: the run's folder.
      step: of the checkpoint that training continues from.
      foreign: whether the folder holds another experiment's beginning, which is moved whatever there is.

    Raises:
      errors.UserError: it cannot be moved.
    """
    workdir = files.to_path(workdir)
    if jax.process_index() == 0:
        later = [path for name in _FOLDERS for path in sorted((workdir / name).glob("*")) if _step(path) > step]
        if later and (foreign or any(path.parent.name == run.CHECKPOINTS for path in later)):
            aside = workdir / f"superseded-{time.strftime('%Y%m%d-%H%M%S')}"
            try:
                _move(workdir, later, aside)
            except OSError as error:
                raise errors.UserError(f"cannot move later steps to {aside}: {error.strerror or error}") from error
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("set_aside")  # the others look at the folder only when it is as it will stay


def _move(workdir, later, aside):
    for path in later:
        files.move(path, aside / path.relative_to(workdir))
    if (workdir / logging.METRICS).exists():
        (aside / logging.METRICS).write_bytes((workdir / logging.METRICS).read_bytes())


def _step(path):
    """The step that a file tells of, by its name or, of scores under a name of their own, by its content; -1 for none."""
    if path.parent.name == run.CHECKPOINTS:  # Orbax clears up what it did not finish
        return next((step for step in checkpoint.available_steps(path.parent) if str(step) == path.name), -1)
    if number := re.match(r"\d+(?=[-.])", path.name):
        return int(number[0])
    if path.suffix != ".json":
        return -1
    try:
        content = json.loads(path.read_text())
        return max(int(one["label"]["step"]) for one in (content if isinstance(content, list) else [content]))
    except (OSError, ValueError, KeyError, TypeError):
        return -1
