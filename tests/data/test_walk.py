"""Which files of a folder are images, against folders as people have them."""

import io

import numpy as np
from PIL import Image
import pytest

from imagegen_jax import errors
from imagegen_jax.data import pictures
from imagegen_jax.data import sources
from imagegen_jax.data import walk
from imagegen_jax.generation import inputs


def save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)


def folder(path, split="train"):
    return sources.open_source(sources.Config(source=f"folder:{path}"), split)


@pytest.fixture
def untidy(tmp_path):
    """Two classes, one behind a link, among what systems and programs leave behind."""
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for name in (
        "cat/1.png",
        "cat/2.bmp",
        "cat/3.tif",
        "cat/4.jfif",
        ".ipynb_checkpoints/1.png",
        "cat/.ipynb_checkpoints/1.png",
    ):
        save(root / name)
    save(elsewhere / "5.png", 200)
    (root / "dog").symlink_to(elsewhere)
    (root / "cat" / "back").symlink_to(root)
    for name in ("__MACOSX/cat/._1.png", "cat/._1.png", "cat/Thumbs.db", "notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"nothing")
    return root


def test_links_and_all_formats_are_taken_and_what_systems_leave_is_not(untidy, capsys):
    source = folder(untidy)
    assert list(source.class_names) == ["cat", "dog"]
    assert list(source.labels) == [0, 0, 0, 0, 1]
    assert source.__getitems__([4])[0]["image"].max() == 200
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "5 images (cat 4, dog 1); left out: 1 .txt, 5 hidden or of the system, 1 link in a circle" in said


def test_commands_take_the_same_files(untidy, capsys):
    names = [str(name) for _, name in inputs.find(str(untidy))]
    assert names == ["cat/1.png", "cat/2.bmp", "cat/3.tif", "cat/4.jfif", "dog/5.png"]
    assert [str(name) for _, name in inputs.find(str(untidy), untidy / "dog")] == names[:-1]
    assert "left out: " in capsys.readouterr().err


def test_a_tidy_folder_without_classes_needs_no_words(tmp_path, capsys):
    save(tmp_path / "a.png")
    folder(tmp_path)
    assert capsys.readouterr().err == ""


def test_images_beside_class_folders_are_ambiguous(tmp_path):
    save(tmp_path / "cat/1.png")
    save(tmp_path / "stray.png")
    with pytest.raises(errors.UserError, match=r"images of its own, such as stray\.png, and some in folders, such as cat/"):
        folder(tmp_path)


def test_people_count_so():
    names = ["10", "9", "a10", "1", "a9b", "a09", "b"]
    assert sorted(names, key=walk.natural) == ["1", "9", "10", "a09", "a9b", "a10", "b"]


def test_many_classes_are_counted():
    classes = {str(i): 3 + i % 2 for i in range(100)}
    assert walk.summary("x", 350, {}, classes) == "x: 350 images of 100 classes, 3 to 4 of each"
    assert walk.summary("x", 100, {}, dict.fromkeys(classes, 1)) == "x: 100 images of 100 classes, 1 of each"
    assert walk.summary("x", 1, {".txt": 2}) == "x: 1 image; left out: 2 .txt"


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), ("a.tif", b"\x89HDF\r\n\x1a\n")]
)
def test_only_formats_that_start_no_program_are_opened(tmp_path, name, start):
    (tmp_path / name).write_bytes(start + b"%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(pictures.BadImageError, match="empty or not an image"), pictures.opened(tmp_path / name):
        pass
    assert not {"EPS", "WMF", "FITS", "HDF5", "PSD", "TGA"} & set(pictures.FORMATS)


def test_a_field_of_another_type_is_a_damaged_image():
    """Of TIFF: where the pixels begin, as a fraction, which Pillow takes for a number of bytes."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save(file, "TIFF")
    data = bytearray(file.getvalue())
    data[data.index(b"\x11\x01\x04") + 2] = 5
    with (
        pytest.raises(pictures.BadImageError, match="cannot read the image x"),
        pictures.opened(io.BytesIO(data), "x") as image,
    ):
        pictures.convert(image, 3)
