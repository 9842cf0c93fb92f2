"""Drawing images from a run."""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from imagegen_jax import errors
from imagegen_jax import progress
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
      request: {name: value} of the options, of 'label' and of 'prompt', as far as they were asked for.
      labels: (num,) int32, their classes; None where the run knows none.
      prompts: what they are told in turn; None where the run is told no texts, or captions.
      rows: (num,) int32, which row of a grid each belongs to, of a label or a prompt; None for no such order.
      row_names: of the rows, from the top.
      batches: (first=0) -> iterator of (n, height, width, channels) uint8 arrays, one after the other, from image `first` on.
      protocol: () -> {name: value}, what the images depend on beside the run and the labels, as JSON.
    """

    num: int
    request: dict[str, Any]
    labels: np.ndarray | None
    prompts: tuple[str, ...] | None
    rows: np.ndarray | None
    row_names: list[str]
    batches: Callable[..., Iterator[np.ndarray]]
    protocol: Callable[[], dict[str, Any]]

    def images(self):
        """(num, height, width, channels) uint8, all of them, behind a progress bar."""
        with progress.Progress(self.num, "image", "drawing") as bar:
            return np.concatenate(list(bar.over(self.batches())))


def prepare(trained: run.Run, num, seed=0, *, batch_size=None, latents=None, **request) -> Drawing:
    """Checks all that is asked for; nothing is drawn, fitted or written yet.

    Args:
      trained: the run.
      num: how many images.
      seed: image i depends on the seed, on i and on what is asked for alone, whatever the batch size.
      batch_size: images drawn at once; by default the run's sample.batch_size.
      latents: latents.Options or the name of a kind, what latents are drawn from; None leaves the choice to the run's family.
      **request: `label`, number or name of the class that is drawn, by default all in turn; `prompt`, a text or several that
        are drawn in turn, by default the run's sample.prompts; and fields of trained.algorithm.Request, as values or as a
        person writes them: steps=50, temperature='0.7'. None is not asked for.

    Raises:
      errors.UserError: the run cannot draw what is asked for.
    """
    return prepare_each(trained, num, seed, [request], batch_size=batch_size, latents=latents)[0]


def prepare_each(trained, num, seed, requests, *, batch_size, latents, shares=lambda: None, captions=None):
    """The Drawing of each of several requests, of the same companions compiled once.

    `shares` makes those of sampling.labels, where all classes are drawn. `captions` makes the (k, length) int32 tokens of texts
    where a run is told such and no prompt is asked for; by default those are the run's sample.prompts.
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
        options = requests_lib.options(request)
        label, prompts = request.get(requests_lib.LABEL), request.get(requests_lib.PROMPT)
        own = shares() if algorithm.classes else None
        if algorithm.text and not captions:
            prompts = prompts or trained.config.sample.prompts or ("",)

        def batches(first=0):
            texts = None
            if algorithm.text:
                texts = algorithm.text.tokens(prompts) if prompts else captions()
            told = dict(label=label, shares=own, texts=texts)
            return fitted(ours)[0].batches(ours.run.state, seed, num, first, **told, **options)

        def protocol():
            sampler = algorithm.about_request(algorithm.Request(**options))
            return fitted(ours)[1] | {"seed": seed, "sampler": sampler} | ours.about()

        labels = sampling.labels(np.arange(num), algorithm.classes, label, own)
        rows = sampling.rows(num, labels, prompts)
        name = trained.spec.name_of if labels is not None else (prompts or ("",)).__getitem__
        names = [] if rows is None else list(map(name, np.unique(rows)))
        return Drawing(num, request, labels, prompts, rows, names, batches, protocol)

    return [drawing(*both) for both in zip(typed, accompanied)]
