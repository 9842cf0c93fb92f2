"""The IDX format of MNIST: big-endian header (0, 0, 8, rank, sizes), then bytes; gzipped or not."""

import gzip
import pathlib
import zlib

import numpy as np

from imagegen_jax import errors


def read(path):
    """The uint8 array in an IDX file. Raises errors.UserError where the file is missing or is not one."""
    path = pathlib.Path(path)
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise errors.UserError(f"cannot read {path}: {error}") from error
    rank = data[3] if len(data) >= 4 else 0
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    if data[:3] != b"\x00\x00\x08" or len(data) != 4 + 4 * rank + int(np.prod(shape)):
        raise errors.UserError(f"{path} is not an IDX file of bytes, or is cut short")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def find(folder, split, kind):
    """The path of a split's 'images' or 'labels' file in a folder, or None; the official test files are called t10k."""
    names = {"test": ("t10k", "test")}.get(split, (split,))
    rank = {"images": 3, "labels": 1}[kind]
    for name in names:
        for ending in (".gz", ""):
            path = pathlib.Path(folder) / f"{name}-{kind}-idx{rank}-ubyte{ending}"
            if path.exists():
                return path
    return None
