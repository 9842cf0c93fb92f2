"""Drawing images from a run."""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from imagegen_jax import errors
from imagegen_jax import rng
from imagegen_jax.api import companions
from imagegen_jax.generation import latents as latents_lib
from imagegen_jax.generation import requests as requests_lib
from imagegen_jax.generation import sampling
from imagegen_jax.training import run
from imagegen_jax.training import sharding


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Images that are drawn when they are asked for.

    Attributes:
      num: how many.
      request: {name: value} of the options and of 'label', as far as they were asked for.
      labels: (num,) int32, their classes; None where the run knows none.
      batches: (first=0) -> iterator of (n, height, width, channels) uint8 arrays, one after the other, from image `first` on.
      protocol: () -> {name: value}, what the images depend on beside the run and the labels, as JSON.
    """

    num: int
    request: dict[str, Any]
    labels: np.ndarray | None
    batches: Callable[..., Iterator[np.ndarray]]
    protocol: Callable[[], dict[str, Any]]


def prepare(trained: run.Run, num, seed=0, *, batch_size=None, latents=None, **request) -> Drawing:
    """Checks all that is asked for; nothing is drawn, fitted or written yet.

    Args:
      trained: the run.
      num: how many images.
      seed: image i depends on the seed, on i and on what is asked for alone, whatever the batch size.
      batch_size: images drawn at once; by default the run's sample.batch_size.
      latents: latents.Options or the name of a kind, what latents are drawn from; None leaves the choice to the run's family.
      **request: `label`, number or name of the class that is drawn, by default all in turn; and fields of
        trained.algorithm.Request, as values or as a person writes them: steps=50, temperature='0.7'. None is not asked for.

    Raises:
      errors.UserError: the run cannot draw what is asked for.
    """
    return prepare_each(trained, num, seed, [request], batch_size=batch_size, latents=latents)[0]


def prepare_each(trained, num, seed, requests, *, batch_size, latents, shares=lambda: None):
    """The Drawing of each of several requests, of the same companions compiled once.

    `shares` makes those of sampling.labels, where all classes are drawn.
    """
    errors.check_at_least({"num": num, "batch_size": batch_size}, num=1, batch_size=1)
    rng.check_seed(seed, "--seed")
    latents = latents if isinstance(latents, latents_lib.Options) else latents_lib.Options(latents)
    asked = [{name: value for name, value in request.items() if value is not None} for request in requests]
    typed = [requests_lib.typed(request, trained.algorithm, trained.spec) for request in asked]
    accompanied = companions.each(trained, typed)
    for request, ours in zip(typed, accompanied):
        chosen = latents_lib.resolve(latents, ours.run.algorithm, trained.spec, **request)

    @functools.cache
    def fitted(ours):
        mesh = sharding.make_mesh(jax.device_count())
        labels = [request["label"] for request in typed if "label" in request]
        draw, about = latents_lib.drawing(chosen, ours.run, mesh, labels)
        return sampling.Drawer(ours.run.algorithm, mesh, batch_size or trained.config.sample.batch_size, draw), about

    def drawing(request, ours):
        algorithm = ours.run.algorithm
        options = {name: value for name, value in request.items() if name != requests_lib.LABEL}
        own = shares() if algorithm.classes else None

        def batches(first=0):
            return fitted(ours)[0].batches(ours.run.state, seed, num, first, shares=own, **request)

        def protocol():
            sampler = algorithm.about_request(algorithm.Request(**options))
            return fitted(ours)[1] | {"seed": seed, "sampler": sampler} | ours.about()

        labels = sampling.labels(np.arange(num), algorithm.classes, request.get(requests_lib.LABEL), own)
        return Drawing(num, request, labels, batches, protocol)

    return [drawing(*both) for both in zip(typed, accompanied)]
