"""Held-out metrics: the masked mean of an algorithm's eval_step over a test split."""

import jax
from jax import numpy as jnp

from imagegen_jax.data import pipeline
from imagegen_jax.training import compiler
from imagegen_jax.training import sharding


class Evaluator:
    """Measures states on the same images with the same noise each time, so that two measurements can be compared."""

    def __init__(self, algorithm, mesh, reader, records, batch_size, seed):
        """Prepares the measurement; it is compiled at the first call.

        Args:
          algorithm: the Algorithm.
          mesh: the devices.
          reader: pipeline.Reader of the test split.
          records: how many of its images, from the first on.
          batch_size: images at once, rounded up to a multiple of the number of devices.
          seed: of the stream 'eval'.
        """
        self._mesh = mesh
        self._reader = reader
        self._records = records
        self._batch_size = -(-batch_size // mesh.size) * mesh.size
        self._rng = sharding.key(mesh, seed, "eval")

        def sums(state, batch, rng):
            mask = batch["mask"]
            metrics = algorithm.eval_step(state, batch, rng)
            return {name: jnp.sum(jnp.where(mask > 0, value, 0.0)) for name, value in metrics.items()}

        self._sums = jax.jit(sums, out_shardings=sharding.replicated(mesh), compiler_options=compiler.options())

    def __call__(self, state):
        """{'eval/<metric>': mean over the images} as floats; state.params are measured."""
        totals = {}
        batches = pipeline.eval_batches(self._reader, self._records, self._batch_size, jax.process_index(), jax.process_count())
        for batch in batches:
            sums = jax.device_get(self._sums(state, sharding.put_batch(self._mesh, batch), self._rng))
            totals = {name: totals.get(name, 0.0) + float(value) for name, value in sums.items()}
        return {f"eval/{name}": total / self._records for name, total in totals.items()}
