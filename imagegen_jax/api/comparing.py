"""How near restored images come to the true ones, beside what needs no model."""

import jax
import numpy as np
from PIL import Image

from imagegen_jax import images as images_lib
from imagegen_jax import similarity
from imagegen_jax.data import domains
from imagegen_jax.data import pipeline
from imagegen_jax.diffusion import inverse_problems
from imagegen_jax.evaluation import features as features_lib
from imagegen_jax.training import sharding

_MOST = 10_000  # training images that the nearest is one of
_BATCH = 250
_HEADINGS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "l1": "L1", "perceptual": "perceptual"}


def scorer(truth, hidden=None, features=None):
    """What scores images against the true ones.

    Args:
      truth: (n, h, w, c) uint8.
      hidden: (n, h, w) bool, the hole; None for all.
      features: of the perceptual distance, one of features.NAMES; None for 'fashion' where that takes such images.

    Returns:
      (n, h, w, c) uint8 images -> {'psnr': dB, 'ssim', 'l1': mean absolute difference in the hole, of pixels from 0 to 1,
      'perceptual': Euclidean distance of the features}, each (n,) float64; without features no 'perceptual'.

    Raises:
      errors.UserError: there are no such features, or not of such images.
    """
    found = features_lib.named(features or "fashion")
    extract = None
    if features or found.shape == truth.shape[1:]:
        extract = features_lib.Extractor(found, sharding.make_mesh(jax.device_count()), _BATCH)
        known = extract(truth)[0]
    hole = np.ones(truth.shape[:3], bool) if hidden is None else hidden

    def scores(images):
        difference = np.abs(images.astype(np.float64) - truth).mean(-1) / 255
        found = similarity.scores(*map(images_lib.to_float, (images, truth)))
        found["l1"] = (difference * hole).sum((1, 2)) / hole.sum((1, 2))
        if extract is not None:
            found["perceptual"] = np.linalg.norm(extract(images)[0].astype(np.float64) - known, axis=-1)
        return {name: np.asarray(found[name], np.float64) for name in _HEADINGS if name in found}

    return scores


def trivial(trained, problem, y):
    """Answers that need no model, {name: (n, h, w, c) uint8}.

    'mean fill' is the best linear estimate around the mean of the training images, as if their pixels were independent;
    'nearest training image' that which, damaged alike, would be most like y, with what is known of y in its place; 'bicubic'
    enlarges; and 'as it is' is y.

    Args:
      trained: the run, whose data they are.
      problem: the damages.Problem.
      y: (n, h', w', c') uint8.
    """
    a = problem.operator
    observed = np.asarray(a.observed(images_lib.to_float(y)), np.float64)
    singular = np.broadcast_to(a.singular, observed.shape).astype(np.float64)
    mean, nearest = _of_training(trained, a, singular, observed)
    variance = inverse_problems.DATA_STD**2
    gain = variance * singular / (variance * singular**2 + problem.noise**2)
    missing = observed - singular * np.asarray(a.components(mean[None]))
    found = {"mean fill": np.asarray(images_lib.to_uint8(mean + a.image(gain.astype(np.float32) * missing.astype(np.float32))))}
    found["nearest training image"] = nearest
    if problem.hidden is not None:
        found = {name: np.where(problem.hidden[..., None], image, y) for name, image in found.items()}
    elif y.shape[1:3] != trained.spec.shape[:2]:
        found["bicubic"] = np.stack([_bicubic(image, trained.spec.shape) for image in y])
    elif y.shape[1:] == trained.spec.shape:
        found["as it is"] = y
    return found


def text(scores):
    """{name: scores} as a table of their means, with standard errors."""
    width = max(map(len, scores))
    names = list(next(iter(scores.values())))
    lines = [f"{'':{width}}" + "".join(f"  {_HEADINGS[name]:>15}" for name in names)]
    for row, found in scores.items():
        lines.append(f"{row:{width}}" + "".join(f"  {_mean(found[name]):>15}" for name in names))
    return "\n".join(lines)


def _mean(values):
    error = f" ± {values.std(ddof=1) / len(values) ** 0.5:.2g}" if len(values) > 1 else ""
    return f"{values.mean():.4g}{error}"


def _of_training(trained, a, singular, observed):
    """(the mean image (h, w, c) float32 in [-1, 1], the image x with the least |U^T y - S V^T x| for each y, uint8)."""
    domain = domains.open_domains(trained.config.data, "train", trained.spec)
    numbers = pipeline.fair_order(len(domain.source))[:_MOST]
    n = len(observed)
    squares, products = (array.reshape(n, -1) for array in (singular**2, singular * observed))
    best, chosen, total = np.full(n, np.inf), np.zeros(n, int), 0.0
    for start in range(0, len(numbers), _BATCH):
        x = images_lib.to_float(domain.reader(list(map(int, numbers[start : start + _BATCH])))["image"])
        c = np.asarray(a.components(x), np.float64).reshape(len(x), -1)
        distances = squares @ (c**2).T - 2 * products @ c.T
        nearest = distances.argmin(1)
        nearer = distances.min(1) < best
        best, chosen = np.where(nearer, distances.min(1), best), np.where(nearer, numbers[start + nearest], chosen)
        total = total + np.asarray(x, np.float64).sum(0)
    return (total / len(numbers)).astype(np.float32), domain.reader(list(map(int, chosen)))["image"]


def _bicubic(image, shape):
    channels = [
        Image.fromarray(channel).resize(shape[1::-1], Image.Resampling.BICUBIC) for channel in np.moveaxis(image, -1, 0)
    ]
    return np.stack(list(map(np.asarray, channels)), -1)
