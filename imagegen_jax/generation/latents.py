"""Distributions of latents that images are decoded from.

    prior      the family's own, where it has one
    aggregate  latents of training images, the aggregate posterior q(z) = mean_i q(z | x_i) (Makhzani et al. 2015, section 2)
    gmm        a Gaussian mixture, fitted to those latents by expectation maximisation (Ghosh et al. 2020, section 4)
    tree       a Gaussian in each leaf of a decision tree, which parts those latents by their labels (Breiman et al. 1984) or,
               where there are none, so that their squared distances to the leaves' means fall (a density tree; that of
               Criminisi et al. 2012 lowers the log determinants of the covariances)

A walk from a tree's root that follows each branch in proportion to the latents on it comes to a leaf with the product of those
shares, which is the leaf's own share of all latents. So the leaf is drawn at once, and all but the prior are one structure once
they are fitted, a `Mixture`. It lies beside the checkpoints, in latents/ in the run's folder.
"""

import dataclasses
import json
import math
import warnings

import flax.struct
import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import progress
from imagegen_jax.algorithms import capabilities
from imagegen_jax.data import domains
from imagegen_jax.data import fingerprints
from imagegen_jax.generation import latent_space
from imagegen_jax.generation import requests
from imagegen_jax.training import sharding

KINDS = ("prior", "aggregate", "gmm", "tree")
_COMPONENTS = 10
_LEAVES = 64
_MOST_IMAGES = 20_000  # training images that are encoded, at most
_MOST_DIMENSIONS = 512  # of latents that have covariances; a fit takes time in proportion to their square
_JITTER = 1e-6  # what a covariance's diagonal gets, as a share of the latents' mean variance


# ------------------------------------------------------------------------------------------------------------ what is asked for


@dataclasses.dataclass(frozen=True)
class Options:
    """Which distribution of latents is drawn from. None leaves a choice to `resolve`.

    Attributes:
      kind: one of KINDS.
      components: how many Gaussians (gmm).
      leaves: of the tree, at most (tree).

    Raises:
      errors.UserError: a number that is too small.
    """

    kind: str | None = None
    components: int | None = None
    leaves: int | None = None

    def __post_init__(self):
        if self.kind not in (None, *KINDS):
            raise errors.UserError(f"--latents={self.kind}: choose one of {', '.join(KINDS)}")
        errors.check_at_least(vars(self), components=1, leaves=2)


def resolve(options, algorithm, spec, label=None, prompt=None, **request):
    """Checks all that can be checked before anything is read, encoded or drawn.

    Args:
      options: Options, as they were asked for.
      algorithm: the run's Algorithm.
      spec: the run's images.Spec, whose labels those strategies draw by that are fitted to the data.
      label: the class that is wanted; None for all.
      prompt: texts, likewise.
      **request: the options of drawing that were asked for, fields of algorithm.Request.

    Returns:
      Options without a choice that is left.

    Raises:
      errors.UserError: the run cannot draw what is asked for.
    """
    encodes, draws = (isinstance(algorithm, able) for able in (capabilities.Autoencodes, capabilities.Draws))
    kind = options.kind or ("gmm" if encodes and not draws else "prior")
    if kind != "prior" and not encodes:
        raise errors.UserError(f"--latents={kind}: this run's family has no codes; leave it out")
    for name, belongs in (("components", "gmm"), ("leaves", "tree")):
        if getattr(options, name) is not None and kind != belongs:
            raise errors.UserError(f"--{name} belongs to --latents={belongs}, and this is --latents={kind}: leave it out")
    if kind == "prior":
        check_draws(algorithm)
        algorithm.check_request(algorithm.Request(**requests.typed(request, algorithm, spec)))
        classes = algorithm.classes
    else:
        for name in [*request, *(["prompt"] if prompt else [])]:
            raise errors.UserError(f"--{name} means nothing with --latents={kind}: leave it out")
        classes = spec.classes
    if label is not None:
        _check_label(label, kind, algorithm, classes)
    components = (options.components or _COMPONENTS) if kind == "gmm" else None
    leaves = (options.leaves or _LEAVES) if kind == "tree" else None
    return Options(kind, components, leaves)


def check_draws(algorithm):
    """Raises errors.UserError, which says what to do instead, where an algorithm draws no images by itself."""
    if isinstance(algorithm, capabilities.Draws):
        return
    if isinstance(algorithm, capabilities.Tokenizes):
        raise errors.UserError(
            "a VQ-VAE draws no images by itself: train a prior on this run, python -m experiments.main "
            "--config=configs/vqvae_prior.py --config.first_stage.workdir=THIS_RUN --workdir=ANOTHER"
        )
    if isinstance(algorithm, capabilities.Autoencodes):
        raise errors.UserError("an autoencoder draws no images by itself: choose --latents=gmm, tree or aggregate")
    if isinstance(algorithm, capabilities.Translates):
        raise errors.UserError(
            "this run translates images and draws none: python -m experiments.edit translate --workdir=… "
            f"--direction={next(iter(algorithm.directions))} --input=FOLDER --out=FOLDER/"
        )
    if isinstance(algorithm, capabilities.Restores):
        how = f"python -m experiments.edit {algorithm.degradation.name} --workdir=… --input=test:0,1,2 --out=FOLDER"
        raise errors.UserError(f"this run restores images and draws none of its own: {how}")
    if isinstance(algorithm, capabilities.Classifies):
        raise errors.UserError("a classifier draws no images: experiments.evaluate --features=run:WORKDIR scores with it")
    raise errors.UserError("this run's family draws no images")


def _check_label(label, kind, algorithm, classes):
    if not classes and kind != "prior":
        raise errors.UserError(f"--label={label}: the training images have no labels; leave it out")
    if not classes:
        knows = isinstance(algorithm, capabilities.Autoencodes)
        others = ", but --latents=gmm may know those of the data" if knows else "; leave it out"
        raise errors.UserError(f"--label={label}: this run's family takes no labels{others}")
    if not 0 <= label < classes:
        raise errors.UserError(f"--label={label}: choose 0 to {classes - 1}")


def drawing(options, trained, mesh, labels=()):
    """What is needed to draw from a distribution of latents; fits it to the training images, unless that was done before.

    Args:
      options: of `resolve`.
      trained: the run.Run.
      mesh: the devices.
      labels: the classes that will be wanted; of none, all that the algorithm must be told.

    Returns:
      (draw, about): (state, keys, condition, request) -> images for sampling.Drawer, or None for algorithm.sample; and what a
      protocol says of it, as JSON.

    Raises:
      errors.UserError: what was stored is damaged or of another network, the latents cannot be fitted, or there are none of a
        label.
    """
    if options.kind == "prior":
        return None, {}
    algorithm = trained.algorithm
    mixture, about = _stored_or_fitted(options, trained, mesh)
    for label in labels or range(algorithm.classes):
        if not mixture.weights[:, label].any():
            raise errors.UserError(f"--latents={options.kind}: none of the training images that were encoded has label {label}")

    def draw(state, keys, condition, request):
        latents = mixture.draw(keys, condition.get("label"))
        return algorithm.decode(state, latents.reshape(-1, *algorithm.latent_shape), condition)

    return draw, {"latents": about}


def _stored_or_fitted(options, trained, mesh):
    """(Mixture, what a protocol says of it)."""
    config, algorithm, state, step, spec = trained.config, trained.algorithm, trained.state, trained.step, trained.spec
    asked = {name: value for name, value in dataclasses.asdict(options).items() if value is not None}
    # The parameters are looked at because the step alone may have been trained anew, by --checkpoint=STEP.
    key = asked | {"step": step, "ema": trained.ema, "parameters": _digest(state.params, state.extra)}
    kind = ([] if trained.ema else ["raw"]) if isinstance(trained.ema, bool) else [f"ema{trained.ema}"]
    name = "-".join(map(str, [step, *kind, *asked.values()]))
    path = files.to_path(trained.workdir) / "latents" / f"{name}.npz"
    dimensions = math.prod(algorithm.latent_shape)
    mixture, about = load(path, dimensions) if path.exists() else (None, {})
    if any(about.get(name) != value for name, value in key.items()) or not _of_these_images(about["data"], trained):
        if jax.process_count() > 1:
            raise errors.UserError(f"--latents={options.kind} is fitted in one process: do so once, without --distributed")
        train_set = domains.open_domains(config.data, "train", trained.spec)
        _check_fit(options, dimensions, min(domains.records(train_set), _MOST_IMAGES))
        latents, labels = encode(algorithm, state, train_set, mesh, config.eval.batch_size, config.seed)
        if not np.isfinite(latents).all():
            raise errors.UserError(f"the codes of training images at step {step} are not finite: choose another --checkpoint")
        progress.tell(f"fitting --latents={options.kind} to {len(latents)} codes; it is kept in {path}")
        mixture = fit(options, latents, labels, spec.classes)
        about = key | {"codes": len(latents), "data": domains.fingerprint(train_set)}
        try:
            save(path, mixture, about)
        except errors.UserError as error:  # somebody else's run may be drawn from
            progress.tell(f"{error}; it will be fitted again the next time")
    facts = {name: about[name] for name in (*asked, "codes", "data")}
    return mixture, facts | {"fingerprint": _digest(mixture)}


def _of_these_images(fingerprint, trained):
    """Whether the training images are those of a fingerprint; also where they cannot be looked at, as on another machine."""
    try:
        train_set = domains.open_domains(trained.config.data, "train", trained.spec)
        return fingerprints.same(fingerprint, domains.fingerprint(train_set))
    except errors.UserError:
        return True


def _digest(*trees):
    """Twelve hexadecimal digits that change with any array."""
    return fingerprints.digest(*map(np.asarray, jax.tree.leaves(trees)))


# --------------------------------------------------------------------------------------------------------- latents of the data


def encode(algorithm, state, domain, mesh, batch_size, seed):
    """Random latents of each training image, or of a fair draw where there are more than _MOST_IMAGES, behind a progress bar.

    It takes what a latent_space.Codec takes, the domains.Domain of the images, and the seed of the stream 'latents' and of
    the draw.

    Returns:
      ((n, d) float32 latents, (n,) int32 labels), in the order of the images.
    """
    codec = latent_space.Codec(algorithm, state, mesh, batch_size)
    return latent_space.of_domain(codec, domain, _MOST_IMAGES, seed, sharding.key(mesh, seed, "latents"))


# ------------------------------------------------------------------------------------------------------------------ the mixture


@flax.struct.dataclass
class Mixture:
    """A distribution of latents and labels: components that are Gaussians, or points.

    Attributes:
      weights: (k, classes) float32, the share of each component and label together; one column where there are no labels.
      means: (k, d) float32.
      factors: (k, d, d) float32, Cholesky's of the covariances, lower triangular; None for points.
    """

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray | None = None

    def draw(self, keys, label=None):
        """Latents, each a function of its key and label alone.

        Args:
          keys: (n,) keys.
          label: (n,) int32, of which components are drawn in proportion to their share of it; None: to their share of all.

        Returns:
          (n, d) float32.
        """
        weights, means = jnp.asarray(self.weights), jnp.asarray(self.means)
        masses = weights.sum(1) if label is None else weights.T[label]

        def one(key, masses):
            which_key, noise_key = jax.random.split(key)
            which = jax.random.choice(which_key, len(means), p=masses)
            if self.factors is None:
                return means[which]
            return means[which] + jnp.asarray(self.factors)[which] @ jax.random.normal(noise_key, means.shape[1:])

        return jax.vmap(one, in_axes=(0, None if label is None else 0))(keys, masses)


def fit(options, latents, labels, classes):
    """The Mixture of a kind that latents are most likely in, or that they make up.

    Args:
      options: of `resolve`, and not of the prior.
      latents: (n, d) float32.
      labels: (n,) int32.
      classes: how many labels there are; 0 for none, and `labels` are not looked at.

    Returns:
      A Mixture of numpy arrays.

    Raises:
      errors.UserError: there are too few latents, or they have too many dimensions.
    """
    _check_fit(options, latents.shape[1], len(latents))
    shares = (labels[:, None] == np.arange(classes) if classes else np.ones((len(latents), 1))) / len(latents)
    if options.kind == "aggregate":
        return Mixture(shares.astype(np.float32), latents)
    latents = latents.astype(np.float64)
    jitter = max(_JITTER * latents.var(0).mean(), 1e-12)
    if options.kind == "gmm":
        members, means, covariances = _gmm(latents, options.components, jitter)
    else:
        members, means, covariances = _leaves(latents, labels if classes else None, options.leaves, jitter)
    arrays = members.T @ shares, means, np.linalg.cholesky(covariances)
    return Mixture(*(array.astype(np.float32) for array in arrays))


def _least(dimensions):
    """How many latents a Gaussian needs.

    n of them give a covariance of rank n - 1 at most. With d or fewer it is flat: draws would only mix those n latents. With
    twice as many as have full rank, its directions are more than the chance of the draw.
    """
    return 2 * (dimensions + 1)


def _check_fit(options, dimensions, num):
    if options.kind == "aggregate":
        return
    if dimensions > _MOST_DIMENSIONS:
        raise errors.UserError(
            f"--latents={options.kind}: codes of {dimensions} dimensions are too large for covariances, which take "
            f"{_MOST_DIMENSIONS} at most; choose --latents=aggregate"
        )
    most = num // _least(dimensions)
    needs = f"a Gaussian of {dimensions} dimensions needs {_least(dimensions)} codes, and there are {num}"
    if not most:
        raise errors.UserError(f"--latents={options.kind}: {needs}; choose --latents=aggregate")
    if options.kind == "gmm" and options.components > most:
        raise errors.UserError(f"--components is {options.components}: {needs}; choose {most} at most")


def _gmm(latents, components, jitter):
    """((n, k) responsibilities, (k, d) means, (k, d, d) covariances)."""
    from sklearn import exceptions  # imported here: nothing else needs it, and it takes a second
    from sklearn import mixture

    model = mixture.GaussianMixture(components, reg_covar=jitter, max_iter=200, random_state=0)
    with warnings.catch_warnings():
        # Of clusters for fewer distinct latents, or of likelihoods that still rise a little: both are mixtures.
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        model.fit(latents)
    return model.predict_proba(latents), model.means_, model.covariances_


def _leaves(latents, labels, leaves, jitter):
    """((n, k) which leaf each is in, (k, d) means, (k, d, d) covariances)."""
    from sklearn import tree  # imported here: nothing else needs it, and it takes a second

    limits = dict(max_leaf_nodes=leaves, min_samples_leaf=_least(latents.shape[1]), random_state=0)
    if labels is None:
        model = tree.DecisionTreeRegressor(**limits).fit(latents, latents)  # squared error: the variance within the leaves
    else:
        model = tree.DecisionTreeClassifier(**limits).fit(latents, labels)
    nodes = model.apply(latents)
    groups = [latents[nodes == node] for node in np.unique(nodes)]
    covariances = [np.cov(group, rowvar=False, bias=True).reshape(latents.shape[1], -1) for group in groups]
    means = np.stack([group.mean(0) for group in groups])
    return nodes[:, None] == np.unique(nodes), means, np.stack(covariances) + jitter * np.eye(latents.shape[1])


# ------------------------------------------------------------------------------------------------------------------------ files


def save(path, mixture, about):
    """Writes a Mixture and what is known of it to one .npz file, there as a whole or not at all. Raises errors.UserError."""
    arrays = {name: value for name, value in vars(mixture).items() if value is not None}
    with files.atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)


def load(path, dimensions):
    """Reads what `save` wrote, without unpickling.

    Args:
      path: of the file.
      dimensions: d, of the network's latents.

    Returns:
      (Mixture, about)

    Raises:
      errors.UserError: it is damaged, or its latents have another size.
    """
    try:
        arrays = files.read_npz(path)
        about = dict(json.loads(str(arrays.pop("about"))))
        mixture = Mixture(**arrays)
        components, size = mixture.means.shape
        shapes = {"weights": (components, mixture.weights.shape[1]), "means": (components, size)}
        shapes |= {} if mixture.factors is None else {"factors": (components, size, size)}
        for name, array in arrays.items():
            if array.shape != shapes[name] or array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"its array '{name}' is not what it was")
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise errors.UserError(f"cannot read {path} ({reason}): delete it, and it is fitted again") from error
    if size != dimensions:
        raise errors.UserError(
            f"{path} is a mixture of codes of {size} dimensions, and this network's have {dimensions}: delete it, and it is "
            "fitted again"
        )
    return mixture, about
