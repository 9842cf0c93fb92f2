"""Files that are there as a whole or not at all, that strangers may have written, or that can be made again."""

import contextlib
import os
import pathlib
import shutil
import tempfile
import zipfile

import numpy as np

from imagegen_jax import errors

_reached = set()  # buckets


def to_path(text):
    """What a person wrote as the place of a run or of a result, as a path that can be asked and opened.

    Args:
      text: a str, or a path.

    Returns:
      A pathlib.Path; of 'gs://BUCKET/...' an etils.epath.Path, which has the methods of one.

    Raises:
      errors.UserError: it is on a storage that nothing here writes to.
    """
    scheme, separator, _ = str(text).partition("://")
    if not separator:
        return pathlib.Path(text)
    if scheme != "gs":  # of object storages the one that Orbax writes to
        raise errors.UserError(
            f"{text}: give a folder, or one in a bucket as gs://BUCKET/FOLDER; nothing here writes to {scheme}://"
        )
    from etils import epath  # both come with Orbax
    import fsspec

    path = epath.Path(text)
    bucket = path.parts[:3]
    if bucket not in _reached:
        try:
            fsspec.get_filesystem_class(scheme)
            path.exists()
        except ImportError as error:
            raise errors.UserError(f"{text}: reaching gs:// takes gcsfs, which is not installed: pip install gcsfs") from error
        except Exception as error:  # each storage's client has its own kinds
            raise errors.UserError(f"cannot reach {text}: {_reason(error)}") from error
        _reached.add(bucket)
    return path


def is_remote(path):
    """Whether a path of `to_path` is on an object storage, which knows no locks, no appending and no free space."""
    return not isinstance(path, pathlib.Path)


@contextlib.contextmanager
def atomic_write(path, complaint=None):
    """A place to write to; what lies there when the block ends without an exception takes the place of `path`.

    with files.atomic_write(path) as temporary:
        temporary.write_text(text)

    Args:
      path: of the file, whose folder is made.
      complaint: how the error begins; by default 'cannot write <path>'.

    Yields:
      A hidden pathlib.Path in the same folder, or, for an object storage, in a temporary one. It is gone afterwards.

    Raises:
      errors.UserError: the file cannot be written, '<complaint>: <reason>'. Any OSError in the block counts as that.
    """
    path = to_path(path)
    complaint = complaint or f"cannot write {path}"
    try:
        if is_remote(path):
            with tempfile.TemporaryDirectory() as folder:
                yield (temporary := pathlib.Path(folder) / path.name)
                upload(temporary, path, complaint)
        else:
            temporary = _beside(path, "tmp")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                yield temporary
                temporary.replace(path)
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink()
    except OSError as error:
        raise errors.UserError(f"{complaint}: {error.strerror or error}") from error


@contextlib.contextmanager
def atomic_folder(path):
    """A folder to write to, which takes the place of `path`, and of all in it, when the block ends without an exception.

    Args:
      path: of the folder, which is made, or replaced; a link to one stays.

    Yields:
      A hidden pathlib.Path beside it. It is gone afterwards, whatever happens.

    Raises:
      errors.UserError: the folder cannot be written. Any OSError in the block counts as that.
    """
    place = pathlib.Path(path).resolve()
    temporary, before = _beside(place, "tmp"), _beside(place, "before")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if place.exists():
            place.rename(before)
        try:
            temporary.rename(place)
        except OSError:
            if before.exists():
                before.rename(place)
            raise
    except OSError as error:
        raise errors.UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        for folder in (temporary, before):
            shutil.rmtree(folder, ignore_errors=True)


def _beside(path, what):
    """A hidden path in the same folder, of this process alone: two that write one file each write a whole one."""
    name = os.fsdecode(os.fsencode(path.name)[:200])  # of the 255 bytes that file systems take
    return path.with_name(f".{name}.{os.getpid()}.{what}")


def check_writable(path):
    """Raises errors.UserError where nothing can be written beside `path`; makes the folder that it is in.

    Of an object storage the first file tells.
    """
    if is_remote(path := to_path(path)):
        return
    folder = path.resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise errors.UserError(f"cannot write {path}: {error.strerror or error}") from error


def move(path, target):
    """Moves a file or a folder of `to_path` to where nothing is, within one disk or bucket. Raises OSError."""
    if not is_remote(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    elif path.is_dir():
        # Object by object, and first the one by which Orbax tells a checkpoint that is whole.
        for entry in sorted(path.iterdir(), key=lambda entry: entry.name != "commit_success.txt"):
            move(entry, target / entry.name)
    else:
        path.copy(target)
        path.unlink()


def upload(source, target, complaint):
    """Makes the file `target`, on an object storage, what `source` is, at once. Raises as `atomic_write` does."""
    try:
        target.write_bytes(source.read_bytes())
    except Exception as error:  # each storage's client has its own kinds
        raise errors.UserError(f"{complaint}: {_reason(error)}") from error


def _reason(error):
    return str(error).strip().split("\n")[0] or type(error).__name__


def read_npz(path, names=None):
    """The arrays of an .npz file, which may be anybody's: nothing is unpickled, and no more is unpacked than memory holds.

    Args:
      path: of the file.
      names: of the arrays that are wanted, as far as they are there; None for all.

    Returns:
      {name: array}

    Raises:
      ValueError: it cannot be read; the message is the reason, in one line.
    """
    try:
        with to_path(path).open("rb") as file, zipfile.ZipFile(file) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            wanted = [name for name in members if names is None or name in names]
            size = sum(members[name].file_size for name in wanted)  # of which zipfile never unpacks more
            if size > memory():
                raise ValueError(f"its arrays take {size / 1e9:.0f} GB, and this machine's memory is {memory() / 1e9:.0f} GB")
            found = {}
            for name in wanted:
                with archive.open(members[name]) as member:
                    found[name] = np.lib.format.read_array(member, allow_pickle=False)
            return found
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except Exception as error:  # damaged archives make a dozen kinds, from zipfile, its decompressors and numpy
        with contextlib.suppress(OSError), to_path(path).open("rb") as file:
            if file.read(6) == np.lib.format.MAGIC_PREFIX:
                raise ValueError("it is a single array, .npy, and not the several of an .npz") from error
        raise ValueError(str(error).split("\n")[0] or type(error).__name__) from error


def memory():
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cache_folder():
    """Where what can be computed again is kept between processes."""
    home = os.path.expanduser("~")
    if not os.path.isabs(home):  # a user without one, as in some containers
        home = tempfile.gettempdir()
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path(home) / ".cache") / "imagegen_jax"
