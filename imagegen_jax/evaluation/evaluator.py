"""The means over test images of what is measured of each."""

import math

import jax
from jax import numpy as jnp

from imagegen_jax.data import domains
from imagegen_jax.training import compiler
from imagegen_jax.training import sharding


class Evaluator:
    """Measures states on the same images with the same noise each time, so that two measurements can be compared."""

    def __init__(self, measure, mesh, test_set, num, batch_size, seed, standard_errors=False):
        """Prepares the measurement; it is compiled at the first call.

        Args:
          measure: (state, batch, rng) -> metrics (n,) of each image, such as an algorithm's eval_step.
          mesh: the devices.
          test_set: a domains.Domain, or {name: Domain} of two.
          num: how many images of each domain, a fair draw of at most domains.smallest; 0 for so many.
          batch_size: images measured at once, rounded up to a multiple of the number of devices.
          seed: of the stream 'eval'.
          standard_errors: also give '<metric>_se', the standard error of each mean over the images, which holds that of what is
            drawn for each; of two images or more.
        """
        self._mesh = mesh
        self._test_set = test_set
        self._num = min(num or domains.smallest(test_set), domains.smallest(test_set))
        self._batch_size = sharding.divisible(batch_size, mesh)
        self._rng = sharding.key(mesh, seed, "eval")

        def sums(state, batch, mask, rng):
            # A padded row may well be infinite or nan.
            metrics = {name: jnp.where(mask > 0, value, 0.0) for name, value in measure(state, batch, rng).items()}
            count, totals = mask.sum(), {name: jnp.sum(value) for name, value in metrics.items()}
            if not standard_errors:
                return count, totals, {}
            # From the batch's own mean: rounding would drown what differs in the squares of large numbers.
            gaps = {name: jnp.where(mask > 0, value - totals[name] / count, 0.0) for name, value in metrics.items()}
            return count, totals, {name: jnp.sum(jnp.square(gap)) for name, gap in gaps.items()}

        self._sums = jax.jit(sums, out_shardings=sharding.replicated(mesh), compiler_options=compiler.options())

    def __call__(self, state, between=iter):
        """{'eval/<metric>': mean over the images} as floats; state.params are measured.

        `between` is told of the batches, an iterator, and yields them; it may raise interruption.StopRequested.
        """
        share = jax.process_index(), jax.process_count()
        parts = []
        for batch, mask in between(domains.eval_batches(self._test_set, self._num, self._batch_size, *share)):
            batch, mask = sharding.put_batch(self._mesh, (batch, mask))
            parts.append(jax.tree.map(float, jax.device_get(self._sums(state, batch, mask, self._rng))))
        images = sum(count for count, _, _ in parts)
        means = {name: sum(totals[name] for _, totals, _ in parts) / images for name in parts[0][1]}
        found = dict(means)
        for name in parts[0][2]:
            squares = sum(squares[name] + count * (totals[name] / count - means[name]) ** 2 for count, totals, squares in parts)
            found[f"{name}_se"] = math.sqrt(squares / max(images - 1, 1) / images)
        return {f"eval/{name}": value for name, value in found.items()}
