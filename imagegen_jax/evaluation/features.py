"""Features: the coordinates in which sets of images are compared.

    fashion         the classifier of configs/classifier.py, whose weights for the bundled images come with the package
    run:WORKDIR     the classifier of a run of your own
    inception:FILE  the Fréchet Inception Distance's network (networks/inception.py), with the weights of a file
    vgg:FILE        that of precision and recall (networks/vgg.py), likewise
    pixels          the pixels themselves

A score depends on all of them, on how an image is resized for the network, and on its weights: `Features.protocol` says which.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax import errors
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import capabilities
from imagegen_jax.evaluation import resizing
from imagegen_jax.networks import inception
from imagegen_jax.networks import vgg
from imagegen_jax.training import compiler
from imagegen_jax.training import first_stage
from imagegen_jax.training import run
from imagegen_jax.training import sharding
from imagegen_jax.weights import published
from imagegen_jax.weights import tensors

NAMES = ("fashion", "run:WORKDIR", "inception:FILE", "vgg:FILE", "pixels")


@dataclasses.dataclass(frozen=True)
class Features:
    """A network that turns images into features.

    Attributes:
      protocol: what of it a score depends on: the network's name, the SHA-256 of its weights, how images are resized.
      shape: (height, width, channels) of the images that it takes; None for any.
      class_names: of its logits; empty where it has none that mean a class of some data, or has no logits. A name is ''
        where it is not known.
      prepare: (n, h, w, c) uint8 -> array with n rows, on the host.
      apply: (variables, prepared) -> (features (n, d), logits (n, k) or None), float32, under jit.
      variables: of the network.
    """

    protocol: dict[str, Any]
    shape: tuple[int, int, int] | None
    class_names: tuple[str, ...]
    prepare: Callable
    apply: Callable
    variables: Any


class Extractor:
    """Features of any number of images, over all devices, in batches of one shape; compiled at the first call.

    Products are in full float32, so that accelerators of all kinds give the same scores.
    """

    def __init__(self, features, mesh, batch_size):
        """`batch_size` images go through the network at once, rounded up to a multiple of the number of devices."""
        self.features = features
        self._mesh = mesh
        self._batch_size = sharding.divisible(batch_size, mesh)
        self._variables = jax.device_put(features.variables, sharding.replicated(mesh))

        def apply(variables, prepared):
            # By default accelerators round the arguments of products to fewer digits, each kind in its own way.
            with jax.default_matmul_precision("highest"):
                return features.apply(variables, prepared)

        self._apply = jax.jit(apply, out_shardings=sharding.replicated(mesh), compiler_options=compiler.options())

    def __call__(self, batch):
        """(n, h, w, c) uint8 -> (features (n, d) float32, logits (n, k) float32, k being 0 where there are none).

        Raises:
          errors.UserError: the network takes images of another shape, or the features are not finite.
        """
        self.check(batch.shape[1:])
        parts = [self._one(batch[start : start + self._batch_size]) for start in range(0, len(batch), self._batch_size)]
        found, logits = (np.concatenate(part) for part in zip(*parts))
        if not np.isfinite(found).all():
            raise errors.UserError("features that are not finite: the weights of the network are damaged")
        return found, logits

    def check(self, shape):
        """Raises errors.UserError where the network does not take images of this (h, w, c)."""
        wanted = self.features.shape
        if wanted and tuple(shape) != wanted:
            raise errors.UserError(
                f"the images are {_by(shape)} and the features '{self.features.protocol['features']}' take {_by(wanted)}: "
                "choose other features, such as run:WORKDIR of a classifier of your own"
            )

    def has_logits(self, shape):
        """Whether images of this (h, w, c) get logits."""
        image = jax.eval_shape(lambda: jnp.zeros((1, *shape), jnp.uint8))
        return jax.eval_shape(self.features.apply, self._variables, image)[1] is not None

    def _one(self, batch):
        n = len(batch)
        prepared = sharding.put_filled(self._mesh, self.features.prepare(batch), self._batch_size)
        found, logits = self._apply(self._variables, prepared)
        logits = np.zeros((n, 0), np.float32) if logits is None else np.asarray(logits)[:n]
        return np.asarray(found)[:n], logits


def named(name, resize=None):
    """The Features of this name.

    Args:
      name: as NAMES has them.
      resize: a key of resizing.PROTOCOLS, for inception and vgg; None for 'legacy_tensorflow' and 'legacy_pytorch'.

    Raises:
      errors.UserError: there are none of this name, or the weights are missing or damaged.
    """
    kind, _, path = name.partition(":")
    if resize and resize not in resizing.PROTOCOLS:
        raise errors.UserError(f"--resize={resize}: choose one of {', '.join(resizing.PROTOCOLS)}")
    if kind == "run" and path:
        return _of_run(path)
    if kind == "inception":
        return _inception(path, resize or "legacy_tensorflow")
    if kind == "vgg":
        return _vgg(path, resize or "legacy_pytorch")
    if name == "fashion":
        return _fashion()
    if name == "pixels":
        return Features({"features": "pixels"}, None, (), _as_it_is, _pixels, {})
    raise errors.UserError(f"there are no features '{name}': choose one of {', '.join(NAMES)}")


def _by(shape):
    return "x".join(map(str, shape))


def _as_it_is(batch):
    return batch


def _pixels(variables, batch):
    return batch.reshape(len(batch), -1).astype(jnp.float32) / 255, None


# ------------------------------------------------------------------------------------------------------------- classifiers


def _of_run(workdir):
    trained = run.load(workdir, remedy=run.BY_MOVING)
    if not isinstance(trained.algorithm, capabilities.Classifies):
        raise errors.UserError(f"--features=run:{workdir}: it is not the run of a classifier (configs/classifier.py)")
    params = jax.device_get(trained.state.params)
    leaves = b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(params))
    protocol = {"features": f"run:{workdir}", "step": trained.step, "sha256": tensors.sha256_of(leaves)}
    return _classifier(trained.algorithm, trained.spec, params, protocol)


@functools.cache
def _fashion():
    trained = first_stage.bundled()
    with first_stage.bundled_file() as path:
        protocol = {"features": "fashion", "sha256": tensors.sha256(path)}
    return _classifier(trained.algorithm, trained.spec, trained.state.params, protocol)


def _classifier(algorithm, spec, params, protocol):
    def apply(params, batch):
        return algorithm.classify(base.TrainState(0, params, {}, {}), batch)

    return Features(protocol, algorithm.image_shape, spec.class_names, _as_it_is, apply, params)


# -------------------------------------------------------------------------------------------------------- published networks


def _inception(path, resize):
    variables = published.inception(path)

    protocol = {"features": "inception", "sha256": tensors.sha256(path), "resize": resize}
    return Features(protocol, None, (), _on_host(resize, 299), functools.partial(extract_inception, resize), variables)


def extract_inception(resize, variables, batch):
    """The network as the score has it: prepared images -> (features (n, 2048), logits (n, 1008)), float32, under jit."""
    return inception.InceptionV3().apply(variables, (_resized(batch, resize, 299) - 128) / 128)


def _vgg(path, resize):
    variables = published.vgg16(path)

    def apply(variables, batch):
        return vgg.VGG16().apply(variables, vgg.normalised(_resized(batch, resize, 224) / 255)), None

    protocol = {"features": "vgg", "sha256": tensors.sha256(path), "resize": resize}
    return Features(protocol, None, (), _on_host(resize, 224), apply, variables)


# `clean` resizes on the host, with Pillow; the other protocols are part of the compiled program.


def _on_host(resize, size):
    if resize != "clean":
        return _as_it_is
    return lambda batch: np.asarray(resizing.PROTOCOLS[resize](_rgb(batch), size))


def _resized(batch, resize, size):
    return batch if resize == "clean" else resizing.PROTOCOLS[resize](_rgb(batch), size)


def _rgb(batch):
    """(n, h, w, 3) of (n, h, w, c): one channel is repeated, a fourth is dropped."""
    return batch.repeat(3, -1) if batch.shape[-1] == 1 else batch[..., :3]
