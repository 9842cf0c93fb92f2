"""How far from test images, and how varied, a run's images are while it trains."""

import functools

import numpy as np

from imagegen_jax import progress
from imagegen_jax.evaluation import distances
from imagegen_jax.evaluation import prdc
from imagegen_jax.evaluation import scoring

_ALIKE = 0.01  # quantile of the distances between neighbouring test images; lower ones are a matter of single images
_EXPECTED = 5  # images of a class; a draw that expects so many has none with a probability of exp(-5), under 1 %
_PRESENT = 0.1  # of the expected images; what a classifier takes for another class by mistake is fewer

# Real images have a few per cent of duplicates at most and cover all classes, so that neither limit is met by chance. Images of
# a single class of Fashion-MNIST, with the classifier's mistakes, cover three of the ten at most.
_MOST_DUPLICATES = 0.5
_LEAST_COVERED = 0.5


def names(classes, suffix):
    """What `Distances` may measure, `classes_covered` where the features' network tells classes."""
    measured = ("fid", "kid", "duplicates", *["classes_covered"] * classes)
    return [f"eval/{name}{suffix}" for name in measured]


class Distances:
    """Generated images against test images by a few cheap numbers; experiments.evaluate has more, and intervals."""

    def __init__(self, extractor, test_images):
        """Prepares the measurement; the features of the test images are computed at the first call.

        Args:
          extractor: a features.Extractor.
          test_images: an image_sets.ImageSet, in an order in which the first so many are a fair draw.

        Raises:
          errors.UserError: the network does not take images of this shape.
        """
        extractor.check(test_images.shape)
        self._extractor = extractor
        self._test_images = test_images

    def __call__(self, batches, suffix=""):
        """{'eval/fid<suffix>', 'eval/kid<suffix>', 'eval/duplicates<suffix>': …} of batches of (n, h, w, c) uint8.

        Also 'eval/classes_covered<suffix>' where the features' network tells the classes of the test images, and the images
        suffice to show some.
        """
        made, made_logits = self._features(batches)
        real, logits, moments, names = self._reference
        kernel, _ = distances.kernel_distance(made, real, subset_size=min(1000, len(made), len(real)))
        measured = {
            "fid": distances.frechet_distance(distances.Moments.of(made), moments),
            "kid": kernel,
            "duplicates": duplicates(made, real),
        }
        if names:
            covered = classes_covered(made_logits.argmax(1), logits.argmax(1), len(names))
            measured |= {} if covered is None else {"classes_covered": covered}
        return {f"eval/{name}{suffix}": value for name, value in measured.items()}

    @functools.cached_property
    def _reference(self):
        """(features, logits, Moments, names of the classes that logits tell) of the test images."""
        labels = []
        real, logits = self._features(labels.append(part) or batch for batch, part in self._test_images.batches(0))
        network = self._extractor.features.class_names
        names = scoring.common_classes(network, self._test_images.class_names, logits, np.concatenate(labels))
        if network and not names:
            remedy = "--config.eval.features=run:WORKDIR of a classifier of these images may"
            progress.tell(f"eval/fid and eval/kid: {scoring.other_classes_note(network, remedy)}")
        return real, logits, distances.Moments.of(real), names

    def _features(self, batches):
        """(features, logits) of all batches."""
        return tuple(map(np.concatenate, zip(*map(self._extractor, batches))))


def duplicates(made, real):
    """The share of images that repeat another one, exactly or nearly.

    A generator that draws one image again and again does so with slight noise, so that no two are equal. How near counts as
    the same is read off the test images: as near as 1 % of them have their nearest, among as many as were made, since
    neighbours get nearer with their number. So the share is about .01 for real images, a few times that where n is some
    hundreds, whatever the data and the features. Where over 1 % of the test images are exact repetitions, it shows only such.

    Args:
      made: (n, d) features, n >= 2.
      real: (m, d) features of test images, m >= 2, the first n of which are a fair draw; where m < n more is near.

    Returns:
      float in [0, 1].
    """
    apart, _ = prdc.neighbours(real[: len(made)])
    return prdc.duplicate_rate(made, np.quantile(apart, _ALIKE))


def classes_covered(made, real, classes):
    """The share of the classes that are drawn at least a tenth as often as they occur among the test images.

    One classifier classifies both sides. One image of a class does not cover it, as distances.class_coverage would have it:
    among 1,000 of one class some are taken for others. Classes too rare to be expected five times among n images are left out.

    Args:
      made: (n,) integers in [0, classes), the classifier's decisions on generated images.
      real: (m,) likewise, on test images.
      classes: how many there are.

    Returns:
      float in [0, 1], or None where n images are too few for any class.
    """
    expected = np.bincount(real, minlength=classes) * (len(made) / len(real))
    frequent = expected >= _EXPECTED
    covered = np.bincount(made, minlength=classes) >= _PRESENT * expected
    return float(covered[frequent].mean()) if frequent.any() else None


class CollapseMonitor:
    """Says on stderr when a run's images come down to few: once, and again only where they had been varied in between.

    Untrained networks draw alike images too. So nothing is said until images were varied once, or the patience is over. What
    was seen before a run was stopped is forgotten: of one that continues in the same state it is said again.
    """

    def __init__(self, patience, hint):
        """`patience` is the last step at which a run may not have learnt to vary; `hint` is that of base.Algorithm."""
        self._patience = patience
        self._hint = hint
        self._varied = False
        self._told = False

    def __call__(self, step, measured):
        """Takes note of what `Distances` measured after this step."""
        signs = []
        if (repeated := measured["eval/duplicates"]) > _MOST_DUPLICATES:
            signs.append(f"{repeated:.0%} of them repeat another one")
        if (covered := measured.get("eval/classes_covered", 1.0)) < _LEAST_COVERED:
            signs.append(f"they cover {covered:.0%} of the classes")
        if not signs:
            self._varied, self._told = True, False
        elif not self._told and (self._varied or step > self._patience):
            self._told = True
            line = f"step {step}: the images that are drawn vary little: {' and '.join(signs)}"
            progress.tell(f"{line}; {self._hint}" if self._hint else line)
