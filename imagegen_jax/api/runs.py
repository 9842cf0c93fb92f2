"""A trained run, and what can be asked of it."""

import dataclasses

import numpy as np

from imagegen_jax.api import sampling
from imagegen_jax.api import training
from imagegen_jax.training import interruption
from imagegen_jax.training import run


@dataclasses.dataclass(frozen=True)
class Run(run.Run):
    """A trained run. All images are (n, height, width, channels) uint8; what cannot be asked for is an errors.UserError."""

    def sample(self, num: int, seed: int = 0, **request) -> np.ndarray:
        """Draws images: the array of sampling.prepare, whose arguments these are."""
        return np.concatenate(list(sampling.prepare(self, num, seed, **request).batches()))


def load(workdir, checkpoint=None, ema=True) -> Run:
    """The run in a folder.

    Args:
      workdir: the folder.
      checkpoint: number of a step, 'best' or 'latest'; None for the latest.
      ema: with the moving averages in place of the parameters.

    Raises:
      errors.UserError: it is not the folder of a run, or the checkpoint cannot be read.
    """
    return Run(**vars(run.load(workdir, checkpoint, ema)))


def train(config, workdir, checkpoint=None) -> Run:
    """Trains a config to its end, or goes on with the run in the folder, and returns the run.

    Args:
      config: the ConfigDict of a recipe, such as `configs.ddpm.get_config('smoke')`, or a config.Experiment.
      workdir: folder of the run.
      checkpoint: continue from this step, or from 'best'; what is later is moved aside.

    Raises:
      errors.UserError: see training.train.
    """
    with interruption.Interruption() as stop:
        training.train(config, workdir, stop, checkpoint)
    return load(workdir)
