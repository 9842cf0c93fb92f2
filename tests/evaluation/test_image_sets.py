"""Where images to be scored come from: numbered, from any image on, and refused where they are not images."""

import numpy as np
from PIL import Image
import pytest

from imagegen_jax import errors
from imagegen_jax.data import sources
from imagegen_jax.data import tfds_sources
from imagegen_jax.evaluation import image_sets


def read(image_set, first=0):
    batches = list(image_set.batches(first))
    return tuple(np.concatenate(part) for part in zip(*batches))


@pytest.fixture
def drawn():
    return np.random.default_rng(0).integers(0, 256, (130, 6, 5, 1), np.uint8)


def test_an_array_file_and_a_folder_hold_the_same(tmp_path, drawn):
    np.savez(tmp_path / "drawn.npz", images=drawn)
    (tmp_path / "drawn").mkdir()
    for i, image in enumerate(drawn):
        Image.fromarray(image[..., 0]).save(tmp_path / "drawn" / f"{i:05}.png")
    for spec in ("drawn.npz", "drawn"):
        image_set = image_sets.named(str(tmp_path / spec))
        assert (image_set.num, image_set.shape) == (130, (6, 5, 1))
        images, _ = read(image_set)
        np.testing.assert_array_equal(np.sort(images, 0), np.sort(drawn, 0))
        order = [int(np.flatnonzero((drawn == image).all((1, 2, 3)))[0]) for image in images]
        assert order != sorted(order) == list(range(130))  # each once, and not the first class first
        np.testing.assert_array_equal(read(image_set, 117)[0], images[117:])
        np.testing.assert_array_equal(image_set.read(np.array([99]))[0][0], images[99])
        np.testing.assert_array_equal(np.concatenate(list(image_set.images(103))), images[:103])


def test_the_splits_of_a_source_have_protocols_of_their_own():
    test, train = (image_sets.named("fashion_mnist_10k", split) for split in ("test", "train"))
    assert (test.num, train.num) == (2000, 8000) and test.protocol != train.protocol
    images, labels = read(test, 1950)
    assert images.shape == (50, 28, 28, 1) and set(labels) <= set(range(10))
    assert image_sets.named("fashion_mnist_10k", shape=(14, 14, 3)).shape == (14, 14, 3)


def test_only_what_is_asked_for_is_read(monkeypatch):
    image_set = image_sets.named("fashion_mnist_10k")
    images, labels = read(image_set, 1900)
    asked = []
    monkeypatch.setattr(tfds_sources.TfdsSource, "__getitems__", _counted(tfds_sources.TfdsSource.__getitems__, asked))
    for found, expected in zip(image_set.read(np.array([1999, 1901])), (images, labels)):
        np.testing.assert_array_equal(found, expected[[99, 1]])
    assert asked == [2]


def _counted(getitems, asked):
    return lambda self, indices: asked.append(len(indices)) or getitems(self, indices)


def test_random_pixels_are_numbered():
    image_set = image_sets.random_pixels((4, 4, 3), 250)
    images, _ = read(image_set)
    np.testing.assert_array_equal(read(image_set, 137)[0], images[137:])
    assert abs(images.mean() - 127.5) < 4 and len(np.unique(images)) == 256


def test_statistics(tmp_path, drawn):
    np.savez(tmp_path / "stats.npz", mu=np.arange(3.0), sigma=np.eye(3))
    moments, protocol = image_sets.statistics(str(tmp_path / "stats.npz"))
    assert moments.count is None and protocol["source"] == "stats.npz"
    np.testing.assert_array_equal(moments.mean, np.arange(3.0))
    np.savez(tmp_path / "images.npz", images=drawn)
    for spec in ("images.npz", "nothing.npz", "fashion_mnist_10k"):
        assert image_sets.statistics(str(tmp_path / spec)) is None
    for odd in ({"mu": np.arange(3.0), "sigma": np.eye(2)}, {"mu": np.float64(1), "sigma": np.eye(2)}):
        np.savez(tmp_path / "odd.npz", **odd)
        with pytest.raises(errors.UserError, match="give \\(d,\\) and \\(d, d\\)"):
            image_sets.statistics(str(tmp_path / "odd.npz"))
    np.savez(tmp_path / "text.npz", mu=np.array(["a"]), sigma=np.eye(1))
    with pytest.raises(errors.UserError, match="give numbers"):
        image_sets.statistics(str(tmp_path / "text.npz"))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pictures": np.zeros((2, 4, 4, 1), np.uint8)}, "no array 'images'"),
        ({"images": np.full((2, 4, 4, 1), np.nan)}, "not finite"),
        ({"images": np.zeros((2, 4, 4, 1))}, "give uint8"),
        ({"images": np.zeros((4, 4, 1), np.uint8)}, "give uint8"),
        ({"images": np.zeros((0, 4, 4, 1), np.uint8)}, "give uint8"),
        ({"images": np.zeros((2, 4, 4, 1), np.uint8), "labels": np.zeros((2, 1), int)}, "give integers of shape \\(2,\\)"),
        ({"images": np.zeros((2, 4, 4, 1), np.uint8), "labels": np.zeros(2)}, "give integers"),
    ],
)
def test_arrays_that_are_no_images(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(errors.UserError, match=words):
        image_sets.named(str(tmp_path / "a.npz"))


def test_files_that_are_not_there(tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"PK not a zip file")
    (tmp_path / "empty").mkdir()
    np.save((tmp_path / "single.npz").open("wb"), np.zeros(3))
    with pytest.raises(errors.UserError, match="cannot read .*single.npz: it is a single array"):
        image_sets.statistics(str(tmp_path / "single.npz"))
    for spec, words in (
        ("broken.npz", "cannot read"),
        ("single.npz", "single array"),
        ("missing.npz", "cannot read"),
        ("empty", "no images in"),
    ):
        with pytest.raises(errors.UserError, match=words):
            image_sets.named(str(tmp_path / spec))


def test_labels_are_part_of_a_fingerprint(tmp_path, drawn):
    fingerprints = set()
    for labels in (np.zeros(len(drawn), int), np.ones(len(drawn), int)):
        np.savez(tmp_path / "a.npz", images=drawn, labels=labels)
        fingerprints.add(image_sets.named(str(tmp_path / "a.npz")).protocol["fingerprint"])
    assert len(fingerprints) == 2


def test_halves_share_no_image(tmp_path):
    for i in range(9):
        (tmp_path / "train" / "ab"[i % 3 == 0]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / "train" / "ab"[i % 3 == 0] / f"{i}.png")
    data = image_sets.section(str(tmp_path / "train"))
    whole, *halves = (image_sets.of_data(data, "train", half=half) for half in (None, 0, 1))
    values = [set(read(image_set)[0][:, 0, 0, 0].tolist()) for image_set in halves]
    assert [len(each) for each in values] == [image_set.num for image_set in halves] == [5, 4] and not values[0] & values[1]
    assert len({image_set.protocol.get("half") for image_set in (whole, *halves)}) == 3
    assert whole.class_names == ("a", "b")
    np.testing.assert_allclose(whole.class_shares(), [6 / 9, 3 / 9])
    for image_set in halves:
        np.testing.assert_allclose(image_set.class_shares(), np.bincount(read(image_set)[1], minlength=2) / image_set.num)
    assert image_sets.random_pixels((4, 4, 1), 3).class_shares() is None


def test_what_shows_the_same_things():
    def section(source, test_split="test"):
        return sources.Config(source=source, test_split=test_split)

    same = image_sets.same_content
    assert same(section("mnist"), section("edges:mnist")) and same(section("edges:mnist"), section("mnist"))
    assert not same(section("mnist"), section("edges:mnist"), "train") and not same(section("mnist"), section("cifar10"))
    assert not same(section("folder:a", "testA"), section("folder:a", "testB"))
    assert same(section("folder:a", "testA"), section("folder:a", "testB"), paired=True)
    assert not same(section("folder:a", "testA"), section("folder:a", "testB"), "train", paired=True)
