"""Does a run that is told texts compose what it knows: are colour and class of its images those of the prompts?"""

import dataclasses

import jax
import numpy as np

from imagegen_jax import errors
from imagegen_jax.api import sampling
from imagegen_jax.data import captions
from imagegen_jax.data import held_out
from imagegen_jax.data import sources
from imagegen_jax.data import tinted
from imagegen_jax.evaluation import compositions
from imagegen_jax.evaluation import features as features_lib
from imagegen_jax.training import sharding


def evaluate(trained, num=20, *, features="fashion", seed=0, batch_size=None, **request):
    """Draws images of each combination of a colour and a class, by captions in all words and orders, and judges them.

    Args:
      trained: a run.Run on 'tinted:SPEC' that is told texts.
      num: images of each combination.
      features: of the judge of classes, a classifier of the grey images (evaluation/features.py).
      seed: of the images and of the choice of captions.
      batch_size: images drawn at once; by default the run's sample.batch_size.
      **request: options of drawing.

    Returns:
      What compositions.judged returns, with 'protocol'.

    Raises:
      errors.UserError: the run is of other images or told no texts, or the judge takes others.
    """
    for name in {"prompt", "label"} & {name for name, value in request.items() if value is not None}:
        raise errors.UserError(f"--{name} is chosen here, one for each combination: leave it out")
    asked, prompts = _asked(trained, num, seed)
    extractor = features_lib.Extractor(features_lib.named(features), sharding.make_mesh(jax.device_count()), 64)
    extractor.check((*trained.spec.shape[:2], 1))
    drawing = sampling.prepare(trained, len(prompts), seed, prompt=prompts, batch_size=batch_size, **request)
    images = drawing.images()
    protocol = drawing.protocol() | {"step": trained.step, "prompts": len(set(prompts)), "judge": extractor.features.protocol}
    return compositions.judged(asked, images, extractor) | {"protocol": protocol}


def _asked(trained, num, seed):
    """(the compositions.Combination of each image, its prompt)."""
    data, names = trained.config.data, trained.spec.class_names
    if not data.source.startswith("tinted:") or not names or not trained.algorithm.text:
        raise errors.UserError(
            f"{trained.workdir} was trained on {data.source}: combinations of a colour and a class are judged of a run that is "
            "told captions of tinted:SPEC, such as of configs/text_to_image.py"
        )
    whole = sources.open_source(dataclasses.replace(data, hold_out=0.0), "train")
    left_out = held_out.chosen(whole.combinations, data.hold_out)
    rng, asked, prompts = np.random.default_rng(seed), [], []
    for colour, word in enumerate(tinted.PALETTE):
        for label, thing in enumerate(names):
            one = compositions.Combination(colour, label, f"{word} {thing}" not in left_out)
            asked += [one] * num
            prompts += rng.choice(captions.whole(thing, word), num).tolist()
    return asked, tuple(prompts)


def text(report):
    """Lines for people."""
    lines = []
    for name, known in (("seen", "that training showed"), ("unseen", "that it never did")):
        if found := report.get(name):
            shares = (
                f"{what} {100 * found[what]['value']:.1f} %{_interval(found[what])}" for what in ("colour", "class", "both")
            )
            lines.append(f"combinations {known}, {found['images']} images: {', '.join(shares)}")
    return "\n".join(lines)


def _interval(share):
    low, high = share["interval"]
    return f" [{100 * low:.1f}, {100 * high:.1f}]"
