"""A trained run, and what can be asked of it."""

import dataclasses
import functools

import jax
import numpy as np
from safetensors import numpy as safetensors

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax.api import editing
from imagegen_jax.api import restoring
from imagegen_jax.api import sampling
from imagegen_jax.api import sweeping
from imagegen_jax.api import training
from imagegen_jax.generation import latent_space
from imagegen_jax.generation import redrawing
from imagegen_jax.training import checkpoint as checkpoint_lib
from imagegen_jax.training import interruption
from imagegen_jax.training import post_hoc
from imagegen_jax.training import run
from imagegen_jax.training import sharding


@dataclasses.dataclass(frozen=True)
class Run(run.Run):
    """A trained run. All images are (n, height, width, channels) uint8; what cannot be asked for is an errors.UserError.

    Attributes:
      batch_size: images encoded, or decoded, at once; None for the config's sample.batch_size.
    """

    batch_size: int | None = None

    encode, decode, reconstruct = editing.encode, editing.decode, editing.reconstruct
    interpolate, traverse, attribute = editing.interpolate, editing.traverse, editing.attribute
    invert, blend, vary = editing.invert, editing.blend, restoring.vary
    inpaint, outpaint, superres = restoring.inpaint, restoring.outpaint, restoring.superres
    colorize, deblur, denoise = restoring.colorize, restoring.deblur, restoring.denoise
    enlarge_drawn = restoring.enlarge_drawn
    translate, translate_files = editing.translate, editing.translate_files

    def sample(self, num: int, seed: int = 0, **request) -> np.ndarray:
        """Draws images: the array of sampling.prepare, whose arguments these are."""
        return np.concatenate(list(sampling.prepare(self, num, seed, **request).batches()))

    def evaluate(self, **options):
        """Scores the images that it draws: the report of scoring.evaluate, whose arguments these are."""
        from imagegen_jax.api import scoring  # here, since SciPy and the networks of scores take their time to import

        return scoring.evaluate(self, **options)

    def export(self, path) -> None:
        """Writes the arrays that other programs need (run.named_arrays) to a file ending in .safetensors.

        Its metadata have the run's config.json under 'run', and 'step'.
        """
        out = files.to_path(path)
        if out.suffix != ".safetensors":
            raise errors.UserError(f"--out={out}: give a path ending in .safetensors")
        metadata = {"run": run.to_json(self.config, self.spec), "step": str(self.step)}
        with files.atomic_write(out, f"--out={out}: cannot write it") as temporary:
            safetensors.save_file(run.named_arrays(self.state), temporary, metadata)

    @property
    def at_once(self) -> int:
        """Images that are drawn, or encoded, or decoded, at once."""
        return self.batch_size or self.config.sample.batch_size

    @functools.cached_property
    def codec(self):
        """The latent_space.Codec of the run, which is compiled once."""
        return self._codec_of(self.algorithm)

    @functools.cached_property
    def codec_by_noise(self):
        """(request, prompt) -> the Codec of images and the noise that they are drawn from, compiled once for each request."""

        @functools.cache
        def codec(request, prompt):
            return self._codec_of(redrawing.Inversions(self.algorithm, request, prompt))

        return codec

    def _codec_of(self, algorithm):
        return latent_space.Codec(algorithm, self.state, sharding.make_mesh(jax.device_count()), self.at_once)


def load(workdir, checkpoint=None, ema=True, batch_size=None, check=None) -> Run:
    """The run in a folder.

    Args:
      workdir: the folder.
      checkpoint: number of a step, 'best' or 'latest'; None for the latest.
      ema: with the moving averages in place of the parameters; a number for their power-function averages of that width
        (post_hoc.load), of a run with config.ema.widths.
      batch_size: see Run.
      check: see training.run.load.

    Raises:
      errors.UserError: it is not the folder of a run, the checkpoint cannot be read, or it has no such average.
    """
    found = run.load if isinstance(ema, bool) else post_hoc.load
    return Run(**vars(found(workdir, checkpoint, ema, check=check)), batch_size=batch_size)


def load_each(workdir, checkpoint=None, ema=True):
    """Yields what `load` returns; of checkpoint='all' each in turn."""
    steps = checkpoint_lib.available_steps(files.to_path(workdir) / run.CHECKPOINTS) if checkpoint == "all" else [checkpoint]
    for step in steps or [None]:  # where there is none, to load the latest is the error that says so
        yield load(workdir, step, ema)


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


def sweep(config, grid, workdir, metric="eval/loss"):
    """Trains a config with each combination of some values, and returns what came of it; see sweeping.sweep."""
    with interruption.Interruption() as stop:
        return sweeping.sweep(config, grid, workdir, stop, metric)
