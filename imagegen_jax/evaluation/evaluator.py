"""The means of an algorithm's eval_step over test images."""

import jax
from jax import numpy as jnp

from imagegen_jax.training import compiler
from imagegen_jax.training import sharding


class Evaluator:
    """Measures states on the same images with the same noise each time, so that two measurements can be compared."""

    def __init__(self, algorithm, mesh, batches, seed):
        """Prepares the measurement; it is compiled at the first call.

        Args:
          algorithm: the Algorithm.
          mesh: the devices, whose number divides the batches.
          batches: () -> iterator over (batch, mask), this process's share of the test images.
          seed: of the stream 'eval'.
        """
        self._mesh = mesh
        self._batches = batches
        self._rng = sharding.key(mesh, seed, "eval")

        def sums(state, batch, mask, rng):
            metrics = algorithm.eval_step(state, batch, rng)
            # A padded row may well be infinite or nan.
            return {name: jnp.sum(jnp.where(mask > 0, value, 0.0)) for name, value in metrics.items()} | {"": mask.sum()}

        self._sums = jax.jit(sums, out_shardings=sharding.replicated(mesh), compiler_options=compiler.options())

    def __call__(self, state):
        """{'eval/<metric>': mean over the images} as floats; state.params are measured."""
        totals = {}
        for batch, mask in self._batches():
            batch, mask = sharding.put_batch(self._mesh, (batch, mask))
            sums = jax.device_get(self._sums(state, batch, mask, self._rng))
            totals = {name: totals.get(name, 0.0) + float(value) for name, value in sums.items()}
        images = totals.pop("")
        return {f"eval/{name}": total / images for name, total in totals.items()}
