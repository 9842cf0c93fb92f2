"""The IDX format of MNIST: big-endian header (0, 0, 8, rank, sizes), then bytes; gzipped or not."""

import gzip
import math
import pathlib
import zlib

import numpy as np

from imagegen_jax import errors
from imagegen_jax import files


def read(path):
    """The uint8 array in an IDX file. Raises errors.UserError where the file is missing or is not one."""
    path = pathlib.Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            start = file.read(4)
            rank = start[3] if len(start) == 4 else 0
            sizes = file.read(4 * rank)
            shape = [int.from_bytes(sizes[4 * i : 4 * i + 4], "big") for i in range(rank)]
            expected = math.prod(shape)
            if expected > files.memory():
                raise errors.UserError(f"{path} says that it holds {expected / 1e9:.0f} GB, more than this machine's memory")
            data = file.read(expected + 1)  # of a gzip file no more is unpacked, however much it holds
    except (OSError, EOFError, zlib.error) as error:
        raise errors.UserError(f"cannot read {path}: {error}") from error
    if start[:3] != b"\x00\x00\x08" or len(sizes) != 4 * rank or len(data) != expected:
        raise errors.UserError(f"{path} is not an IDX file of bytes, or is cut short")
    return np.frombuffer(data, np.uint8).reshape(shape)


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
