"""Which noise an image is trained with."""

import jax
from jax import numpy as jnp
import optax


def optimal(x0, eps):
    """The noises in an order in which their squared distances from the images add up to the least.

    Minibatch optimal transport (Pooladian et al. 2023, section 3; Tong et al. 2024, algorithm 3), by the Hungarian algorithm.

    Args:
      x0: (n, ...) images.
      eps: (n, ...) noises.

    Returns:
      (n, ...) noises, row i of which belongs to image i.
    """
    n = len(x0)
    products = jnp.matmul(x0.reshape(n, -1), eps.reshape(n, -1).T, precision=jax.lax.Precision.HIGHEST)
    # Of |x0 - eps|^2 the squares are the same in any order.
    rows, columns = optax.assignment.hungarian_algorithm(-products)
    return eps[columns[jnp.argsort(rows)]]
