"""Where images go: a set is there as a whole or not at all, and never mixed with another."""

import csv

import jax
import numpy as np
from PIL import Image
import pytest

from imagegen_jax import errors
from imagegen_jax.data import sources
from imagegen_jax.generation import output


def batches(num, stop=None):
    """Batches of two images, each of one grey; what draws them is stopped at image `stop`."""
    for i in range(0, num, 2):
        if i == stop:
            raise KeyboardInterrupt
        yield np.full((2, 4, 4, 1), i, np.uint8)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["set/", "set.npz", "set.png"])
def test_what_is_stopped_leaves_what_was_there(tmp_path, name):
    out = f"{tmp_path}/{name}"
    with pytest.raises(KeyboardInterrupt):
        output.save(out, batches(8, stop=4))
    assert not names(tmp_path)
    output.save(out, batches(8))
    path = tmp_path / name
    before = {file: file.read_bytes() for file in (path.iterdir() if path.is_dir() else [path])}
    with pytest.raises(KeyboardInterrupt):
        output.save(out, batches(6, stop=4))
    assert names(tmp_path) == [path.name] and all(file.read_bytes() == content for file, content in before.items())


def test_a_folder_is_one_set_of_images(tmp_path):
    out = f"{tmp_path}/set/"
    output.check(out)
    output.save(out, batches(20), texts={"errors.json": "{}"})
    with pytest.raises(errors.UserError, match="the folder is not empty, .* is in it: give another one, or --overwrite"):
        output.check(out)
    (tmp_path / "set" / ".DS_Store").touch()
    output.check(out, overwrite=True)
    output.save(out, batches(8))
    assert names(tmp_path / "set") == [f"{i:05d}.png" for i in range(8)] and names(tmp_path) == ["set"]


@pytest.mark.parametrize("found", ["config.json", "checkpoints/4/state", "photo.jpg", "link.png"])
def test_only_results_are_overwritten(tmp_path, found):
    folder = tmp_path / "run"
    output.save(f"{folder}/", batches(2))
    if found == "link.png":
        (folder / found).symlink_to(folder / "00000.png")
    else:
        (folder / found).parent.mkdir(parents=True, exist_ok=True)
        (folder / found).touch()
    with pytest.raises(errors.UserError, match="--overwrite would delete .*no result"):
        output.check(f"{folder}/", overwrite=True)
    assert (folder / found).exists()


def test_what_results_replace_is_deleted(tmp_path):
    (tmp_path / "out" / "sub").mkdir(parents=True)
    for name in ("a.png", "index.html", "sub/b.png"):
        (tmp_path / "out" / name).touch()
    output.check_folder(f"{tmp_path}/out", overwrite=True)
    output.clear(f"{tmp_path}/out")
    assert not names(tmp_path / "out")


def test_a_link_to_a_folder_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    output.check(f"{tmp_path}/link/")
    output.save(f"{tmp_path}/link/", batches(2))
    assert (tmp_path / "link").is_symlink() and names(tmp_path / "disk") == ["00000.png", "00001.png"]


@pytest.mark.parametrize("out", ["file/set/", "file/set.npz", "file/", "set.npz", "/proc/set/", "/proc/x.png", "set.txt"])
def test_where_nothing_can_be_written_is_one_line(tmp_path, out):
    (tmp_path / "file").touch()
    (tmp_path / "set.npz").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(errors.UserError) as caught:
        output.check(out if out.startswith("/") else f"{tmp_path}/{out}")
    assert "\n" not in str(caught.value) and out.strip("/") in str(caught.value) and sorted(tmp_path.rglob("*")) == before


def test_of_several_processes_the_first_writes_and_all_draw(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    drawn = []
    for name in ("set/", "set.npz", "set.png"):
        output.save(f"{tmp_path}/{name}", (drawn.append(batch) or batch for batch in batches(4)))
    output.save_grid(tmp_path / "grid.png", np.zeros((4, 2, 2, 1), np.uint8))
    output.save_animation(tmp_path / "x.gif", np.zeros((4, 2, 2, 1), np.uint8))
    assert len(drawn) == 6 and not names(tmp_path)


def test_only_what_is_animated_becomes_a_gif(tmp_path):
    output.check(f"{tmp_path}/x.gif", animated=True)
    with pytest.raises(errors.UserError, match="give a path ending in .png"):
        output.check(f"{tmp_path}/x.gif")
    with pytest.raises(errors.UserError, match="in .gif"):
        output.check(f"{tmp_path}/x.jpg", animated=True)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_animation_has_its_frames_and_loops(tmp_path, channels):
    frames = np.stack([np.full((8, 6, channels), value, np.uint8) for value in (0, 40, 250, 90)])
    output.save_animation(tmp_path / "x.gif", frames)
    with Image.open(tmp_path / "x.gif") as picture:
        assert picture.n_frames == 4 and picture.size == (6, 8) and picture.info["loop"] == 0
        picture.seek(1)
        assert picture.info["duration"] == 100
        if channels == 1:
            assert np.asarray(picture.convert("L")).tolist() == frames[1, ..., 0].tolist()
    assert names(tmp_path) == ["x.gif"]


def test_labels_are_rows_of_a_grid_and_a_column_of_an_array(tmp_path):
    drawn = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) * np.ones((1, 4, 4, 1), np.uint8)
    labels = np.array([0, 1, 0, 1, 0], np.int32)
    output.save(tmp_path / "x.npz", [drawn[:3], drawn[3:]], labels)
    output.save(tmp_path / "x.png", [drawn], labels)
    output.save(tmp_path / "one.png", [drawn], np.zeros(5, np.int32))
    with np.load(tmp_path / "x.npz") as saved:
        np.testing.assert_array_equal(saved["images"], drawn)
        np.testing.assert_array_equal(saved["labels"], labels)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png"))[::5, ::5], [[0, 2, 4], [1, 3, 255]])
    assert Image.open(tmp_path / "one.png").size == (14, 9)


@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (1, 9), (3, 4)])
def test_a_loop_has_each_inner_frame_twice(rows, columns):
    start = np.arange(rows)[:, None] * (columns - 1)
    loop = output.there_and_back(start + np.arange(columns))  # frames by their number on the way
    last = rows * (columns - 1)
    assert loop.tolist() == [*range(last + 1), *range(last - 1, 0, -1)]


def test_labelled_folders_are_read_with_their_labels(tmp_path):
    """By the project's own source; and the table has a row for each image."""
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1), np.uint8)
    labels, names = np.array([10, 0, 2] * 4, np.int32), [f"T-shirt/top {i}" for i in range(11)]
    paths, texts = output.labelled("folders", labels, names.__getitem__)
    output.save(f"{tmp_path}/set/", [images[:7], images[7:]], labels, texts, paths=paths)
    source = sources.open_source(sources.Config(source=f"folder:{tmp_path}/set"), "train")
    assert len(source) == 12 and list(source.class_names) == ["00_T-shirt_top_0", "02_T-shirt_top_2", "10_T-shirt_top_10"]

    paths, texts = output.labelled("csv", labels, names.__getitem__)
    output.save(f"{tmp_path}/flat/", [images], labels, texts, paths=paths)
    rows = list(csv.DictReader((tmp_path / "flat/labels.csv").open()))
    assert [int(row["label"]) for row in rows] == labels.tolist() and rows[0]["class"] == "T-shirt/top 10"
    for row, image in zip(rows, images):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "flat" / row["file"])), image[..., 0])


def test_a_data_set_is_read_by_tfds(tmp_path):
    """By its own name, and the project's source; an image is the same as it was drawn, in its place."""
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 5, 3), np.uint8)
    labels, names = np.array([1, 0, 2] * 4, np.int32), ["T-shirt/top", "Bag", "Ankle boot"]
    output.save(f"{tmp_path}/set/", [images[:7], images[7:]], labels, class_names=names)
    source = sources.open_source(sources.Config(source="drawn", data_dir=f"{tmp_path}/set"), "train")
    assert list(source.class_names) == names
    records = source.__getitems__(range(12))
    np.testing.assert_array_equal(np.stack([record["image"] for record in records]), images)
    assert [record["label"] for record in records] == labels.tolist()
    output.check_folder(f"{tmp_path}/set/", overwrite=True)  # it is a result, which may be replaced
    with pytest.raises(errors.UserError, match="the folder is not empty"):
        output.check_folder(f"{tmp_path}/set/", overwrite=False)
