"""Collections: what was computed before a kill is kept, and nothing is lost or counted twice."""

import jax
import numpy as np
import pytest

from imagegen_jax import errors
from imagegen_jax.evaluation import collection


class Extractor:
    """Stands for a network: the features are the first pixel and the image's mean; it counts the images it saw."""

    def __init__(self):
        self.seen = []

    def __call__(self, batch):
        self.seen += [int(image.flat[0]) for image in batch]
        found = np.stack([batch.reshape(len(batch), -1)[:, 0], batch.mean((1, 2, 3))], 1)
        return found.astype(np.float32), np.zeros((len(batch), 0), np.float32)


def numbered(stop=None, size=7):
    """first -> batches of images whose pixels are their number; the process is killed at image `stop`."""

    def batches(first):
        for start in range(first, 50, size):
            if stop is not None and start >= stop:
                raise KeyboardInterrupt
            index = np.arange(start, min(start + size, 50))
            yield np.broadcast_to(index[:, None, None, None], (len(index), 2, 2, 1)).astype(np.uint8), index

    return batches


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(collection, "_PIECE", 10)
    monkeypatch.setattr(collection, "KEPT_IMAGES", 12)


def assert_is_first(found, n):
    np.testing.assert_array_equal(found.features[:, 0], np.arange(n))
    np.testing.assert_array_equal(found.labels, np.arange(n))
    np.testing.assert_array_equal(found.images[:, 0, 0, 0], np.arange(min(n, 12)))


@pytest.mark.parametrize("num", [1, 12, 33, 50, 80])
def test_the_first_so_many(num):
    assert_is_first(collection.collect(Extractor(), numbered(), num), min(num, 50))


def test_what_was_kept_is_not_computed_again(tmp_path):
    first, second = Extractor(), Extractor()
    with pytest.raises(KeyboardInterrupt):
        collection.collect(first, numbered(stop=30), 45, tmp_path / "pieces")
    assert_is_first(collection.collect(second, numbered(size=3), 45, tmp_path / "pieces"), 45)
    kept = second.seen[0]
    assert kept == 28 and second.seen == list(range(28, 45)) and first.seen[:kept] == list(range(28))
    # A third time nothing is left to do, for fewer images either.
    third = Extractor()
    assert_is_first(collection.collect(third, numbered(), 20, tmp_path / "pieces"), 20)
    assert not third.seen
    collection.discard(tmp_path / "pieces")
    assert not (tmp_path / "pieces").exists()


def test_a_damaged_piece_is_computed_again(tmp_path):
    collection.collect(Extractor(), numbered(), 45, tmp_path)
    pieces = sorted(tmp_path.iterdir())
    pieces[1].write_bytes(pieces[1].read_bytes()[:100])
    extractor = Extractor()
    assert_is_first(collection.collect(extractor, numbered(), 45, tmp_path), 45)
    assert extractor.seen == list(range(int(pieces[1].stem), 45))


def test_saved_is_loaded(tmp_path):
    found = collection.collect(Extractor(), numbered(), 20)
    collection.save(tmp_path / "folder" / "set.npz", found)
    again = collection.load(tmp_path / "folder" / "set.npz")
    jax.tree.map(np.testing.assert_array_equal, vars(found), vars(again))
    assert collection.load(tmp_path / "other.npz") is None


def test_no_images_are_an_error_and_no_room_is_a_note(tmp_path, capsys):
    with pytest.raises(errors.UserError, match="no generated images"):
        collection.collect(Extractor(), lambda first: iter(()), 5, what="generated images")
    (tmp_path / "file").touch()
    assert_is_first(collection.collect(Extractor(), numbered(), 45, tmp_path / "file"), 45)
    said = [line for line in capsys.readouterr().err.splitlines() if "cannot write" in line]
    assert len(said) == 1 and said[0].endswith("it will be computed again the next time")
