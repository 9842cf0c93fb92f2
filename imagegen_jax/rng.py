"""Named random streams.

Every use of randomness has a stream of its own, so that switching one on or off (evaluation, sample grids) leaves the
others as they were. A stream is folded with the step; a sample's key is folded with the sample's index.
"""

import zlib

import jax


def stream(seed, name):
    """The key of the stream called `name` ('init', 'train', 'augment', 'eval', 'sample') of a run with this integer seed."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def per_index(key, index):
    """(n,) keys, one for each of the (n,) integers `index`, whatever else is in the batch."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
