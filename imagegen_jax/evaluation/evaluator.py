"""The means over test images of what is measured of each."""

import jax
from jax import numpy as jnp

from imagegen_jax.data import domains
from imagegen_jax.training import compiler
from imagegen_jax.training import sharding


class Evaluator:
    """Measures states on the same images with the same noise each time, so that two measurements can be compared."""

    def __init__(self, measure, mesh, test_set, num, batch_size, seed):
        """Prepares the measurement; it is compiled at the first call.

        Args:
          measure: (state, batch, rng) -> metrics (n,) of each image, such as an algorithm's eval_step.
          mesh: the devices.
          test_set: a domains.Domain, or {name: Domain} of two.
          num: how many images of each domain, a fair draw of at most domains.smallest; 0 for so many.
          batch_size: images measured at once, rounded up to a multiple of the number of devices.
          seed: of the stream 'eval'.
        """
        self._mesh = mesh
        self._test_set = test_set
        self._num = min(num or domains.smallest(test_set), domains.smallest(test_set))
        self._batch_size = sharding.divisible(batch_size, mesh)
        self._rng = sharding.key(mesh, seed, "eval")

        def sums(state, batch, mask, rng):
            metrics = measure(state, batch, rng)
            # A padded row may well be infinite or nan.
            return {name: jnp.sum(jnp.where(mask > 0, value, 0.0)) for name, value in metrics.items()} | {"": mask.sum()}

        self._sums = jax.jit(sums, out_shardings=sharding.replicated(mesh), compiler_options=compiler.options())

    def __call__(self, state, between=iter):
        """{'eval/<metric>': mean over the images} as floats; state.params are measured.

        `between` is told of the batches, an iterator, and yields them; it may raise interruption.StopRequested.
        """
        totals = {}
        share = jax.process_index(), jax.process_count()
        for batch, mask in between(domains.eval_batches(self._test_set, self._num, self._batch_size, *share)):
            batch, mask = sharding.put_batch(self._mesh, (batch, mask))
            sums = jax.device_get(self._sums(state, batch, mask, self._rng))
            totals = {name: totals.get(name, 0.0) + float(value) for name, value in sums.items()}
        images = totals.pop("")
        return {f"eval/{name}": total / images for name, total in totals.items()}
