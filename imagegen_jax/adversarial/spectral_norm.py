"""Spectral normalisation (Miyato et al. 2018): weights divided by their largest singular values, W / sigma(W).

sigma is found by power iteration from a vector that is remembered from step to step (algorithm 1):

    v = W u / |W u|,   u = W^T v / |W^T v|,   sigma = v^T W u                    with W as (inputs, outputs)

u and v are constants to the gradient, sigma is not (equation 12). The functions are of a network's parameters, so that the
network itself knows nothing of it; every array of two axes or more counts as a matrix (section 3): kernels, embeddings.
"""

from flax import traverse_util
import jax
from jax import numpy as jnp

_TINY = 1e-12  # what a vector is divided by at least


def start(rng, params):
    """{path: (outputs,) float32}, a random unit vector for each matrix among the parameters."""
    flat = {path: leaf for path, leaf in sorted(_flat(params).items()) if leaf.ndim > 1}
    keys = jax.random.split(rng, max(len(flat), 1))
    return {path: _unit(jax.random.normal(key, leaf.shape[-1:])) for key, (path, leaf) in zip(keys, flat.items())}


def normalise(params, vectors, iterations=1):
    """Divides each matrix that has a vector by its largest singular value.

    Args:
      params: of a network.
      vectors: as `start` makes them; of those of {}, none is divided.
      iterations: of the power method.

    Returns:
      (params, vectors), the latter as far as the iterations brought them.
    """
    flat, found = _flat(params), {}
    for path, u in vectors.items():
        matrix = flat[path].reshape(-1, flat[path].shape[-1])
        constant = jax.lax.stop_gradient(matrix)
        for _ in range(iterations):
            v = _unit(constant @ u)
            u = _unit(v @ constant)
        found[path] = u
        flat[path] = flat[path] / (v @ matrix @ u)
    return traverse_util.unflatten_dict(flat, sep="/"), found


def _flat(params):
    return traverse_util.flatten_dict(params, sep="/")


def _unit(vector):
    return vector / jnp.maximum(jnp.linalg.norm(vector), _TINY)
