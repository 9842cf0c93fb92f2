"""Drawing images from a run."""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses

import jax
import numpy as np

from imagegen_jax import errors
from imagegen_jax import rng
from imagegen_jax.generation import latents as latents_lib
from imagegen_jax.generation import requests
from imagegen_jax.generation import sampling
from imagegen_jax.training import run
from imagegen_jax.training import sharding


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Images that are drawn when they are asked for.

    Attributes:
      num: how many.
      labels: (num,) int32, their classes; None where the run knows none.
      batches: () -> iterator of (n, height, width, channels) uint8 arrays, one after the other.
    """

    num: int
    labels: np.ndarray | None
    batches: Callable[[], Iterator[np.ndarray]]


def prepare(trained: run.Run, num, seed=0, *, batch_size=None, label=None, latents=None, **options) -> Drawing:
    """Checks all that is asked for; nothing is drawn, fitted or written yet.

    Args:
      trained: the run.
      num: how many images.
      seed: image i depends on the seed, on i and on what is asked for alone, whatever the batch size.
      batch_size: images drawn at once; by default the run's sample.batch_size.
      label: number or name of the class that is drawn; None for all in turn.
      latents: latents.Options, what latents are drawn from; None leaves the choice to the run's family.
      **options: fields of trained.algorithm.Request, as values or as a person writes them: steps=50, temperature='0.7'.

    Raises:
      errors.UserError: the run cannot draw what is asked for.
    """
    for name, value in (("num", num), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise errors.UserError(f"--{name} is {value}: it must be at least 1")
    rng.check_seed(seed, "--seed")
    algorithm = trained.algorithm
    asked = options if label is None else options | {"label": label}
    fields = requests.typed(asked, algorithm, trained.specs)
    label = fields.get("label")
    chosen = latents_lib.resolve(latents or latents_lib.Options(), algorithm, trained.specs, **fields)

    def batches():
        mesh = sharding.make_mesh(jax.device_count())
        draw, _ = latents_lib.drawing(chosen, trained, mesh, () if label is None else (label,))
        drawer = sampling.Drawer(algorithm, mesh, batch_size or trained.config.sample.batch_size, draw)
        return drawer.batches(trained.state, seed, num, **fields)

    return Drawing(num, sampling.labels(np.arange(num), algorithm.classes, label), batches)
