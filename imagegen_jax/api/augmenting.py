"""What drawn images are worth as training data: how well classifiers do that are trained on them, with real images and without.

The classification accuracy score of Ravuri & Vinyals (2019), "Classification Accuracy Score for Conditional Generative Models".
"""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax import errors
from imagegen_jax import progress
from imagegen_jax import rng as rng_lib
from imagegen_jax import tables
from imagegen_jax.api import sampling
from imagegen_jax.data import domains
from imagegen_jax.evaluation import evaluator
from imagegen_jax.evaluation import image_sets
from imagegen_jax.training import compiler
from imagegen_jax.training import run
from imagegen_jax.training import sharding

_TEST_BATCH = 100


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images of known classes.

    Attributes:
      images: (n, h, w, c) uint8.
      labels: (n,) int32.
    """

    images: np.ndarray
    labels: np.ndarray

    def of_each_class(self, num, rng):
        """`num` of each class, chosen by a numpy Generator."""
        chosen = [rng.choice(np.flatnonzero(self.labels == label), num, replace=False) for label in np.unique(self.labels)]
        return Examples(self.images[np.concatenate(chosen)], self.labels[np.concatenate(chosen)])


def evaluate(trained, config, real=(100, 1000), *, num=None, seeds=3, seed=0, batch_size=None, latents=None, **request):
    """Trains classifiers on some real images, on drawn ones, and on both, and measures each on the test images.

    All trainings take the same steps. Of real and drawn images half of a batch is of either kind, however many there are. Each
    seed has a choice of real images, first parameters and an order of its own.

    Args:
      trained: a run.Run that is told labels.
      config: how classifiers are trained, that of configs/classifier.py: network, optimiser, batch size, duration.
      real: so many real images of each class, and then all; what the training images have too few for is left out.
      num: images drawn, all classes alike; by default as many as there are training images.
      seeds: trainings on each set, 2 or more.
      seed: of the first of them, and of the images.
      batch_size: images drawn at once; by default the run's sample.batch_size.
      latents: see sampling.prepare.
      **request: options of drawing.

    Returns:
      {'rows': [{'real': images of each class, 'all' or 0, 'drawn': how many, 'accuracies': one for each seed, 'accuracy': the
      mean, 'interval': its 95 % interval over seeds by Student's t}], 'protocol'}, as JSON.

    Raises:
      errors.UserError: the run is told no labels, or there are no test images.
    """
    errors.check_at_least({"augmentation_seeds": seeds}, augmentation_seeds=2)
    rng_lib.check_seed(seed, "--seed")
    if request.get("label") is not None:
        raise errors.UserError("--label: all classes are drawn here; leave it out")
    if not getattr(trained.algorithm, "classes", 0):
        raise errors.UserError(
            f"{trained.workdir} is told no labels: what its images show is not known, so nothing learns from it"
        )
    spec = trained.spec
    sets = {split: image_sets.of_data(trained.config.data, split, spec.shape, spec.known_names) for split in ("train", "test")}
    known = Examples(*sets["train"].read(np.arange(sets["train"].num)))
    num = num or len(known.labels)
    drawing = sampling.prepare(trained, num, seed, batch_size=batch_size, latents=latents, **request)
    classifier = _Classifier(config, spec, len(known.labels), domains.open_domains(trained.config.data, "test", spec))
    drawn = Examples(drawing.images(), drawing.labels)

    fewest = np.bincount(known.labels, minlength=spec.classes).min()
    sizes = [size for size in real if size < fewest] + ["all"]
    todo = [(0, [drawn])] + [(size, others) for size in sizes for others in ([], [drawn])]
    rows = []
    with progress.Progress(len(todo) * seeds, "training", "classifiers") as bar:
        for size, others in todo:
            accuracies = []
            for number in range(seed, seed + seeds):
                accuracies.append(classifier.accuracy(_chosen(known, size, number) + others, number))
                bar.update()
            mean, interval = _over_seeds(accuracies)
            told = {"accuracies": accuracies, "accuracy": mean, "interval": interval}
            rows.append({"real": size, "drawn": num if others else 0} | told)
    protocol = {"step": trained.step, "training images": sets["train"].protocol, "test images": sets["test"].protocol}
    protocol |= {"drawn": drawing.protocol(), "classifier": classifier.protocol}
    return {"rows": rows, "protocol": protocol}


def _chosen(known, size, seed):
    """[Examples] of so many of each class, or of 'all'; [] of 0."""
    if size == "all":
        return [known]
    return [known.of_each_class(size, np.random.default_rng(seed))] if size else []


def text(report):
    """Lines for people."""
    lines = [["real images a class", "drawn images", "accuracy", "95 % interval over seeds"]]
    for row in report["rows"]:
        low, high = (f"{100 * value:.1f}" for value in row["interval"])
        lines.append([str(row["real"]), str(row["drawn"]), f"{100 * row['accuracy']:.1f} %", f"[{low}, {high}]"])
    return tables.aligned(lines)


class _Classifier:
    """Trains classifiers of one kind, one after the other."""

    def __init__(self, config, spec, records, test_set):
        algorithm = run.build_algorithm(config, spec, records)
        self._batch = config.batch_size
        self._steps = algorithm.training.steps(config.duration)
        self.protocol = {"steps": self._steps, "batch_size": config.batch_size, "network": config.network.to_dict()}
        domain = domains.Domain(None, None, spec)
        augment = domains.augmentation(domain, flip=config.data.flip)

        def step(state, batch, rng):
            own, augment_rng = jax.random.split(jax.random.fold_in(rng, state.step))
            return algorithm.train_step(state, augment(augment_rng, batch), own)[0]

        self._init = jax.jit(algorithm.init, compiler_options=compiler.quick_options())
        self._step = jax.jit(step, donate_argnums=0, compiler_options=compiler.options())
        mesh = sharding.make_mesh(jax.device_count())
        self._evaluator = evaluator.Evaluator(algorithm.eval_step, mesh, test_set, 0, _TEST_BATCH, config.seed)

    def accuracy(self, parts, seed):
        """The share of test images that are told right after training on one or two Examples, of each as much of a batch."""
        rng = np.random.default_rng([seed, 1])
        state, key = self._init(jax.random.key(seed)), jax.random.key(seed)
        for _ in range(self._steps):
            share = self._batch // len(parts)
            chosen = [rng.integers(len(part.labels), size=share) for part in parts]
            shown = [(part.images[index], part.labels[index]) for part, index in zip(parts, chosen)]
            state = self._step(state, _batch(*map(np.concatenate, zip(*shown))), key)
        return self._evaluator(state.with_ema())["eval/accuracy"]


def _batch(images, labels):
    return {
        "image": jnp.asarray(images),
        "condition": {"label": jnp.asarray(labels)},
        "index": jnp.arange(len(labels), dtype=jnp.int32),
    }


def _over_seeds(values):
    """(mean, [low, high]) of the mean's 95 % interval by Student's t."""
    from scipy import stats  # imported here: it takes a third of a second, and the other scores do not need it

    mean, half = np.mean(values), stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(mean), [float(mean - half), float(mean + half)]
