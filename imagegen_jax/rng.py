"""Named random streams.

Every use of randomness has a stream of its own, so that switching one on or off (evaluation, sample grids) leaves the
others as they were. A stream is folded with the step; a sample's key is folded with the sample's index.
"""

import zlib

import jax
import numpy as np

from imagegen_jax import errors

SEEDS = 2**64  # how many there are, from 0


def stream(seed, name):
    """The key of the stream called `name` ('init', 'train', 'augment', 'eval', 'sample') of a run with this integer seed.

    Seeds are in [0, SEEDS), and each has a stream of its own. Below 2^32 the key is jax.random.key(seed), which forgets the
    rest of a larger one: that goes where JAX puts it when it computes with 64-bit integers.
    """
    words = jax.random.key_data(jax.random.key(np.uint32(seed % 2**32)))
    key = jax.random.wrap_key_data(words.at[::2].set(np.uint32(seed >> 32)))
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def check_seed(seed, what):
    """Raises errors.UserError, which names `what`, such as '--seed', for an integer that is no seed."""
    if not 0 <= seed < SEEDS:
        raise errors.UserError(f"{what} is {seed}: a seed is a whole number from 0 to 2^64 - 1")


def normal(key, index, shape):
    """(n, *shape) standard normal, those of each of the (n,) integers `index` of its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(per_index(key, index))


def per_index(key, index):
    """(n,) keys, one for each of the (n,) integers `index`, whatever else is in the batch."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
