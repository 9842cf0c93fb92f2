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


def test_the_ddpm_plus_plus_of_edm_has_its_size():
    """Karras et al. 2022, table 7: 55.7 million parameters. On the way up it has one attention, ours 5 of 4 C^2 + 6 C each."""
    network = unet.UNet(multipliers=(2, 2, 2), blocks=4, attention_levels=(1,), resample_filter=(1, 1), skip_scale=0.5**0.5)
    more = 4 * (4 * 256**2 + 6 * 256)
    assert round((parameters(network, (1, 32, 32, 3)) - more) / 1e6, 1) == 55.7


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_resampling_is_convolution_with_the_filter(taps):
    """Zeros between the pixels and around the image, in NumPy; halving is the transpose of doubling, over 4."""
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 2)).astype(np.float32)
    y = np.random.default_rng(1).normal(size=(1, 8, 12, 2)).astype(np.float32)
    kernel = np.array(taps) * 2 / sum(taps)
    wide = np.zeros((1, 8, 12, 2))
    wide[:, ::2, ::2] = x
    for axis in (1, 2):
        full = np.apply_along_axis(np.convolve, axis, wide, kernel)
        wide = np.take(full, range((len(taps) - 1) // 2, (len(taps) - 1) // 2 + wide.shape[axis]), axis)
    up, down = blocks.upsample(x, taps, 8, 12), blocks.downsample(y, taps)
    np.testing.assert_allclose(up, wide, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose((up * y).sum(), 4 * (x * down).sum(), rtol=1e-4)
    assert blocks.downsample(y[:, :7, :11], taps).shape == (1, 4, 6, 2)
    assert blocks.upsample(x, taps, 7, 11).shape == (1, 7, 11, 2)


def test_resampling_blocks_keep_any_size_and_scale_their_sums():
    network = small(multipliers=(1, 1, 1), resample_filter=(1, 3, 3, 1), skip_scale=0.5)
    for size in ((7, 13), (8, 8)):
        x = jnp.zeros((2, *size, 1))
        assert jax.eval_shape(network.init_with_output, jax.random.key(0), x, jnp.zeros(2))[0].shape == x.shape
    x, embedding = jax.random.normal(jax.random.key(0), (2, 8, 8, 4)), jnp.ones((2, 3))
    block = functools.partial(unet.ResidualBlock, 4, 0.0, 4, jnp.float32)
    params = jax.jit(block().init, static_argnums=3)(jax.random.key(1), x, embedding, False)
    whole, half = (jax.jit(module.apply, static_argnums=3)(params, x, embedding, False) for module in (block(), block(0.5)))
    np.testing.assert_allclose(half, whole / 2, rtol=1e-6)


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


@pytest.mark.recipes
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


def swish(x):
    return x / (1 + np.exp(-x))


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def convolved(x, p, stride=1):
    """By 3x3 kernels, over zeros outside; a stride of 2 begins at the first pixel of an even side's (TensorFlow's "SAME")."""
    sides = [-(-side // stride) for side in x.shape[1:3]]
    edges = [max((made - 1) * stride + 3 - side, 0) for made, side in zip(sides, x.shape[1:3])]
    x = np.pad(x, [(0, 0), *((edge // 2, edge - edge // 2) for edge in edges), (0, 0)])
    rows, columns = ([slice(k, k + stride * (made - 1) + 1, stride) for k in range(3)] for made in sides)
    return p["bias"] + sum(x[:, rows[i], columns[j]] @ p["kernel"][i, j] for i in range(3) for j in range(3))


def normalised(x, p, groups):
    n, h, w, channels = x.shape
    groups = max(g for g in range(1, groups + 1) if channels % g == 0)
    x = x.reshape(n, h, w, groups, -1)
    mean, variance = x.mean((1, 2, 4), keepdims=True), x.var((1, 2, 4), keepdims=True)
    return ((x - mean) / np.sqrt(variance + 1e-6)).reshape(n, h, w, channels) * p["scale"] + p["bias"]


def residual(x, embedding, p, network):
    h = convolved(swish(normalised(x, p["norm1"], network.groups)), p["conv1"])
    told = dense(swish(embedding), p["time"])[:, None, None]
    if network.scale_shift:
        half = told.shape[-1] // 2
        h = normalised(h, p["norm2"], network.groups) * (1 + told[..., :half]) + told[..., half:]
    else:
        h = normalised(h + told, p["norm2"], network.groups)
    h = convolved(swish(h), p["conv2"])
    return h + (dense(x, p["shortcut"]) if "shortcut" in p else x)


def attended(x, p, groups, heads):
    n, height, width, channels = x.shape
    h = normalised(x, p["norm"], groups).reshape(n, -1, channels)
    q, k, v = (dense(h, p[name]).reshape(n, height * width, heads, -1) for name in "qkv")
    weights = np.exp(np.einsum("nqhc,nkhc->nhqk", q, k) / np.sqrt(channels / heads))
    weights /= weights.sum(-1, keepdims=True)
    return x + dense(np.einsum("nhqk,nkhc->nqhc", weights, v).reshape(x.shape), p["out"])


def in_patches(x, size):
    cut = [[x[:, i::size, j::size] for j in range(size)] for i in range(size)]
    return np.concatenate([column for row in cut for column in row], -1)


def predicted(x, t, p, network):
    """What a UNet predicts, by DDPM's definition (Ho et al. 2020, appendix B), or with ADM's scale and shift, in float64."""
    groups, levels = network.groups, range(len(network.multipliers))
    embedding = 0
    for name, one in zip(("time_in", "time_in1", "time_in2"), t.reshape(len(t), -1).T):
        angles = one[:, None] * 1e4 ** (-np.arange(network.channels // 2) / (network.channels // 2 - 1))
        embedding += dense(np.concatenate([np.sin(angles), np.cos(angles)], -1), p[name])
    embedding = dense(swish(embedding), p["time_out"])

    def block(x, level, name):
        x = residual(x, embedding, p[f"{name}_block"], network)
        attends = level in network.attention_levels
        return attended(x, p[f"{name}_attention"], groups, network.heads) if attends else x

    x = convolved(in_patches(x, network.patch_size), p["conv_in"])
    skips = [x]
    for level in levels:
        if level:
            skips.append(x := convolved(x, p[f"down{level}_conv"], 2))
        for i in range(network.blocks):
            skips.append(x := block(x, level, f"down{level}_{i}"))
    x = residual(x, embedding, p["middle_block1"], network)
    x = attended(x, p["middle_attention"], groups, network.heads)
    x = residual(x, embedding, p["middle_block2"], network)
    for level in levels[::-1]:
        for i in range(network.blocks + 1):
            x = block(np.concatenate([x, skips.pop()], -1), level, f"up{level}_{i}")
        if level:
            height, width = skips[-1].shape[1:3]
            x = convolved(x.repeat(2, 1).repeat(2, 2)[:, :height, :width], p[f"up{level}_conv"])
    x = convolved(swish(normalised(x, p["norm_out"], groups)), p["conv_out"])
    whole = np.zeros((len(x), *(network.patch_size * side for side in x.shape[1:3]), network.out_channels))
    for i in range(network.patch_size):
        for j in range(network.patch_size):
            start = (i * network.patch_size + j) * network.out_channels
            whole[:, i :: network.patch_size, j :: network.patch_size] = x[..., start : start + network.out_channels]
    return whole


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (dict(multipliers=(1, 2, 1), blocks=2, attention_levels=(1,), heads=2), (7, 10, 3)),
        (dict(patch_size=2, attention_levels=(0, 1), groups=3), (8, 12, 2)),
        (dict(multipliers=(2,), attention_levels=(), heads=4), (5, 4, 1)),
        (dict(times=3), (4, 4, 1)),
        (dict(scale_shift=True), (6, 4, 1)),
    ],
)
def test_the_network_is_ddpms_by_its_definition(options, shape):
    """With the same parameters, all of them random, so that every branch matters."""
    network = small(out_channels=shape[-1], **options)
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((2, *shape)), np.array([3, 700])
    if network.times > 1:
        t = rng.uniform(0, 1, (2, network.times))
    shapes = jax.eval_shape(network.init, jax.random.key(0), x.astype(np.float32), t)["params"]
    params = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape), shapes)
    found = jax.jit(network.apply)({"params": jax.tree.map(np.float32, params)}, np.float32(x), t)
    expected = predicted(x, t, params, network)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.std())


@pytest.mark.parametrize("remat", [False, pytest.param(True, marks=pytest.mark.recipes)])
def test_it_has_derivatives_in_forward_mode(remat):
    """Along x and two times, through attention: the product with what reverse mode gives."""
    network = small(times=2, remat=remat)
    rng = np.random.default_rng(0)
    x, t, along, moving, weights = (np.float32(rng.normal(size=size)) for size in ((2, 8, 8, 1), (2, 2)) * 2 + ((2, 8, 8, 1),))
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, t)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32), shapes)

    @jax.jit
    def both(x, t):
        out, change = jax.jvp(lambda x, t: network.apply(params, x, t), (x, t), (along, moving))
        of_x, of_t = jax.vjp(lambda x, t: network.apply(params, x, t), x, t)[1](weights)
        return (out, change), (weights * change).sum(), (of_x * along).sum() + (of_t * moving).sum()

    (out, change), forward, reverse = both(x, t)
    assert out.dtype == change.dtype == jnp.float32
    np.testing.assert_allclose(forward, reverse, rtol=1e-3)


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
