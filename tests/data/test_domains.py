"""Two domains: each with its own order and splits, together in one batch."""

import itertools

import jax
import numpy as np
from PIL import Image
import pytest

from configs import cyclegan
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax.data import domains
from imagegen_jax.data import sources


def save(folder, n, start=0):
    folder.mkdir()
    for i in range(n):
        Image.fromarray(np.full((8, 8), start + i, np.uint8)).save(folder / f"{i:03}.png")


@pytest.fixture
def config(tmp_path):
    """The reference's layout: 10 images of a (their brightness their number), 7 of b (100 more)."""
    save(tmp_path / "trainA", 10)
    save(tmp_path / "trainB", 7, start=100)
    save(tmp_path / "testA", 3)
    save(tmp_path / "testB", 2, start=100)
    config = config_lib.default("cyclegan")
    config.data.source = f"folder:{tmp_path}"
    config.batch_size = 2
    return config


def order(config, steps, first_step=0, **share):
    opened = domains.open_domains(config_lib.typed(config).data, "train")
    batches = domains.train_batches(opened, config, first_step, **share)
    taken = list(itertools.islice(batches, steps))
    for batch in taken:  # the domains are not mixed up
        np.testing.assert_array_equal(batch["a"]["image"][:, 0, 0, 0], batch["a"]["index"])
        np.testing.assert_array_equal(batch["b"]["image"][:, 0, 0, 0], 100 + batch["b"]["index"])
    return {name: np.stack([batch[name]["index"] for batch in taken]) for name in "ab"}


def test_each_domain_has_its_own_order_that_a_resume_continues(config):
    whole = order(config, 35)
    for name, n in (("a", 10), ("b", 7)):
        epochs = whole[name].ravel().reshape(-1, n)
        assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
        assert (epochs[0] != epochs[1]).any()
        np.testing.assert_array_equal(order(config, 30, 5)[name], whole[name][5:])
        halves = [order(config, 35, process_index=i, process_count=2)[name] for i in range(2)]
        np.testing.assert_array_equal(np.concatenate(halves, 1), whole[name])
    # b is drawn independently of a: each image of one meets many of the other
    assert len(set(zip(whole["a"].ravel().tolist(), whole["b"].ravel().tolist()))) > 40


def test_an_epoch_is_that_of_the_larger_domain(config):
    assert domains.records(domains.open_domains(config_lib.typed(config).data, "train")) == 10


def test_test_images_are_a_fair_draw_in_pairs_and_padding_is_masked(config, tmp_path):
    opened = domains.open_domains(
        config_lib.typed(config).data, "test", domains.specs(domains.open_domains(config_lib.typed(config).data, "train"))
    )
    ((batch, mask),) = domains.eval_batches(opened, 2, 4)
    assert mask.tolist() == [1, 1, 0, 0]
    assert batch["b"]["index"][:2].tolist() == [0, 1] and set(batch["a"]["index"][:2]) < {0, 1, 2}
    config.cyclegan.paired_test = True
    with pytest.raises(errors.UserError, match=r"come in pairs, and there are 2 and 3: .*--config.cyclegan.paired_test=False"):
        domains.check_pairs(config.cyclegan, opened)

    config.data.test_split_a = config.data.test_split_b = "trainA"
    opened = domains.open_domains(config_lib.typed(config).data, "test")
    domains.check_pairs(config.cyclegan, opened)
    for num in (4, 10):
        (batch, _), *rest = domains.eval_batches(opened, num, 10)
        assert not rest and batch["a"]["index"].tolist() == batch["b"]["index"].tolist()
        assert batch["a"]["index"][:num].tolist() == sorted(set(batch["a"]["index"]))
    assert batch["a"]["index"].tolist() == list(range(10))


def test_a_missing_domain_is_named(config):
    config.data.train_split_b = "trainC"
    with pytest.raises(errors.UserError, match="there is no folder .*trainC"):
        domains.open_domains(config_lib.typed(config).data, "train")
    config.data.train_split_b, config.data.test_split_b = "trainB", "testC"
    assert domains.open_domains(config_lib.typed(config).data, "test") is None
    config.data.source = ""
    with pytest.raises(errors.UserError, match=r"config.data.source is empty"):
        domains.open_domains(config_lib.typed(config).data, "train")


def test_augmentation_is_independent_in_each_domain(config):
    config.data.image_size, config.data.load_size = 4, 8
    opened = domains.open_domains(config_lib.typed(config).data, "train")
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1).repeat(16, 0)
    batch = {name: {"image": image} for name in "ab"}
    out = domains.augmentation(opened, flip=False)(jax.random.key(0), batch)
    assert out["a"]["image"].shape == (16, 4, 4, 1)
    assert (out["a"]["image"] != out["b"]["image"]).any()


def test_bundled_domains_share_no_garment_and_test_pairs_are_true():
    data = config_lib.typed(cyclegan.get_config("")).data
    train = domains.open_domains(data, "train")
    garments, drawn_from = (train[name].source for name in "ab")
    assert len(garments) == len(drawn_from) == 4000
    of_a = {record["image"].tobytes() for record in garments.__getitems__(range(200))}
    whole = sources.open_source(sources.Config(), "train").__getitems__(range(4000, 8000, 37))
    drawings = drawn_from.__getitems__(range(0, 4000, 37))
    for record, drawing in zip(whole, drawings):  # b's second half, as drawings
        np.testing.assert_array_equal(sources.edges(record["image"]), drawing["image"])
        assert record["image"].tobytes() not in of_a
    test = domains.open_domains(data, "test")
    for a, b in zip(test["a"].source.__getitems__([0, 9]), test["b"].source.__getitems__([0, 9])):
        np.testing.assert_array_equal(sources.edges(a["image"]), b["image"])
        assert a["label"] == b["label"]


def test_edges_are_the_gradient_under_a_gaussian():
    """A vertical step of height 255 becomes a line with the profile of the Gaussian, white in the middle of two pixels."""
    image = np.zeros((9, 20, 1), np.uint8)
    image[:, 10:] = 255
    out = sources.edges(image, sigma=2.0)[4, :, 0].astype(float)
    # The derivative of a step under a Gaussian is that Gaussian, here sampled half a pixel off its middle.
    expected = 255 * np.exp(-((np.arange(20) - 9.5) ** 2) / (2 * 2.0**2))
    np.testing.assert_allclose(out, expected, atol=4)
    assert (sources.edges(np.full((9, 9, 3), 77, np.uint8)) == 0).all()
    assert sources.edges(np.zeros((5, 7, 3), np.uint8)).shape == (5, 7, 1)


def test_balance_needs_classes_and_takes_each_equally_often(tmp_path):
    config = config_lib.default("diffusion")
    config.data.update(source=f"folder:{tmp_path}", balance=True)
    config.batch_size = 4
    for name, n in (("train", 0), ("train/a", 9), ("train/b", 1)):
        save(tmp_path / name, n)
    opened = domains.open_domains(config_lib.typed(config).data, "train")
    batches = itertools.islice(domains.train_batches(opened, config, 0), 9)
    assert all(sorted(batch["condition"]["label"]) == [0, 0, 1, 1] for batch in batches)
    config.data.train_split = "train/a"
    with pytest.raises(errors.UserError, match=r"config.data.balance is True, and the images of .* have no classes"):
        domains.open_domains(config_lib.typed(config).data, "train")
