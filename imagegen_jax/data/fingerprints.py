"""Short texts that change with what they stand for: with the contents of images, not with the place where they lie."""

from concurrent import futures
import hashlib
import json
import os
import time

import numpy as np

from imagegen_jax import errors
from imagegen_jax import files as files_lib
from imagegen_jax import progress

_FORMAT = "v2:"  # fingerprints without it are of names and sizes
MANY_FILES = 20_000  # from here on, looking through a folder shows its progress
_SETTLED = 2e9  # nanoseconds; a file that changed less long ago could change again without another time of change


def digest(*parts):
    """Twelve hexadecimal digits that change with the parts: with the bytes of an array, with the text of anything else."""
    parts = tuple(hashlib.sha256(part.tobytes()).hexdigest() if isinstance(part, np.ndarray) else part for part in parts)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def of(*parts):
    """The fingerprint of a source, of what `digest` takes."""
    return _FORMAT + digest(*parts)


def old(fingerprint):
    """Whether it is of names and sizes, as runs once had, and so says nothing of contents."""
    return not any(one.startswith(_FORMAT) for one in fingerprint.split())


def same(saved, now):
    """Whether two fingerprints are of the same images, as far as an old one can tell."""
    return len(saved.split()) == len(now.split()) and (old(saved) or saved == now)


def of_files(folder, files):
    """The SHA-256 of each file's bytes.

    A file is read once: the cache (files.cache_folder) knows it by its path, its size and its times of change.

    Args:
      folder: that the files are in.
      files: their paths.

    Returns:
      A list of texts.

    Raises:
      errors.UserError: a file cannot be read.
    """
    cache = files_lib.cache_folder() / "hashes" / f"{digest(os.path.realpath(folder))}.json"
    known = _known(cache)

    def hashed(file):
        name = os.path.relpath(file, folder)
        try:
            about = os.stat(file)
            key = [about.st_size, about.st_mtime_ns, about.st_ctime_ns]
            entry = known.get(name)
            if entry and entry[:-1] == key:
                return name, entry
            with open(file, "rb") as opened:
                return name, [*key, hashlib.file_digest(opened, "sha256").hexdigest()]
        except OSError as error:
            raise errors.UserError(f"cannot read {file}: {error.strerror}") from error

    with futures.ThreadPoolExecutor() as pool:
        many = len(files) >= MANY_FILES
        found = list(progress.each(pool.map(hashed, files), len(files), "image", "hashing images", many))
    now = time.time_ns()
    settled = {name: entry for name, entry in found if now - max(entry[1:3]) > _SETTLED}
    if any(known.get(name) != entry for name, entry in settled.items()):
        _remember(cache, known | settled)
    return [entry[-1] for _, entry in found]


def _known(cache):
    try:
        known = json.loads(cache.read_text())
        return known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        return {}


def _remember(cache, known):
    try:
        with files_lib.atomic_write(cache) as temporary:
            temporary.write_text(json.dumps(known))
    except errors.UserError as error:
        progress.tell(f"{error}; the images will be read again the next time")
