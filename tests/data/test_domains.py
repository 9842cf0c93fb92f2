"""Two domains: each with its own order and splits, together in one batch."""

import itertools

import jax
import numpy as np
from PIL import Image
import pytest

from configs import cyclegan
from configs import pix2pix
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


# ----------------------------------------------------------------------------------------------------------------------- pairs


@pytest.fixture
def pairs(tmp_path):
    """The config of pix2pix on two folders with equal names, whose images of b are those of a plus 100."""
    for split in ("train", "test"):
        save(tmp_path / f"{split}A", 7)
        save(tmp_path / f"{split}B", 7, start=100)
    config = pix2pix.get_config("smoke")
    config.data.source, config.data.source_a, config.data.source_b = f"folder:{tmp_path}", "", ""
    for name in "ab":
        config.data[f"train_split_{name}"], config.data[f"test_split_{name}"] = f"train{name.upper()}", f"test{name.upper()}"
    config.batch_size = 4
    return config


def test_pairs_come_together_and_are_moved_alike(pairs):
    config = config_lib.typed(pairs)
    opened = domains.open_domains(config.data, "train")
    batches = domains.train_batches(opened, config, 0)
    for batch in itertools.islice(batches, 5):
        np.testing.assert_array_equal(batch["b"]["image"], batch["a"]["image"] + 100)
        np.testing.assert_array_equal(batch["b"]["index"], batch["a"]["index"])
    image = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), np.uint8)
    augment = domains.augmentation(opened, flip=True, paired=True)
    moved = augment(jax.random.key(0), {name: {"image": image} for name in "ab"})
    np.testing.assert_array_equal(moved["a"]["image"], moved["b"]["image"])
    assert (moved["a"]["image"] != image).any()


def test_images_without_a_partner_are_named(pairs, tmp_path):
    (tmp_path / "trainB" / "003.png").unlink()
    with pytest.raises(errors.UserError, match="config.data.source_a: 003 of the train images has no partner of that name"):
        domains.open_domains(config_lib.typed(pairs).data, "train")
    pairs.data.on_bad_image = "skip"
    with pytest.raises(errors.UserError, match="config.data.on_bad_image is 'skip': images come in pairs here"):
        config_lib.check(pairs)
    pairs.data.on_bad_image = "error"
    pairs.data.source_a, pairs.data.train_split_a = "edges:fashion_mnist_10k", "train[:10]"
    pairs.data.train_split_b = "testB"
    with pytest.raises(errors.UserError, match="the train images come in pairs, and there are 10 and 7"):
        domains.open_domains(config_lib.typed(pairs).data, "train")


def test_halves_of_files_that_show_both_side_by_side(pairs, tmp_path):
    (tmp_path / "both" / "train").mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), np.uint8)
    for i, one in enumerate(image):
        Image.fromarray(one).save(tmp_path / "both" / "train" / f"{i}.png")
    pairs.data.source_a, pairs.data.source_b = f"right:folder:{tmp_path}/both", f"left:folder:{tmp_path}/both"
    pairs.data.train_split_a = pairs.data.train_split_b = "train"
    opened = domains.open_domains(config_lib.typed(pairs).data, "train")
    np.testing.assert_array_equal(opened["a"].reader([0, 1, 2])["image"], image[:, :, 4:])
    np.testing.assert_array_equal(opened["b"].reader([0, 1, 2])["image"], image[:, :, :4])
    assert opened["a"].spec.shape == (6, 4, 3) and opened["a"].source.fingerprint != opened["b"].source.fingerprint
