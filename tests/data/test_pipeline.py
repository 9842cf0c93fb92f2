"""The order of the batches: its invariants, whatever the number of processes, threads and restarts."""

import functools
import itertools

import jax
import numpy as np
import pytest
from scipy import ndimage
from scipy import stats

from imagegen_jax import errors
from imagegen_jax.data import augment
from imagegen_jax.data import pipeline
from imagegen_jax.data import sources

RECORDS = 23


@pytest.fixture(scope="module")
def reader():
    images = np.arange(RECORDS, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    return pipeline.Reader(sources.ArraySource(images, np.arange(RECORDS) % 10, [*"0123456789"]), (2, 2, 1), "error")


def order(reader, steps, first_step=0, order=None, batch_size=8, **options):
    options = dict(workers=2, prefetch=3) | options
    order = order or pipeline.shuffled(RECORDS, 0)
    batches = pipeline.train_batches(reader, order, batch_size=batch_size, first_step=first_step, **options)
    taken = list(itertools.islice(batches, steps))
    for batch in taken:  # the parts of a batch belong together
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
        np.testing.assert_array_equal(batch["condition"]["label"], batch["index"] % 10)
    return np.stack([batch["index"] for batch in taken])


def test_a_batch_is_a_function_of_seed_and_step(reader):
    whole = order(reader, 12)
    for first in (1, 5, 11):
        np.testing.assert_array_equal(order(reader, 12 - first, first), whole[first:])
    np.testing.assert_array_equal(order(reader, 12, workers=1, prefetch=1), whole)
    assert (order(reader, 12, order=pipeline.shuffled(RECORDS, 1)) != whole).any()


def test_each_class_is_drawn_equally_often_and_each_image_of_it_too(reader):
    """23 images of three classes, one of them with a single image; what has no label is left out."""
    labels = np.array([0] * 15 + [2] + [5] * 5 + [-1] * 2)
    balanced = functools.partial(pipeline.balanced, labels)
    whole = order(reader, 45, order=balanced(0))  # 120 rounds of each class
    np.testing.assert_array_equal(np.unique(labels[whole], return_counts=True)[1], [120, 120, 120])
    np.testing.assert_array_equal(np.bincount(whole.ravel(), minlength=RECORDS), [8] * 15 + [120] + [24] * 5 + [0, 0])
    assert all(len(set(labels[turn])) == 3 for turn in whole.reshape(-1, 3))
    assert len({tuple(labels[turn]) for turn in whole.reshape(-1, 3)}) == 6  # in every order

    np.testing.assert_array_equal(order(reader, 38, 7, order=balanced(0)), whole[7:])
    halves = [order(reader, 45, order=balanced(0), process_index=i, process_count=2) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves, 1), whole)
    assert (order(reader, 45, order=balanced(1)) != whole).any()


@pytest.mark.parametrize("batch_size", [1, 8, 23])
def test_every_epoch_visits_each_image_once(reader, batch_size):
    stream = order(reader, 3 * RECORDS // batch_size, batch_size=batch_size).ravel()
    epochs = stream[: len(stream) // RECORDS * RECORDS].reshape(-1, RECORDS)
    assert len(epochs) >= 2
    for epoch in epochs:
        assert sorted(epoch) == list(range(RECORDS))
    assert (epochs[0] != epochs[1]).any() and (epochs[0] != np.arange(RECORDS)).any()


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_each_batch_in_order(reader, count):
    shares = [order(reader, 6, process_index=i, process_count=count) for i in range(count)]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), order(reader, 6))


@pytest.mark.parametrize(("batch_size", "count"), [(8, 1), (8, 2), (23, 1), (32, 4)])
def test_evaluation_sees_every_record_once(reader, batch_size, count):
    seen = []
    for i in range(count):
        for batch, mask in pipeline.eval_batches(reader, np.arange(RECORDS), batch_size, i, count):
            assert len(batch["image"]) == batch_size // count
            seen += batch["index"][mask > 0].tolist()
    assert sorted(seen) == list(range(RECORDS))


def test_shapes_that_the_config_must_settle():
    source = sources.ArraySource(np.zeros((2, 6, 8, 1), np.uint8), [0, 0], [])
    config = sources.Config()
    assert pipeline.host_shape(source, config) == pipeline.model_shape(source, config) == (6, 8, 1)
    config = sources.Config(image_size=4, load_size=5, channels=3)
    assert pipeline.host_shape(source, config) == (5, 5, 3) and pipeline.model_shape(source, config) == (4, 4, 3)
    with pytest.raises(errors.UserError, match="load_size is 3"):
        pipeline.host_shape(source, sources.Config(image_size=4, load_size=3))
    with pytest.raises(errors.UserError, match="load_size needs"):
        pipeline.host_shape(source, sources.Config(load_size=5))
    source.image_shape = (None, None, 1)
    with pytest.raises(errors.UserError, match="config.data.image_size"):
        pipeline.host_shape(source, sources.Config())


def test_augmentation_crops_and_mirrors_each_image_by_itself():
    """Each output is found in its input at exactly one place, mirrored or not; places and mirrorings are uniform."""
    n = 600
    image = np.arange(30, dtype=np.uint8).reshape(1, 5, 6, 1).repeat(n, 0)
    out = np.asarray(jax.jit(lambda key, x: augment.augment(key, x, (3, 4), flip=True))(jax.random.key(0), image))
    assert out.shape == (n, 3, 4, 1)
    places = {}
    for top, left, mirrored in itertools.product(range(3), range(3), (False, True)):
        window = image[0, top : top + 3, left : left + 4]
        places[(window[:, ::-1] if mirrored else window).tobytes()] = (top, left, mirrored)
    found = [places[crop.tobytes()] for crop in out]
    counts = np.array([found.count(place) for place in places.values()])
    assert np.abs(counts - n / 18).max() < 5 * np.sqrt(n / 18)
    again = augment.augment(jax.random.key(0), image, (3, 4), flip=True)
    np.testing.assert_array_equal(out, again)
    np.testing.assert_array_equal(augment.augment(jax.random.key(0), image, (5, 6), flip=False), image)


def test_a_fair_draw_has_each_class_in_its_share():
    """64 images of one class, then 64 of another: the first half of them is of one class, half of a draw is of each."""
    drawn = pipeline.fair_draw(128, 64)
    assert len(set(drawn)) == 64 and 24 <= (drawn < 64).sum() <= 40
    np.testing.assert_array_equal(drawn, pipeline.fair_draw(128, 64))
    np.testing.assert_array_equal(pipeline.fair_draw(9, 9), np.arange(9))


def test_rotations_are_those_of_an_independent_implementation_and_leave_other_draws_alone():
    """Each image is SciPy's of some angle within the bounds; angles are uniform; crops are the same as without."""
    n, most = 400, 20.0
    y, x = np.mgrid[:15, :11]
    image = np.stack([255 * (x > 5), 12 * x + 6 * y], -1).astype(np.uint8)  # an edge to find the angle by, and a ramp
    turn = jax.jit(lambda key, x: augment.augment(key, x, (15, 11), False, most))
    out = np.asarray(turn(jax.random.key(0), image[None].repeat(n, 0))).astype(float)
    candidates = np.linspace(-most, most, 161)
    turned = np.stack(
        [ndimage.rotate(image.astype(float), angle, (1, 0), reshape=False, order=1, mode="nearest") for angle in candidates]
    )
    distances = np.stack([np.abs(turned - one).mean((1, 2, 3)) for one in out])
    assert distances.min(1).max() < 1.5
    angles = candidates[distances.argmin(1)]
    assert stats.kstest(angles, stats.uniform(-most, 2 * most).cdf).pvalue > 1e-3

    flat = np.arange(16, dtype=np.uint8).reshape(1, 16, 1, 1) * np.ones((64, 1, 16, 3), np.uint8)
    cropped, both = (augment.augment(jax.random.key(1), flat, (8, 8), True, rotate) for rotate in (0.0, 1e-6))
    np.testing.assert_array_equal(cropped, both)
