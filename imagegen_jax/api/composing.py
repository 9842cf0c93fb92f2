"""Does a run that is told texts compose what it knows: do its images show what the prompts combine?"""

import dataclasses
import functools

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
from imagegen_jax.training import sharding


def evaluate(trained, num=20, *, features="fashion", seed=0, batch_size=None, **request):
    """Draws images of each combination, by captions in all words and orders, and judges them.

    Combinations are of a colour and a class, of a run on 'tinted:SPEC'; or of a figure and a skin tone, of one on 'emoji:FONT'.

    Args:
      trained: a run.Run that is told texts.
      num: images of each combination.
      features: of the judge (evaluation/features.py): a classifier of the grey images, or what sees emoji.
      seed: of the images and of the choice of captions.
      batch_size: images drawn at once; by default the run's sample.batch_size.
      **request: options of drawing.

    Returns:
      What compositions.judged or figures.judged returns, with 'protocol'.

    Raises:
      errors.UserError: the run is of other images or told no texts, or the judge takes others.
    """
    for name in {"prompt", "label"} & {name for name, value in request.items() if value is not None}:
        raise errors.UserError(f"--{name} is chosen here, one for each combination: leave it out")
    prompts, judged, shape = _asked(trained)(trained, num, np.random.default_rng(seed))
    extractor = features_lib.Extractor(features_lib.named(features), sharding.make_mesh(jax.device_count()), 64)
    extractor.check(shape)
    drawing = sampling.prepare(trained, len(prompts), seed, prompt=tuple(prompts), batch_size=batch_size, **request)
    images = drawing.images()
    protocol = drawing.protocol() | {"step": trained.step, "prompts": len(set(prompts)), "judge": extractor.features.protocol}
    return judged(images, extractor) | {"protocol": protocol}


def _asked(trained):
    """What asks of the run's images: (run, images of a combination, generator) -> (prompts, their judge, shape it sees)."""
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
    return prompts, functools.partial(compositions.judged, asked), (*trained.spec.shape[:2], 1)


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
    return prompts, functools.partial(figures.judged, asked, glyphs), trained.spec.shape


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
