"""Files that are written as a whole or not at all."""

import pytest

from imagegen_jax import errors
from imagegen_jax import files


def test_the_file_is_there_when_all_of_it_is(tmp_path):
    path = tmp_path / "new" / "folder" / "notes.txt"
    for text in ("first", "second"):
        with files.draft(path) as aside:
            aside.write_text(text)
            assert aside.name.startswith(".") and (text == "first") != path.exists()
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whatever_stops_it_nothing_changes(tmp_path, error):
    path = tmp_path / "notes.txt"
    path.write_text("before")
    with pytest.raises(error), files.draft(path) as aside:
        aside.write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "before"


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "notes.txt"
    for complaint, begin in ((None, f"cannot write {path}: "), ("--out", "--out: ")):
        with pytest.raises(errors.UserError) as caught, files.draft(path, complaint):
            pass
        assert str(caught.value).startswith(begin) and len(str(caught.value)) > len(begin)
    (tmp_path / "taken").mkdir()
    with pytest.raises(errors.UserError, match="cannot write"), files.draft(tmp_path / "taken") as aside:
        aside.touch()
    assert not aside.exists()
