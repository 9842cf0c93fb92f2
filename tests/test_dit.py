"""The diffusion transformer against the published sizes, a definition in NumPy, and what must hold of its pieces."""

import functools

import chex
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax.networks import dit

MODERN = dict(norm="rms", mlp="swiglu", rotary=True, qk_norm=True)
JIT = dict(MODERN, bottleneck=5, class_tokens=3, class_tokens_from=1)
LABEL = {"label": np.array([1, 4], np.int32)}


def small(**changes):
    return dit.DiT(**dict(dict(width=16, layers=2, heads=2, out_channels=1, classes=4), **changes))


def randomised(network, x, t, condition=None, seed=0):
    """Parameters away from the zeros of the start, so that every branch matters."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, t, LABEL if condition is None else condition)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.float32(0.3 * rng.standard_normal(leaf.shape)), shapes)


def inputs(shape=(8, 12, 1), seed=0):
    return np.random.default_rng(seed).standard_normal((2, *shape)).astype(np.float32), np.float32([3, 700])


@functools.partial(jax.jit, static_argnums=0)
def apply(network, params, x, t, condition):
    return network.apply({"params": params}, x, t, condition)


# ------------------------------------------------------------------------------------------------------------ published sizes


def millions(network, shape):
    label = {"label": jnp.zeros(1, jnp.int32)}
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1), label)
    return round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6)


@pytest.mark.parametrize(("size", "published"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_sizes_are_the_published_ones(size, published):
    """Peebles & Xie 2023, table 4, on patches of 2x2 latents with learned variances."""
    assert millions(dit.DiT(**dit.SIZES[size], patch_size=2, out_channels=8, classes=1000), (32, 32, 4)) == published


@pytest.mark.parametrize(
    ("size", "bottleneck", "start", "published"),
    [
        (dit.SIZES["B"], 128, 4, 131),
        (dit.SIZES["L"], 128, 8, 459),
        (dict(width=1280, layers=32, heads=16), 256, 10, 953),
    ],
)
def test_sizes_of_jit_are_the_published_ones(size, bottleneck, start, published):
    """JiT-B/16, L/16 and H/16 of 256x256 pixels."""
    tokens = dict(bottleneck=bottleneck, class_tokens=32, class_tokens_from=start)
    assert millions(dit.DiT(**size, **MODERN, **tokens, patch_size=16, classes=1000), (256, 256, 3)) == published


# -------------------------------------------------------------------------------------------------------------- by definition


def dense(x, p):
    return x @ p["kernel"] + p.get("bias", 0)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def rms(x, p):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"]


def modulated(x, shift, scale, p):
    if p:
        return rms(x, p["norm"]) * (1 + scale) + shift
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * (1 + scale) + shift


def modulation(told, p, parts):
    return np.split(dense(silu(told), p["dense"])[:, None], parts, -1)


def turned(x, rows, columns):
    """(n, l, heads, d) as complex numbers of neighbouring channels, the first half by the row and the other by the column."""
    z = x[..., ::2] + 1j * x[..., 1::2]
    quarter = z.shape[-1] // 2
    frequencies = 1e4 ** (-np.arange(quarter) / quarter)
    angles = np.concatenate([rows[:, None] * frequencies, columns[:, None] * frequencies], -1)
    z = z * np.exp(1j * angles)[:, None]
    return np.stack([z.real, z.imag], -1).reshape(x.shape)


def attended(x, p, network, places):
    n, length, width = x.shape
    q, k, v = (y.reshape(n, length, network.heads, -1) for y in np.split(dense(x, p["query_key_value"]), 3, -1))
    if network.qk_norm:
        q, k = rms(q, p["q_norm"]), rms(k, p["k_norm"])
    if network.rotary:
        q, k = turned(q, *places), turned(k, *places)
    logits = np.einsum("nqhc,nkhc->nhqk", q, k) / np.sqrt(width / network.heads)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return dense(np.einsum("nhqk,nkhc->nqhc", weights, v).reshape(x.shape), p["out"])


def hidden(x, p, network):
    h = dense(x, p["in"])
    if network.mlp == "gelu":
        return dense(gelu(h), p["out"])
    gate, h = np.split(h, 2, -1)
    return dense(silu(gate) * h, p["out"])


def predicted(x, t, label, p, network):
    """What a DiT predicts, by the definitions of the papers, in float64."""
    n, height, width, channels = x.shape
    size, features = network.patch_size, network.width
    rows, columns = height // size, width // size
    waves = [one[:, None] * 1e4 ** (-np.arange(128) / 128) for one in t.reshape(n, -1).T]
    names = ("time_in", "time_in1", "time_in2")
    told = sum(dense(np.concatenate([np.cos(w), np.sin(w)], -1), p[name]) for name, w in zip(names, waves))
    told = dense(silu(told), p["time_out"])
    shown = 0
    if network.classes:
        shown = p["label"]["embedding"][label]
        told = told + shown

    patches = x.reshape(n, rows, size, columns, size, channels).transpose(0, 1, 3, 2, 4, 5).reshape(n, rows * columns, -1)
    if network.bottleneck:
        patches = patches @ p["bottleneck"]["kernel"]
    row, column = (axis.reshape(-1).astype(float) for axis in np.mgrid[:rows, :columns])
    frequencies = 1e4 ** (-np.arange(features // 4) / (features // 4))
    angles = [place[:, None] * frequencies for place in (column, row)]
    h = dense(patches, p["patches"]) + np.concatenate([wave(a) for a in angles for wave in (np.sin, np.cos)], -1)
    for i in range(network.layers):
        if network.class_tokens and i == network.class_tokens_from:
            tokens = np.broadcast_to(p["class_tokens"], (n, *p["class_tokens"].shape)) + np.reshape(shown, (n, 1, -1))
            h = np.concatenate([tokens, h], 1)
            row, column = (np.pad(axis, (network.class_tokens, 0)) for axis in (row, column))
        block = p[f"block{i}"]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(told, block["modulation"], 6)
        within = modulated(h, shift1, scale1, block.get("norm1"))
        h = h + gate1 * attended(within, block["attention"], network, (row, column))
        h = h + gate2 * hidden(modulated(h, shift2, scale2, block.get("norm2")), block["mlp"], network)
    h = h[:, h.shape[1] - rows * columns :]
    h = dense(modulated(h, *modulation(told, p["modulation_out"], 2), p.get("norm_out")), p["out"])
    h = h.reshape(n, rows, columns, size, size, network.out_channels).transpose(0, 1, 3, 2, 4, 5)
    return h.reshape(n, height, width, network.out_channels)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (dict(), (8, 12, 1)),
        (dict(classes=0, times=3, patch_size=1, heads=1, out_channels=2), (3, 4, 1)),
        (dict(MODERN, patch_size=4, width=24), (8, 12, 2)),
        (dict(JIT, mlp_ratio=3.0), (8, 12, 1)),
        (dict(rotary=True, mlp="swiglu", class_tokens=2), (4, 4, 1)),
    ],
)
def test_the_network_is_what_the_papers_define(options, shape):
    """With the same parameters, all of them random, so that every branch matters."""
    network = small(**options)
    x, t = inputs(shape)
    if network.times > 1:
        t = np.random.default_rng(1).uniform(0, 1, (2, network.times)).astype(np.float32)
    params = randomised(network, x, t)
    found = apply(network, params, x, t, LABEL)
    expected = predicted(np.float64(x), np.float64(t), LABEL["label"], jax.tree.map(np.float64, params), network)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-4 * expected.std())


# -------------------------------------------------------------------------------------------------------------- what must hold


def test_it_begins_as_zero_and_learns_from_there():
    """AdaLN-zero: the blocks are the identity and the last layer is zero; that layer's gradient is not."""
    network = small(**JIT)
    x, t = inputs()
    params = jax.jit(network.init)(jax.random.key(0), x, t, LABEL)["params"]
    assert not np.any(apply(network, params, x, t, LABEL))
    block = dit.Block(2, "layer", "gelu", 4.0, False, jnp.float32)
    h, told = jax.random.normal(jax.random.key(1), (2, 6, 16)), jax.random.normal(jax.random.key(2), (2, 16))
    np.testing.assert_array_equal(jax.jit(block.init_with_output)(jax.random.key(3), h, told, None)[0], h)
    grads = jax.jit(jax.grad(lambda p: jnp.square(network.apply({"params": p}, x, t, LABEL) - 1).mean()))(params)
    assert np.abs(grads["out"]["kernel"]).max() > 1e-3


def test_rotary_positions_are_relative():
    """The logits of a query and a key are a function of the difference of their places, in rows and in columns."""
    q, k = (jax.random.normal(jax.random.key(i), (1, 1, 1, 16)) for i in range(2))
    at = dit.places((5, 5), (5, 5))

    def logit(one, other):
        first, second = (dit.angles(place[None], 4).reshape(1, -1) for place in (one, other))
        return np.vdot(dit.rotated(q, first), dit.rotated(k, second))

    found = np.array([[logit(one, other) for other in at] for one in at])
    expected = np.array([[logit(one - other, np.zeros(2)) for other in at] for one in at])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(np.unique(found.round(3))) > 60  # of 81 differences
    np.testing.assert_allclose(logit(at[7], at[7]), np.vdot(q, k), rtol=1e-5)


def test_positions_at_the_trained_size_are_whole_numbers_and_others_lie_between():
    np.testing.assert_array_equal(dit.places((2, 3), (2, 3)), [[i, j] for i in range(2) for j in range(3)])
    doubled = dit.places((4, 6), (2, 3)).reshape(4, 6, 2)
    np.testing.assert_allclose(doubled[:, 0, 0], [-0.25, 0.25, 0.75, 1.25])
    np.testing.assert_allclose((doubled[::2, ::2] + doubled[1::2, 1::2]).reshape(-1, 2) / 2, dit.places((2, 3), (2, 3)))
    for side in range(1, 70):
        np.testing.assert_array_equal(dit.places((side, 1), (side, 1))[:, 0], np.arange(side))


@pytest.mark.parametrize("options", [{}, JIT])
def test_another_size_than_the_trained_one_works(options):
    """At the trained size interpolation is the identity; a finer grid of one constant image has much the same prediction."""
    x, t = inputs((8, 12, 1))
    network = small(**options)
    params = randomised(network, x, t)
    told = small(**options, trained_size=(8, 12))
    np.testing.assert_array_equal(apply(told, params, x, t, LABEL), apply(network, params, x, t, LABEL))
    larger = np.float32(np.kron(x[..., 0], np.ones((2, 2)))[..., None])
    assert apply(told, params, larger, t, LABEL).shape == (2, 16, 24, 1)
    assert np.abs(apply(told, params, larger, t, LABEL) - apply(network, params, larger, t, LABEL)).max() > 1e-3


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_patches_come_back_in_their_places(patch_size):
    """One changed pixel changes the patches that see it, and without attention only its own."""
    network = small(patch_size=patch_size, layers=1)
    x, t = inputs((8, 8, 1))
    params = randomised(network, x, t)
    params["block0"]["modulation"] = jax.tree.map(np.zeros_like, params["block0"]["modulation"])  # no branch
    changed = x.copy()
    changed[:, 5, 2] += 1
    moved = np.any(apply(network, params, changed, t, LABEL) != apply(network, params, x, t, LABEL), (0, 3))
    expected = np.zeros((8, 8), bool)
    row, column = 5 // patch_size * patch_size, 2 // patch_size * patch_size
    expected[row : row + patch_size, column : column + patch_size] = True
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize("start", [0, 1])
def test_class_tokens_change_the_result_and_are_not_in_it(start):
    network = small(class_tokens=3, class_tokens_from=start)
    x, t = inputs()
    params = randomised(network, x, t)
    out = apply(network, params, x, t, LABEL)
    assert out.shape == x.shape
    without = {name: value for name, value in params.items() if name != "class_tokens"}
    assert np.abs(out - apply(small(), without, x, t, LABEL)).max() > 1e-3
    registers = small(class_tokens=3, classes=0)
    assert apply(registers, randomised(registers, x, t), x, t, {}).shape == x.shape


@pytest.mark.parametrize("options", [{}, JIT])
def test_images_of_a_batch_are_independent(options):
    network = small(**options)
    x, t = inputs()
    params = randomised(network, x, t)
    swapped = {"label": LABEL["label"][::-1]}
    out, turned = apply(network, params, x, t, LABEL), apply(network, params, x[::-1], t[::-1], swapped)
    np.testing.assert_allclose(turned[::-1], out, rtol=1e-4, atol=1e-5)
    other = apply(network, params, np.stack([x[0], x[1] + 1]), t, LABEL)
    np.testing.assert_allclose(other[0], out[0], rtol=1e-4, atol=1e-5)
    assert np.abs(other[1] - out[1]).max() > 1e-3


@pytest.mark.recipes
def test_remat_changes_nothing_but_memory():
    x, t = inputs()
    params = randomised(small(**JIT), x, t)

    def grad(network):
        return jax.jit(jax.grad(lambda p: jnp.sum(network.apply({"params": p}, x, t, LABEL) ** 2)))(params)

    chex.assert_trees_all_close(grad(small(**JIT)), grad(small(**JIT, remat=True)), rtol=1e-4, atol=1e-3)


def test_bfloat16_keeps_float32_parameters_and_result():
    x, t = inputs()
    half = small(**JIT, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0), x, t, LABEL)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    params = randomised(half, x, t)
    wide, narrow = apply(small(**JIT), params, x, t, LABEL), apply(half, params, x, t, LABEL)
    assert narrow.dtype == jnp.float32
    assert 0 < np.abs(narrow - wide).max() < 0.05 * np.abs(wide).max()


@pytest.mark.parametrize("remat", [False, pytest.param(True, marks=pytest.mark.recipes)])
def test_it_has_derivatives_in_forward_mode(remat):
    """Along x and two times, as MeanFlow takes them: the product with what reverse mode gives."""
    network = small(**JIT, times=2, remat=remat)
    rng = np.random.default_rng(0)
    x, t, along, moving, weights = (np.float32(rng.normal(size=size)) for size in ((2, 8, 8, 1), (2, 2)) * 2 + ((2, 8, 8, 1),))
    params = randomised(network, x, t)

    @jax.jit
    def both(x, t):
        def predict(x, t):
            return network.apply({"params": params}, x, t, LABEL)

        change = jax.jvp(predict, (x, t), (along, moving))[1]
        of_x, of_t = jax.vjp(predict, x, t)[1](weights)
        return (weights * change).sum(), (of_x * along).sum() + (of_t * moving).sum()

    np.testing.assert_allclose(*both(x, t), rtol=1e-3)
