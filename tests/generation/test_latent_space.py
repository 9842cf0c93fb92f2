"""Paths, traversals and directions against their closed forms."""

import math
import types

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.algorithms import base
from imagegen_jax.generation import latent_space
from imagegen_jax.training import sharding

SHAPE = (6, 5, 1)
SIZE = math.prod(SHAPE)

# ------------------------------------------------------------------------------------------------------------------ slerp


def test_slerp_moves_at_constant_speed_along_the_great_arc():
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 7))
    start, end = start / np.linalg.norm(start), end / np.linalg.norm(end)
    t = np.linspace(0, 1, 11)
    made = latent_space.slerp(start, end, t)
    assert made.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(made, axis=-1), 1, atol=1e-6)
    angle = np.arccos(start @ end)
    np.testing.assert_allclose(np.arccos(np.clip(made @ start, -1, 1)), t * angle, atol=1e-3)
    np.testing.assert_allclose(np.arccos(np.clip(made @ end, -1, 1)), (1 - t) * angle, atol=1e-3)
    # In the plane of the two: a quarter circle is (cos, sin).
    quarter = latent_space.slerp(np.array([1, 0]), np.array([0, 1]), t)
    np.testing.assert_allclose(quarter, np.stack([np.cos(t * np.pi / 2), np.sin(t * np.pi / 2)], -1), atol=1e-7)


@pytest.mark.parametrize("size", [2, 500])
def test_slerp_keeps_its_ends_exactly_and_lengths_go_linearly(size):
    rng = np.random.default_rng(1)
    start, end = (rng.normal(size=(2, size)) * [[3], [0.2]]).astype(np.float32)
    t = np.linspace(0, 1, 9)
    made = latent_space.slerp(start, end, t)
    np.testing.assert_array_equal(made[[0, -1]], [start, end])
    lengths = np.linalg.norm([start, end], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(made, axis=-1), (1 - t) * lengths[0] + t * lengths[1], rtol=1e-5)


@pytest.mark.parametrize("end", [(2, 4), (-1, -2), (1, 2), (0, 0), (1 + 1e-9, 2), (-1, -2 + 1e-9)])
def test_slerp_without_an_arc_is_a_line(end):
    start, end, t = np.array([1.0, 2.0]), np.array(end, np.float64), np.linspace(0, 1, 5)
    line = (1 - t)[:, None] * start + t[:, None] * end
    np.testing.assert_allclose(latent_space.slerp(start, end, t), line, atol=1e-6)
    np.testing.assert_allclose(latent_space.slerp(end, start, t), line[::-1], atol=1e-6)


def test_slerp_is_precise_between_neighbours_and_far_ends():
    for angle in (1e-4, np.pi - 1e-4):
        end = np.array([np.cos(angle), np.sin(angle)])
        (middle,) = latent_space.slerp(np.array([1.0, 0.0]), end, [0.5])
        np.testing.assert_allclose(middle, [np.cos(angle / 2), np.sin(angle / 2)], atol=1e-6)


# ------------------------------------------------------------------------------------------------------- walks of a codec


class Linear(base.Algorithm):
    """Latents that are an orthogonal matrix times the pixels, and with labels that class's share of a constant."""

    latent_shape = (SIZE,)
    prior_is_normal = False
    matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))[0].astype(np.float32)

    def __init__(self, classes=0):
        self.classes = classes
        self.traced = 0

    def encode(self, state, batch, rng=None):
        x = images.to_float(batch["image"]).reshape(-1, SIZE)
        return state.params["scale"] * jnp.dot(x, self.matrix, precision="highest")

    def decode(self, state, codes, condition):
        label = condition.get("label")
        self.traced += 1
        assert (label is None) == (not self.classes)
        x = jnp.dot(codes / state.params["scale"], self.matrix.T, precision="highest").reshape(-1, *SHAPE)
        return x if label is None else x + 0.1 * label[:, None, None, None]

    from_config = init = train_step = eval_step = None


def linear_codec(batch_size=8, classes=0):
    state = base.TrainState(jnp.zeros((), jnp.int32), {"scale": jnp.full((), 2.0)}, {}, {})
    mesh = sharding.make_mesh(jax.device_count())
    state = jax.device_put(state, sharding.replicated(mesh))
    return latent_space.Codec(Linear(classes), state, mesh, batch_size)


def random_images(num, seed=0):
    return np.random.default_rng(seed).integers(50, 200, (num, *SHAPE)).astype(np.uint8)


def test_latents_do_not_depend_on_the_batch_size_and_decode_to_their_images():
    image, label = random_images(19), np.zeros(19, np.int32)
    expected = 2 * (image / 127.5 - 1).reshape(19, SIZE) @ Linear.matrix
    for batch_size in (8, 11, 40):
        codec = linear_codec(batch_size)
        assert codec.dimensions == SIZE and codec.batch_size % jax.device_count() == 0
        made = codec.encode(image, label)
        assert made.shape == (19, SIZE) and made.dtype == np.float32
        np.testing.assert_allclose(made, expected, atol=1e-4)
        back = codec.decode(made, label)
        assert back.dtype == np.uint8
        np.testing.assert_array_equal(back, image)


def test_everything_is_compiled_once():
    algorithm = Linear()
    state = base.TrainState(jnp.zeros((), jnp.int32), {"scale": jnp.ones(())}, {}, {})
    codec = latent_space.Codec(algorithm, state, sharding.make_mesh(jax.device_count()), 8)
    for shape in ((3,), (17,), (2, 9), (1, 1, 5)):
        assert codec.decode(np.zeros((*shape, SIZE), np.float32), 0).shape == (*shape, *SHAPE)
    assert algorithm.traced == 1


def test_interpolations_end_in_reconstructions_with_the_label_of_the_nearer_end():
    codec = linear_codec(classes=4)
    image, label = random_images(3), np.array([3, 0, 2], np.int32)
    ends = codec.encode(image, label)
    told = latent_space.labels_of_paths(label, 5)
    assert told.tolist() == [[3, 3, 0, 0, 0], [0, 0, 2, 2, 2]]
    cells = codec.decode(latent_space.paths(ends, 5), told)
    assert cells.shape == (2, 5, *SHAPE)
    reconstructed = codec.decode(ends, label)
    np.testing.assert_array_equal(cells[:, 0], reconstructed[:-1])
    np.testing.assert_array_equal(cells[:, -1], reconstructed[1:])
    assert np.abs(reconstructed[0].astype(int) - image[0] - round(0.3 * 127.5)).max() <= 1  # the label arrived


def test_a_traversal_changes_one_dimension():
    rng = np.random.default_rng(0)
    code, deviations = rng.normal(size=8).astype(np.float32), rng.uniform(0.1, 2, 8)
    values = np.linspace(-2.5, 2.5, 5)
    made = latent_space.traversals(code, deviations, [6, 0], values)
    assert made.shape == (2, 5, 8) and made.dtype == np.float32
    for row, dimension in zip(made, (6, 0)):
        np.testing.assert_allclose(row[:, dimension], code[dimension] + values * deviations[dimension], rtol=1e-5)
        others = np.arange(8) != dimension
        np.testing.assert_array_equal(row[:, others], np.broadcast_to(code[others], (5, 7)))
    np.testing.assert_array_equal(made[:, 2], [code, code])


def test_a_direction_is_the_difference_of_class_means():
    codec = linear_codec()
    image, label = random_images(30), np.arange(30, dtype=np.int32) % 3
    towards = latent_space.direction(codec.encode(image, label), label, 2, 0)
    x = (image / 127.5 - 1).reshape(30, SIZE)
    np.testing.assert_allclose(towards, 2 * (x[0::3].mean(0) - x[2::3].mean(0)) @ Linear.matrix, atol=1e-4)
    # In a linear model it is the difference of the mean images.
    moved = codec.decode(latent_space.shifts(codec.encode(image[:2], label[:2]), towards, [0, 0.5]), label)
    assert moved.shape == (2, 2, *SHAPE)
    change = (image[0::3].mean(0) - image[2::3].mean(0)) / 2
    np.testing.assert_array_equal(moved[:, 0], image[:2])
    assert np.abs(moved[:, 1] - (image[:2] + change)).max() <= 1
    with pytest.raises(errors.UserError, match="--to=3: none of 30 training images"):
        latent_space.direction(codec.encode(image, label), label, 0, 3)


def test_random_latents_are_standard_normal_and_each_of_its_seed():
    made = latent_space.of_prior([5, 6], 4000)
    assert abs(made.mean()) < 0.05 and abs(made.std() - 1) < 0.05 and abs((made[0] * made[1]).mean()) < 0.06
    np.testing.assert_array_equal(made[1:], latent_space.of_prior([6], 4000))


def test_latents_of_a_domain_come_from_all_of_it():
    codec, image, label = linear_codec(), random_images(24), np.arange(24, dtype=np.int32) // 8

    def reader(numbers):
        return {"image": image[numbers], "condition": {"label": label[numbers]}, "index": np.asarray(numbers)}

    domain = types.SimpleNamespace(source=range(24), reader=reader)
    made, labels = latent_space.of_domain(codec, domain, 10**6)
    np.testing.assert_array_equal(made, codec.encode(image, label))
    np.testing.assert_array_equal(labels, label)
    some, labels = latent_space.of_domain(codec, domain, 12)
    assert len(some) == 12 and set(labels.tolist()) == {0, 1, 2}  # a folder's classes lie one behind the other


def test_blends_are_means_as_long_as_their_latents():
    latents = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)
    ends = latents[:2] / np.linalg.norm(latents[:2], axis=1, keepdims=True)
    np.testing.assert_allclose(latent_space.blended(ends, [1, 1]), latent_space.slerp(*ends, [0.5])[0], atol=1e-6)
    np.testing.assert_allclose(latent_space.blended(latents, [0, 5, 0]), latents[1], atol=1e-6)
    made = latent_space.blended(latents, [1, 2, 1])
    assert np.linalg.norm(made) == pytest.approx([0.25, 0.5, 0.25] @ np.linalg.norm(latents, axis=1), rel=1e-5)
    np.testing.assert_array_equal(latent_space.blended(np.stack([ends[0], -ends[0]]), [1, 1]), 0)
