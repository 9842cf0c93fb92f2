"""How far from test images a run's images are, while it trains."""

import numpy as np

from imagegen_jax.evaluation import distances


class Distances:
    """The Fréchet and the kernel distance of generated images to test images; experiments.evaluate gives them intervals."""

    def __init__(self, extractor, origin):
        """Prepares the measurement; the features of the test images are computed at the first call.

        Args:
          extractor: a features.Extractor.
          origin: the origins.Origin of the test images.

        Raises:
          errors.UserError: the network does not take images of this shape.
        """
        extractor.check(origin.shape)
        self._extractor = extractor
        self._origin = origin
        self._reference = None

    def __call__(self, batches, suffix=""):
        """{'eval/fid<suffix>': …, 'eval/kid<suffix>': …} of batches of (n, h, w, c) uint8."""
        if self._reference is None:
            real = self._features(batch for batch, _ in self._origin.batches(0))
            self._reference = real, distances.Moments.of(real)
        made = self._features(batches)
        real, moments = self._reference
        kernel, _ = distances.kernel_distance(made, real, subset_size=min(1000, len(made), len(real)))
        frechet = distances.frechet_distance(distances.Moments.of(made), moments)
        return {f"eval/fid{suffix}": frechet, f"eval/kid{suffix}": kernel}

    def _features(self, batches):
        return np.concatenate([self._extractor(batch)[0] for batch in batches])
