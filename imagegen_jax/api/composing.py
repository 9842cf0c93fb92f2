"""Does a run that is told texts compose what it knows: do its images show what the prompts combine?"""

from collections.abc import Callable
import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np

from imagegen_jax import errors
from imagegen_jax.api import sampling
from imagegen_jax.data import captions
from imagegen_jax.data import domains
from imagegen_jax.data import emoji
from imagegen_jax.data import held_out
from imagegen_jax.data import sources
from imagegen_jax.data import tinted
from imagegen_jax.evaluation import compositions
from imagegen_jax.evaluation import features as features_lib
from imagegen_jax.evaluation import figures
from imagegen_jax.generation import output
from imagegen_jax.training import sharding

_SHOWN, _COLUMNS, _ROWS = 8, 16, 12  # of a picture: images of a combination, and at most so many in all


class _Task(NamedTuple):
    """What is asked of a run.

    Attributes:
      asked: of each image, with `seen`; those of a combination stand together.
      prompts: of each image.
      judged: (images, extractor) -> report.
      shape: of the images that the extractor sees.
      truth: (combinations, h, w, c) uint8, what each looks like; None where there is no such.
    """

    asked: list
    prompts: list
    judged: Callable
    shape: tuple[int, int, int]
    truth: np.ndarray | None = None


def evaluate(trained, num=20, *, features="fashion", seed=0, batch_size=None, picture=None, **request):
    """Draws images of each combination, by captions in all words and orders, and judges them.

    Combinations are of a colour and a class, of a run on 'tinted:SPEC'; or of a figure and a skin tone, of one on 'emoji:FONT'.

    Args:
      trained: a run.Run that is told texts.
      num: images of each combination.
      features: of the judge (evaluation/features.py): a classifier of the grey images, or what sees emoji.
      seed: of the images and of the choice of captions.
      batch_size: images drawn at once; by default the run's sample.batch_size.
      picture: where to save images of combinations that training never showed, behind the true glyphs of emoji, as PNG; None
        for nowhere.
      **request: options of drawing.

    Returns:
      What compositions.judged or figures.judged returns, with 'protocol'.

    Raises:
      errors.UserError: the run is of other images or told no texts, or the judge takes others.
    """
    for name in {"prompt", "label"} & {name for name, value in request.items() if value is not None}:
        raise errors.UserError(f"--{name} is chosen here, one for each combination: leave it out")
    task = _asked(trained)(trained, num, np.random.default_rng(seed))
    extractor = features_lib.Extractor(features_lib.named(features), sharding.make_mesh(jax.device_count()), 64)
    extractor.check(task.shape)
    prompts = tuple(task.prompts)
    drawing = sampling.prepare(trained, len(prompts), seed, prompt=prompts, batch_size=batch_size, **request)
    images = drawing.images()
    if picture:
        _show(picture, task, images.reshape(-1, num, *images.shape[1:]))
    protocol = drawing.protocol() | {"step": trained.step, "prompts": len(set(prompts)), "judge": extractor.features.protocol}
    return task.judged(images, extractor) | {"protocol": protocol}


def _show(path, task, images):
    """Saves some of (combinations, images of each, h, w, c) that were never seen, of all where all were."""
    unseen = [i for i, one in enumerate(task.asked[:: images.shape[1]]) if not one.seen] or range(len(images))
    shown = images[:, :_SHOWN] if task.truth is None else np.concatenate([task.truth[:, None], images[:, :_SHOWN]], 1)
    at_once = max(_COLUMNS // shown.shape[1], 1)
    chosen = np.linspace(0, len(unseen) - 1, min(at_once * _ROWS, len(unseen))).astype(int)
    blocks = shown[np.asarray(unseen)[chosen]]
    output.save_grid(path, blocks.reshape(-1, *shown.shape[2:]), at_once * shown.shape[1])


def _asked(trained):
    """What asks of the run's images: (run, images of a combination, generator) -> _Task."""
    source = trained.config.data.source.partition(":")[0]
    if trained.algorithm.text and trained.spec.shape[-1] == 3:
        if source == "tinted" and trained.spec.class_names:
            return _of_tinted
        if source == "emoji":
            return _of_emoji
    raise errors.UserError(
        f"{trained.workdir} was trained on {trained.config.data.source}: combinations are those of a run that is told captions "
        "of tinted:SPEC, whose images have a colour and a class, or of emoji in colour, such as of configs/text_to_image.py"
    )


def _of_tinted(trained, num, rng):
    data, names = trained.config.data, trained.spec.class_names
    whole = sources.open_source(dataclasses.replace(data, hold_out=0.0), "train")
    left_out = held_out.chosen(whole.combinations, data.hold_out)
    asked, prompts = [], []
    for colour, word in enumerate(tinted.PALETTE):
        for label, thing in enumerate(names):
            one = compositions.Combination(colour, label, f"{word} {thing}" not in left_out)
            asked += [one] * num
            prompts += rng.choice(captions.whole(thing, word), num).tolist()
    return _Task(asked, prompts, functools.partial(compositions.judged, asked), (*trained.spec.shape[:2], 1))


def _of_emoji(trained, num, rng):
    data = trained.config.data
    whole = domains.open_domains(dataclasses.replace(data, hold_out=0.0), "train", trained.spec)
    source, tones = whole.source, range(emoji.CLASSES.index("mixed"))
    left_out = held_out.chosen(source.combinations, data.hold_out)
    records = {}  # {figure: {tone: number}}
    for number, (figure, tone) in enumerate(zip(source.figures, source.labels)):
        if figure and tone in tones:
            records.setdefault(figure, {}).setdefault(tone, number)
    of_all = [record[tone] for record in records.values() if len(record) == len(tones) for tone in tones]
    glyphs = whole.reader(of_all)["image"].reshape(-1, len(tones), *trained.spec.shape)
    asked, prompts = [], []
    for i, number in enumerate(of_all):
        asked += [figures.Asked(*divmod(i, len(tones)), source.combinations[number] not in left_out)] * num
        prompts += rng.choice(source.captions[number], num).tolist()
    judged = functools.partial(figures.judged, asked, glyphs)
    return _Task(asked, prompts, judged, trained.spec.shape, glyphs.reshape(-1, *trained.spec.shape))


def text(report):
    """Lines for people."""
    lines = []
    for name, known in (("seen", "that training showed"), ("unseen", "that it never did")):
        if found := report.get(name):
            shares = (f"{what} {100 * one['value']:.1f} %{_interval(one)}" for what, one in found.items() if what != "images")
            lines.append(f"combinations {known}, {found['images']} images: {', '.join(shares)}")
    return "\n".join(lines)


def _interval(share):
    low, high = share["interval"]
    return f" [{100 * low:.1f}, {100 * high:.1f}]"
