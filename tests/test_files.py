"""Files that are written as a whole or not at all."""

import io
import zipfile
import zlib

import numpy as np
import pytest

from imagegen_jax import errors
from imagegen_jax import files


def test_the_file_is_there_when_all_of_it_is(tmp_path):
    path = tmp_path / "new" / "folder" / "notes.txt"
    for text in ("first", "second"):
        with files.atomic_write(path) as temporary:
            temporary.write_text(text)
            assert temporary.name.startswith(".") and (text == "first") != path.exists()
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whatever_stops_it_nothing_changes(tmp_path, error):
    path = tmp_path / "notes.txt"
    path.write_text("before")
    with pytest.raises(error), files.atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "before"


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "notes.txt"
    for complaint, begin in ((None, f"cannot write {path}: "), ("--out", "--out: ")):
        with pytest.raises(errors.UserError) as caught, files.atomic_write(path, complaint):
            pass
        assert str(caught.value).startswith(begin) and len(str(caught.value)) > len(begin)
    (tmp_path / "taken").mkdir()
    with pytest.raises(errors.UserError, match="cannot write"), files.atomic_write(tmp_path / "taken") as temporary:
        temporary.touch()
    assert not temporary.exists()


def test_a_folder_takes_the_place_of_another_as_a_whole(tmp_path):
    path = tmp_path / "new" / "set"
    for names in (["a", "b"], ["c"]):
        with files.atomic_folder(path) as temporary:
            for name in names:
                (temporary / name).touch()
            assert names == ["c"] or not path.exists()
        assert sorted(file.name for file in path.iterdir()) == names
    with pytest.raises(KeyboardInterrupt), files.atomic_folder(path) as temporary:
        (temporary / "d").touch()
        raise KeyboardInterrupt
    assert [file.name for file in path.iterdir()] == ["c"] and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("atomic", [files.atomic_write, files.atomic_folder])
@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "caf\udce9 \n?"])  # the last is not UTF-8 on disk
def test_every_name_that_a_file_system_has(tmp_path, atomic, name):
    with atomic(tmp_path / name) as temporary:
        temporary.touch() if atomic is files.atomic_write else (temporary / "in").touch()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_user_without_a_home_has_a_cache(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(files.os.path, "expanduser", lambda path: path)
    assert files.cache_folder().is_absolute()


def _damaged(path):
    """One compressed member whose middle is other bytes."""
    with zipfile.ZipFile(path) as archive:
        start = archive.infolist()[0].header_offset + 200
    whole = path.read_bytes()
    path.write_bytes(whole[:start] + b"\xff" * 100 + whole[start + 100 :])


def _declared(path):
    """An array of a petabyte in a file of some bytes, as its header says."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue() + b"few bytes")


def _bomb(path):
    """A gigabyte of zeros in a megabyte, of which numpy's header is the beginning."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", bytes(2 * 10**6))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: np.save(path.open("wb"), np.zeros(3)), "it is a single array, .npy"),
        (_damaged, "."),
        (_declared, "."),
        (_bomb, "its arrays take 0 GB, and this machine's memory"),
        (lambda path: path.write_bytes(b""), "."),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "."),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"\x08\x00", b"\x63\x00")), "."),  # an unknown compression
        (lambda path: np.savez(path, images=np.array([{}])), "Object arrays cannot be loaded"),
        (lambda path: path.unlink(), "No such file"),
    ],
)
def test_what_is_no_npz_is_one_line(tmp_path, monkeypatch, damage, reason):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=np.random.default_rng(0).integers(0, 256, 10_000, np.uint8))
    assert files.read_npz(path)["images"].shape == (10_000,)
    damage(path)
    monkeypatch.setattr(files, "memory", lambda: 10**6)
    with pytest.raises(ValueError, match=reason) as caught:
        files.read_npz(path)
    assert "\n" not in str(caught.value) and not isinstance(caught.value, zlib.error)


def test_of_an_npz_only_what_is_wanted_is_read(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", mu=np.arange(3.0), images=np.zeros(10**4, np.uint8))
    monkeypatch.setattr(files, "memory", lambda: 1000)
    found = files.read_npz(tmp_path / "a.npz", ("mu", "sigma"))
    assert list(found) == ["mu"] and found["mu"].tolist() == [0, 1, 2]
