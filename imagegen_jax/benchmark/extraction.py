"""How fast the network of the Fréchet Inception Distance extracts features."""

import functools
from typing import Protocol

import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax.benchmark import steps
from imagegen_jax.evaluation import features
from imagegen_jax.networks import inception
from imagegen_jax.training import compiler
from imagegen_jax.training import sharding

_BATCH = (64, 32, 32, 3)  # config.eval.batch_size of CIFAR-10's images


class Reference(Protocol):
    """Another implementation of the network, such as experiments/torch_reference/inception.py."""

    def check(self, mesh: jax.sharding.Mesh) -> None:
        """Raises errors.UserError where it is not installed, or would see fewer devices."""

    def compare(self, extraction: "Extraction", repeats: int) -> dict:
        """Times a batch, ours and its own, by turns, as recipe.Reference does."""


def measure(repeats: int, reference: Reference | None = None) -> dict:
    """Everything that is measured of the network: what `steps.measure` says, and 'against'.

    Args:
      repeats: how many batches are timed.
      reference: what it is compared with.

    Raises:
      errors.UserError: the reference cannot be had.
    """
    mesh = sharding.make_mesh(jax.device_count())
    if reference:
        reference.check(mesh)
    extraction = Extraction(mesh)
    results = steps.measure(extraction, repeats)
    if reference:
        results["against"] = reference.compare(extraction, repeats)
    return results


class Extraction:
    """The compiled FID network, resizing included, a steps.Step; each call takes the same random images.

    Attributes:
      batch: (n, h, w, 3) uint8.
      program, images, dtype, parameters: as steps.Step has them.
    """

    dtype = "float32"

    def __init__(self, mesh: jax.sharding.Mesh):
        """The weights are random: how long it takes does not depend on them, as long as all numbers stay in range."""
        rng = np.random.default_rng(0)
        num, *shape = _BATCH
        self.batch = rng.integers(0, 256, (sharding.divisible(num, mesh), *shape), np.uint8)
        self.images = len(self.batch)

        def random(leaf):
            if leaf.ndim == 1:  # of a batch normalisation
                return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
            return rng.standard_normal(leaf.shape, np.float32) * np.sqrt(2 / np.prod(leaf.shape[:-1]), dtype=np.float32)

        image = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
        specs = jax.eval_shape(inception.InceptionV3().init, jax.random.key(0), image)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(specs["params"]))
        whole = sharding.replicated(mesh)
        self._arguments = jax.device_put(jax.tree.map(random, specs), whole), sharding.put_rows(mesh, self.batch)
        extract = functools.partial(features.extract_inception, "legacy_tensorflow")
        jitted = jax.jit(extract, out_shardings=whole, compiler_options=compiler.options())
        self.program = steps.Program.compile(lambda: jitted.lower(*self._arguments).compile())

    def __call__(self):
        jax.block_until_ready(self.program.call(*self._arguments))
