"""Sources against the files that they read."""

import io
import pathlib
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
import requests

from imagegen_jax import errors
from imagegen_jax.data import fashion_mnist_10k
from imagegen_jax.data import fingerprints
from imagegen_jax.data import idx
from imagegen_jax.data import pipeline
from imagegen_jax.data import sources

FULL = pathlib.Path("/usr/share/datasets/fashion-mnist")


def section(**changes):
    return sources.Config(**changes)


def read(source):
    return source.__getitems__(range(len(source)))


def folder(path, **changes):
    return sources.open_source(section(source=f"folder:{path}", **changes), "train")


def save(path, mode="L", size=(8, 6), seed=0, **options):
    """Writes a random image and returns its array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size[::-1] if mode == "L" else (*size[::-1], len(mode))
    array = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(array, mode).save(path, **options)
    return array


@pytest.mark.parametrize(("split", "each"), [("train", 800), ("test", 200)])
def test_bundled_images_come_through_tfds_bit_by_bit(split, each):
    source = sources.open_source(section(), split)
    assert len(source) == 10 * each and source.image_shape == (28, 28, 1) and source.class_names[9] == "Ankle boot"
    records = read(source)
    assert np.bincount([record["label"] for record in records]).tolist() == [each] * 10
    stored = idx.read(idx.find(fashion_mnist_10k.FILES, split, "images"))
    labels = idx.read(idx.find(fashion_mnist_10k.FILES, split, "labels"))
    # TFDS shuffles when it prepares: compare as sets of (pixels, label).
    ours = sorted((record["image"].tobytes(), record["label"]) for record in records)
    assert ours == sorted((image.tobytes(), int(label)) for image, label in zip(stored, labels))


@pytest.mark.skipif(not FULL.is_dir(), reason="the package dataset-fashion-mnist is not installed")
@pytest.mark.parametrize(("split", "each"), [("train", 800), ("test", 200)])
def test_bundled_images_are_the_first_of_each_class_of_the_official_split(split, each):
    source = sources.open_source(section(source=f"idx:{FULL}"), split)
    assert len(source) == {"train": 60000, "test": 10000}[split] and source.image_shape == (28, 28, 1)
    labels = idx.read(idx.find(FULL, split, "labels"))
    wanted = np.sort(np.concatenate([np.flatnonzero(labels == c)[:each] for c in range(10)]))
    official = np.stack([record["image"][..., 0] for record in source.__getitems__(wanted)])
    np.testing.assert_array_equal(official, idx.read(idx.find(fashion_mnist_10k.FILES, split, "images")))


@pytest.mark.parametrize("command", ["main", "sample", "benchmark"])
def test_neither_tensorflow_nor_pytorch_is_imported(command):
    code = (
        f"import sys, experiments.{command}\n"
        "from imagegen_jax.data import sources\n"
        "sources.open_source(sources.Config(), 'test').__getitems__([0, 1])\n"
        "assert 'jax' in sys.modules and not {'tensorflow', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_flat_folder(tmp_path):
    arrays = {name: save(tmp_path / name, seed=i) for i, name in enumerate(["b.png", "a.PNG"])}
    (tmp_path / "notes.txt").write_text("not an image")
    source = folder(tmp_path)
    assert source.image_shape == (6, 8, 1) and source.class_names == []
    for record, name in zip(read(source), ["a.PNG", "b.png"]):
        np.testing.assert_array_equal(record["image"][..., 0], arrays[name])
        assert record["label"] == -1


def test_class_folders_and_splits(tmp_path):
    for i, name in enumerate(["train/cat/1.png", "train/dog/1.webp", "train/dog/2.jpg", "test/dog/9.png"]):
        save(tmp_path / name, "RGB", seed=i)
    source = folder(tmp_path)
    assert source.class_names == ["cat", "dog"] and source.image_shape == (6, 8, 3)
    assert [record["label"] for record in read(source)] == [0, 1, 1]
    assert len(sources.open_source(section(source=f"folder:{tmp_path}"), "test")) == 1
    assert sources.open_source(section(source=f"folder:{tmp_path / 'train'}"), "test") is None


def test_what_lies_beside_the_splits_is_named(tmp_path, capsys):
    for name in ("train/cat/1.png", "test/cat/2.png", "top.png"):
        save(tmp_path / name)
    (tmp_path / "papers").mkdir()
    assert len(folder(tmp_path)) == 1 and "left out" not in capsys.readouterr().err
    for name in ("val10/cat/1.png", "val2/cat/1.png"):
        save(tmp_path / name)
    assert len(folder(tmp_path)) == 1 and "left out beside it: val2, val10\n" in capsys.readouterr().err


def test_a_test_folder_beside_class_folders_is_not_trained_on(tmp_path):
    for name in ("cat/1.png", "dog/1.png", "test/cat/2.png"):
        save(tmp_path / name)
    source = folder(tmp_path)
    assert len(source) == 2 and source.class_names == ["cat", "dog"]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_channels_are_converted_as_pillow_does(tmp_path, mode, channels):
    array = save(tmp_path / "a.png", mode)
    (record,) = read(folder(tmp_path, channels=channels))
    picture = Image.fromarray(array, mode)
    if mode == "RGBA" and channels != 4:
        alpha = array[..., 3:] / 255
        white = array[..., :3] * alpha + 255 * (1 - alpha)
        expected = np.asarray(Image.fromarray(np.round(white).astype(np.uint8)).convert("L" if channels == 1 else "RGB"))
    else:
        expected = np.asarray(picture.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]))
    assert record["image"].shape == (6, 8, channels)
    assert np.abs(record["image"].reshape(expected.shape).astype(int) - expected).max() <= 1


STEPS = np.linspace(0, 255, 48).reshape(6, 8).astype(np.uint8)


def as_people_have_it(kind, path):
    """Writes an image of this kind; returns the (h, w, c) uint8 that a model should see, or what Pillow makes of it."""
    grey = Image.fromarray(STEPS)
    colour = Image.merge("RGB", [grey, grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT), Image.new("L", (8, 6), 200)])
    path = path.with_suffix({"cmyk": ".jpg", "turned": ".jpg", "big_endian": ".tif", "animated": ".gif"}.get(kind, ".png"))
    if kind == "deep":
        Image.fromarray(STEPS.astype(np.uint16) * 257).save(path)
        return STEPS[..., None]
    if kind == "big_endian":
        data = b"MM\0*" + (8 + 96).to_bytes(4, "big") + (STEPS.astype(">u2") * np.uint16(257)).tobytes()
        tags = [(256, 8), (257, 6), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 6), (279, 96)]
        entries = b"".join(tag.to_bytes(2, "big") + b"\0\4\0\0\0\1" + value.to_bytes(4, "big") for tag, value in tags)
        path.write_bytes(data + len(tags).to_bytes(2, "big") + entries + bytes(4))
        return STEPS[..., None]
    if kind == "palette":
        colour.quantize(16).save(path)
        return np.asarray(Image.open(path).convert("RGB"))
    if kind == "transparent_palette":
        picture = Image.new("P", (8, 6), 0)
        picture.putpalette([10, 20, 30] + [0] * 765)
        picture.save(path, transparency=0)
        return np.tile(np.array([10, 20, 30, 0], np.uint8), (6, 8, 1))
    if kind == "cmyk":
        colour.convert("CMYK").save(path, quality=100)
        return np.asarray(Image.open(path).convert("RGB"))
    if kind == "turned":  # to be turned by 90 degrees clockwise: its top is its right side then
        exif = Image.Exif()
        exif[0x0112] = 6
        colour.save(path, exif=exif, quality=100)
        return np.rot90(np.asarray(Image.open(path)), -1)
    if kind == "one_pixel":
        Image.new("RGB", (1, 1), (1, 2, 3)).save(path)
        return np.array([[[1, 2, 3]]], np.uint8)
    if kind == "strip":
        Image.fromarray(STEPS.reshape(1, 48)).save(path)
        return STEPS.reshape(1, 48, 1)
    if kind == "grey_alpha":
        Image.merge("LA", [grey, Image.new("L", (8, 6), 255)]).save(path)
        return np.dstack([STEPS] * 3 + [np.full_like(STEPS, 255)])
    grey.save(path, save_all=True, append_images=[Image.new("L", (8, 6), 9)])
    return np.asarray(Image.open(path).convert("RGB"))


KINDS = (
    "deep",
    "big_endian",
    "palette",
    "transparent_palette",
    "cmyk",
    "turned",
    "one_pixel",
    "strip",
    "grey_alpha",
    "animated",
)


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_read_as_people_have_them(tmp_path, kind):
    expected = as_people_have_it(kind, tmp_path / "a")
    source = folder(tmp_path)
    (record,) = read(source)
    np.testing.assert_array_equal(record["image"], expected)
    assert source.image_shape == expected.shape


def test_transparent_pixels_are_white_without_alpha_and_unknown_ranges_are_refused(tmp_path):
    as_people_have_it("transparent_palette", tmp_path / "a")
    assert read(folder(tmp_path, channels=3))[0]["image"].min() == 255
    Image.fromarray(np.zeros((6, 8), np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(errors.UserError, match=r"b\.tif: its pixels are floating-point numbers"):
        folder(tmp_path)


def test_one_image_fills_a_batch(tmp_path):
    save(tmp_path / "a.png")
    source = folder(tmp_path)
    reader = pipeline.Reader(source, (6, 8, 1), "error")
    batch = next(pipeline.train_batches(reader, pipeline.shuffled(1, 0), batch_size=8, first_step=0, workers=1, prefetch=1))
    np.testing.assert_array_equal(batch["image"], np.repeat(read(source)[0]["image"][None], 8, 0))


def test_fit_keeps_the_aspect_and_the_middle():
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 200
    np.testing.assert_array_equal(pipeline.fit(image, (10, 10, 3)), image[:, 10:20])
    smaller = pipeline.fit(image, (5, 5, 3))
    assert smaller.shape == (5, 5, 3) and smaller.mean() > 190  # Lanczos rings at the edges
    assert pipeline.fit(image, (20, 60, 1)).shape == (20, 60, 1)
    assert pipeline.fit(image, (10, 30, 3)) is image


def broken(path, kind):
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(whole, "png")
    path.write_bytes({"empty": b"", "text": b"hello", "truncated": whole.getvalue()[:2000]}[kind])


@pytest.mark.parametrize("kind", ["empty", "text", "truncated"])
def test_bad_image_is_named_or_skipped_and_counted(tmp_path, kind):
    for i in range(4):
        save(tmp_path / f"{i}.png", size=(64, 64), seed=i)
    broken(tmp_path / "2.png", kind)

    def batch(on_bad_image):
        source = folder(tmp_path, on_bad_image=on_bad_image)
        reader = pipeline.Reader(source, (64, 64, 1), on_bad_image)
        return source, reader, reader(range(len(source)))

    with pytest.raises(errors.UserError, match=r"2\.png.*on_bad_image=skip") as caught:
        batch("error")
    assert "\n" not in str(caught.value)
    assert caught.value.without_config.endswith("; remove it")  # as commands say it that have no --config
    source, reader, first = batch("skip")
    assert source.skipped + len(reader.skipped) == 1
    np.testing.assert_array_equal(first["image"], batch("skip")[2]["image"])
    if kind == "truncated":  # its successor stands in its place
        # Met in training, it can be skipped from then on.
        assert source.fingerprint == folder(tmp_path, on_bad_image="error").fingerprint
        np.testing.assert_array_equal(first["image"][2], first["image"][3])


def test_nothing_but_bad_images(tmp_path):
    broken(tmp_path / "a.png", "text")
    with pytest.raises(errors.UserError, match="none of the 1 images"):
        folder(tmp_path, on_bad_image="skip")
    broken(tmp_path / "a.png", "truncated")
    with pytest.raises(errors.UserError, match="no image of the source can be read"):
        pipeline.Reader(folder(tmp_path, on_bad_image="skip"), (64, 64, 1), "skip")([0])


def test_wrong_folders(tmp_path):
    with pytest.raises(errors.UserError, match="there is no folder"):
        folder(tmp_path / "nowhere")
    with pytest.raises(errors.UserError, match="no images in"):
        folder(tmp_path)
    save(tmp_path / "a.png", size=(8, 8))
    save(tmp_path / "b.png", size=(9, 8))
    with pytest.raises(errors.UserError, match=r"sizes.*a\.png has 8x8.*b\.png has 8x9.*config.data.image_size"):
        folder(tmp_path)
    assert folder(tmp_path, image_size=8).image_shape == (None, None, 1)
    save(tmp_path / "b.png", "RGB", size=(8, 8))
    with pytest.raises(errors.UserError, match=r"channels.*config.data.channels"):
        folder(tmp_path)
    assert folder(tmp_path, channels=3).image_shape == (8, 8, 3)


def test_wrong_idx_files(tmp_path):
    def opened():
        return sources.open_source(section(source=f"idx:{tmp_path}"), "train")

    with pytest.raises(errors.UserError, match="no train-images-idx3-ubyte"):
        opened()
    images = tmp_path / "train-images-idx3-ubyte"
    header = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 4])
    images.write_bytes(header + bytes(31))
    with pytest.raises(errors.UserError, match="cut short"):
        opened()
    images.write_bytes(header + bytes(1 << 20))
    with pytest.raises(errors.UserError, match="is not an IDX file"):
        opened()
    images.write_bytes(bytes([0, 0, 8, 3]) + bytes([255] * 12))
    with pytest.raises(errors.UserError, match="more than this machine's memory"):
        opened()
    images.write_bytes(header + bytes(range(32)))
    assert opened().__getitems__([1])[0]["image"][0, 0, 0] == 16
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3]))
    with pytest.raises(errors.UserError, match="2 images and .* 3 labels"):
        opened()


def test_wrong_tfds_names(tmp_path, monkeypatch):
    with pytest.raises(errors.UserError, match="TFDS does not know: did you mean.*cifar10"):
        sources.open_source(section(source="cifar_10"), "train")
    with pytest.raises(errors.UserError, match="write a TFDS name, folder:PATH or idx:PATH"):
        sources.open_source(section(source="some/folder of mine"), "train")
    with pytest.raises(errors.UserError, match="no split 'validation'"):
        sources.open_source(section(train_split="validation"), "train")
    assert sources.open_source(section(test_split="validation"), "test") is None
    assert len(sources.open_source(section(train_split="train[:10%]"), "train")) == 800

    def unreachable(*args, **kwargs):
        raise requests.ConnectionError("Failed to resolve host")

    monkeypatch.setattr("tensorflow_datasets.core.DatasetBuilder.download_and_prepare", unreachable)
    with pytest.raises(errors.UserError, match="mnist is not prepared in .*check the network"):
        sources.open_source(section(source="mnist", data_dir=str(tmp_path)), "train")


def test_two_runs_prepare_the_same_data_at_once(tmp_path, monkeypatch):
    config = section(data_dir=str(tmp_path))
    generate = fashion_mnist_10k.FashionMnist10k._generate_examples

    def while_another_run_prepares(self, split):
        monkeypatch.undo()
        assert len(sources.open_source(config, "train")) == 8000
        return generate(self, split)

    monkeypatch.setattr(fashion_mnist_10k.FashionMnist10k, "_generate_examples", while_another_run_prepares)
    source = sources.open_source(config, "train")
    assert len(source) == 8000
    assert len(source.class_names) == 10
    assert [path.name for path in (tmp_path / "fashion_mnist10k").iterdir()] == ["1.0.0"]


def test_fingerprint_is_of_contents_names_and_classes_and_not_of_the_place(tmp_path, monkeypatch):
    """Uncompressed images overwritten under their names have the same size; moved ones are the same images."""
    monkeypatch.setattr(fingerprints, "_SETTLED", 0)  # or files this young would not be remembered

    def of(path):
        return folder(path).fingerprint

    for i, name in enumerate(("cat/1.bmp", "cat/2.bmp", "dog/1.bmp")):
        save(tmp_path / "a" / name, seed=i)
    first = of(tmp_path / "a")
    assert of(tmp_path / "a") == first
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert of(tmp_path / "b") == first

    monkeypatch.setattr("hashlib.file_digest", None)  # nothing is read a second time
    assert of(tmp_path / "b") == first
    monkeypatch.undo()

    seen = {first}
    save(tmp_path / "a/cat/1.bmp", seed=7)
    for change in (
        lambda: None,
        lambda: (tmp_path / "a/cat/1.bmp").rename(tmp_path / "a/dog/3.bmp"),
        lambda: (tmp_path / "a/dog").rename(tmp_path / "a/wolf"),
        lambda: (tmp_path / "a/cat/2.bmp").unlink(),
    ):
        change()
        seen.add(of(tmp_path / "a"))
    assert len(seen) == 5
    assert all(fingerprints.same(old, old) for old in seen) and not fingerprints.same(*sorted(seen)[:2])
    assert fingerprints.same("0123456789ab", first)  # of names and sizes, as runs once had
    assert not fingerprints.same("0123456789ab", f"{first} {first}")


def test_a_cache_that_cannot_be_written_is_a_note(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fingerprints, "_SETTLED", 0)
    (tmp_path / "cache").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save(tmp_path / "images/a.png")
    assert folder(tmp_path / "images").fingerprint
    assert "will be read again" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["labels", "images"])
def test_fingerprints_of_arrays_heed_labels(kind):
    images, labels = np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 1, 0, 1])
    before = sources.ArraySource(images, labels, ["0", "1"]).fingerprint
    changed = dict(images=images + (kind == "images"), labels=labels[::-1] if kind == "labels" else labels)
    assert sources.ArraySource(changed["images"].astype(np.uint8), changed["labels"], ["0", "1"]).fingerprint != before
    assert sources.ArraySource(images, labels, ["cat", "dog"]).fingerprint != before


def classes(path, split):
    source = sources.open_source(section(source=f"folder:{path}", on_bad_image="skip"), split)
    return list(source.class_names), list(source.labels)


def test_classes_of_train_number_those_of_test(tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "train/c/1.png", "test/a/1.png", "test/c/1.png"):
        save(tmp_path / name)
    assert classes(tmp_path, "test") == (["a", "b", "c"], [0, 2])
    (tmp_path / "train/b/1.png").write_bytes(b"")  # unreadable, and still a class
    assert classes(tmp_path, "train") == (["a", "b", "c"], [0, 2])
    assert classes(tmp_path, "test") == (["a", "b", "c"], [0, 2])

    save(tmp_path / "test/d/1.png")
    with pytest.raises(errors.UserError, match=r"test has the class d, which training does not \(a, b, c\): rename or remove"):
        classes(tmp_path, "test")
    shutil.rmtree(tmp_path / "test")
    save(tmp_path / "test/1.png")
    with pytest.raises(errors.UserError, match=r"in no class folders, and those of training are in a, b, c: make such"):
        classes(tmp_path, "test")


def test_numbered_classes_are_in_natural_order(tmp_path):
    for i in range(12):
        save(tmp_path / "train" / str(i) / "1.png")
    save(tmp_path / "test/10/1.png")
    assert classes(tmp_path, "train") == ([str(i) for i in range(12)], [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9])
    assert classes(tmp_path, "test")[1] == [10]


def test_labels_of_idx_files_are_those_of_train(tmp_path):
    def write(split, labels):
        header = bytes([0, 0, 8, 3, 0, 0, 0, len(labels), 0, 0, 0, 2, 0, 0, 0, 2])
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(header + bytes(4 * len(labels)))
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, len(labels), *labels]))

    def test_set():
        return sources.open_source(section(source=f"idx:{tmp_path}"), "test")

    write("train", [0, 3])
    write("t10k", [1])
    assert list(test_set().class_names) == ["0", "1", "2", "3"]
    write("t10k", [4])
    with pytest.raises(errors.UserError, match="label 4, and those of training go from 0 to 3"):
        test_set()
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(errors.UserError, match="no test-labels-idx1-ubyte.gz"):
        test_set()


def test_home_folders_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "images/a.png")
    assert len(folder("~/images")) == 1
    assert len(sources.open_source(section(source="edges:folder:~/images"), "train")) == 1
