"""Named streams: every 64-bit seed has its own, and those below 2^32 are what they always were. Noise over devices."""

import zlib

import jax
import numpy as np
import pytest

from imagegen_jax import errors
from imagegen_jax import rng
from imagegen_jax.data import pipeline
from imagegen_jax.generation import inputs
from imagegen_jax.training import sharding


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_small_seeds_have_the_streams_they_always_had(seed):
    always = jax.random.fold_in(jax.random.key(seed), zlib.crc32(b"train"))
    np.testing.assert_array_equal(jax.random.key_data(rng.stream(seed, "train")), jax.random.key_data(always))


@pytest.mark.parametrize("seed", [2**32, 2**33 + 7, 2**63 + 7, 2**64 - 1])
def test_large_seeds_have_the_streams_of_64_bits(seed):
    with jax.enable_x64(True):
        key = jax.random.key_data(jax.random.key(np.uint64(seed)))
    wide = jax.random.fold_in(jax.random.wrap_key_data(key), zlib.crc32(b"train"))
    for stream in (rng.stream(seed, "train"), sharding.key(sharding.make_mesh(8), seed, "train")):
        np.testing.assert_array_equal(jax.random.key_data(stream), jax.random.key_data(wide))


def test_every_bit_of_a_seed_counts():
    seeds = [0, *(2**bit for bit in range(64))]
    assert len({jax.random.key_data(rng.stream(seed, "sample")).tobytes() for seed in seeds}) == len(seeds)


def test_the_order_of_training_images_depends_on_every_bit_of_the_seed():
    def order(seed):
        return tuple(map(pipeline.shuffled(64, seed), range(64)))

    seeds = [0, 1, 2**32, 2**32 + 1, 2**33, 2**64 - 1]
    assert len({order(seed) for seed in seeds}) == len(seeds)


@pytest.mark.parametrize("seed", [-1, 2**64, 10**20 - 1])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(errors.UserError, match=f"--seed is {seed}: a seed is a whole number from 0 to"):
        rng.check_seed(seed, "--seed")
    with pytest.raises(errors.UserError, match="--input=seed:"):
        inputs.seeds(f"seed:3,{seed}")
