"""The U-Net against DDPM's constants, and its pieces against independent implementations."""

import functools

import chex
from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax import errors
from imagegen_jax.networks import blocks
from imagegen_jax.networks import unet


def parameters(network, shape):
    tree = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape), jnp.zeros(shape[0]))
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_cifar10_setting_has_the_published_size():
    """Ho et al. 2020, appendix B: 35.7 million parameters."""
    assert round(parameters(unet.UNet(), (1, 32, 32, 3)) / 1e6, 1) == 35.7


def small(**changes):
    return unet.UNet(**dict(dict(channels=8, multipliers=(1, 2), blocks=1, groups=4, dropout=0.0, out_channels=1), **changes))


@functools.cache
def randomised():
    """Parameters of small() away from the near-zero start, so that every branch matters."""
    shapes = jax.eval_shape(small().init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32), shapes)


@pytest.mark.parametrize("size", [(28, 28), (7, 13), (32, 24)])
def test_any_size_keeps_its_shape(size):
    x = jnp.zeros((2, *size, 1))
    network = small(multipliers=(1, 1, 1, 1))
    out = jax.eval_shape(network.init_with_output, jax.random.key(0), x, jnp.zeros(2))[0]
    chex.assert_shape(out, x.shape)


def test_starts_by_predicting_zero():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    out, _ = jax.jit(small().init_with_output)(jax.random.key(0), x, jnp.arange(2))
    assert np.abs(out).max() < 1e-3


def test_remat_changes_nothing_but_memory():
    x, t = jax.random.normal(jax.random.key(0), (2, 8, 8, 1)), jnp.array([3, 700])
    params = randomised()

    def grad(network):
        return jax.jit(jax.grad(lambda p: jnp.sum(network.apply(p, x, t, train=True) ** 2)))(params)

    chex.assert_trees_all_close(grad(small()), grad(small(remat=True)), rtol=1e-4, atol=1e-4)


def test_bfloat16_keeps_float32_parameters_and_result():
    x, t = jax.random.normal(jax.random.key(0), (2, 8, 8, 1)), jnp.array([3, 700])
    params = randomised()
    half = small(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0), x, t)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    wide, narrow = jax.jit(small().apply)(params, x, t), jax.jit(half.apply)(params, x, t)
    assert narrow.dtype == jnp.float32
    assert np.abs(narrow - wide).max() < 0.05 * np.abs(wide).max()
    assert np.abs(narrow - wide).max() > 0


def test_time_and_dropout_matter():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    network = small(dropout=0.5)
    params = randomised()
    apply = jax.jit(network.apply, static_argnames="train")
    early, late = apply(params, x, jnp.array([0, 0])), apply(params, x, jnp.array([999, 999]))
    assert np.abs(early - late).max() > 1e-3
    dropped = [apply(params, x, jnp.zeros(2), train=True, rngs={"dropout": jax.random.key(i)}) for i in (0, 0, 1)]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert np.abs(dropped[0] - dropped[2]).max() > 1e-3


@pytest.mark.parametrize(("channels", "groups"), [(32, 32), (64, 8), (12, 8)])
def test_group_norm_is_flax_group_norm(channels, groups):
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 5, 7, channels))
    ours, params = blocks.GroupNorm(groups).init_with_output(jax.random.key(1), x)
    divisor = max(g for g in range(1, groups + 1) if channels % g == 0)
    theirs = nn.GroupNorm(divisor, epsilon=1e-6).apply(params, x)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_attention_is_softmax_of_scaled_products():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 8))
    block = unet.AttentionBlock(heads=2, groups=4, dtype=jnp.float32)
    params = jax.tree.map(lambda p: p + 0.3, block.init(jax.random.key(1), x))
    p = jax.tree.map(np.asarray, params)["params"]
    h = np.asarray(blocks.GroupNorm(4).apply({"params": p["norm"]}, x)).reshape(2, 12, 8)
    q, k, v = ((h @ p[name]["kernel"] + p[name]["bias"]).reshape(2, 12, 2, 4) for name in "qkv")
    weights = np.exp(np.einsum("nqhc,nkhc->nhqk", q, k) / 2.0)
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("nhqk,nkhc->nqhc", weights, v).reshape(2, 12, 8)
    expected = x + (mixed @ p["out"]["kernel"] + p["out"]["bias"]).reshape(x.shape)
    np.testing.assert_allclose(block.apply(params, x), expected, rtol=1e-4, atol=1e-4)


def test_sinusoidal_embedding_is_ddpms():
    t = jnp.array([0, 1, 999])
    out = blocks.sinusoidal_embedding(t, 8)
    frequencies = np.exp(-np.log(1e4) * np.arange(4) / 3)
    angles = np.asarray(t)[:, None] * frequencies
    np.testing.assert_allclose(out, np.concatenate([np.sin(angles), np.cos(angles)], -1), atol=1e-4)


def test_patches_are_inverted_and_must_divide():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    patched = blocks.space_to_depth(x, 2)
    chex.assert_shape(patched, (2, 2, 3, 12))
    np.testing.assert_array_equal(patched[0, 1, 2, 3:6], x[0, 2, 5])  # the patch's pixel (0, 1)
    np.testing.assert_array_equal(blocks.depth_to_space(patched, 2), x)
    with pytest.raises(errors.UserError, match="patch"):
        blocks.space_to_depth(x, 4)


def test_upsampling_repeats_pixels_and_cuts():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    out = blocks.upsample_nearest(x, 3, 6)
    np.testing.assert_array_equal(out[0, ..., 0], np.kron(np.asarray(x[0, ..., 0]), np.ones((2, 2)))[:3])
