"""Files of tensors, read without running anything in them.

A .pth file holds a pickle: a program, which may name and call whatever Python can import. Ours may name a tensor's parts and
the dictionary around them, and makes descriptions of tensors. NumPy makes arrays of these, and sees to it that none reaches
outside of its storage.
"""

import collections
import functools
import hashlib
import io
import pickle
import struct
import typing
import zipfile

from jax import numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from imagegen_jax import errors


def sha256(path):
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(data):
    """The SHA-256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def load(path):
    """The tensors of a file.

    Args:
      path: of a .safetensors file, or of a state dict by torch.save in its present format (zip) or that before 1.6. What the
        file begins with decides, not its name.

    Returns:
      {name: np.ndarray}, of the types and shapes in the file; arrays may be read-only and may share memory.

    Raises:
      errors.UserError: there is no such file, it is damaged, or it holds anything but tensors.
    """
    try:
        with open(path, "rb") as file:
            begin = file.read(len(_MAGIC))
            if begin.startswith(b"PK\x03\x04"):
                return _from_zip(file)
            if begin == _MAGIC:
                return _from_legacy(file)
        return safetensors_numpy.load_file(path)
    # Damage may make a pickle raise anything.
    except Exception as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
        raise errors.UserError(f"cannot read weights from '{path}' ({reason})") from error


def metadata(path):
    """{name: text} that a .safetensors file holds beside its tensors."""
    with safetensors.safe_open(path, "numpy") as file:
        return file.metadata() or {}


_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # with which torch.save began before its files were zip
_STORAGES = {
    "BFloat16Storage": "bfloat16",
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "ShortStorage": "int16",
}


class _Storage(typing.NamedTuple):
    """A piece of memory: elements of this type, from `offset` on, in the storage of this key."""

    dtype: str
    key: str
    offset: int


class _Tensor(typing.NamedTuple):
    """A view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """Makes dictionaries of _Tensor and refuses every other name.

    What a pickle may call is a method of this object, never a function or a class of ours, which it could alter for good.
    """

    def __init__(self, file):
        super().__init__(file, encoding="utf-8")
        self.storages = {}

    def find_class(self, module, name):
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of a file of tensors")
        return known[module, name]

    def persistent_load(self, pid):
        kind, dtype, key, _, _, *view = pid
        if kind != "storage" or dtype not in _STORAGES.values():
            raise pickle.UnpicklingError("its storages are of an unknown kind")
        # Files before 1.6 have storages within storages: (key, offset, size).
        offset = view[0][1] if view and view[0] else 0
        self.storages[key] = _Storage(dtype, key, offset)
        return self.storages[key]

    def _tensor(self, storage, offset, shape, strides, *_):
        return _Tensor(storage, offset, shape, strides)

    def _parameter(self, tensor, *_):
        return tensor


def _from_zip(file):
    with zipfile.ZipFile(file) as archive:
        root = next((name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if root is None:
            raise ValueError("the archive has no data.pkl")
        if root + "byteorder" in archive.namelist():
            _check_order(archive.read(root + "byteorder") == b"little")
        state = _Unpickler(io.BytesIO(archive.read(root + "data.pkl"))).load()
        return _arrays(state, functools.cache(lambda key: archive.read(f"{root}data/{key}")))


def _from_legacy(file):
    _, system = (_Unpickler(file).load() for _ in range(2))  # version, then the machine that wrote it
    _check_order(system["little_endian"])
    unpickler = _Unpickler(file)
    state = unpickler.load()
    memory = {}
    for key in _Unpickler(file).load():
        (count,) = struct.unpack("<q", file.read(8))
        memory[key] = file.read(count * jnp.dtype(unpickler.storages[key].dtype).itemsize)
    return _arrays(state, memory.__getitem__)


def _check_order(little_endian):
    if not little_endian:
        raise ValueError("it comes from a big-endian machine")


def _arrays(state, memory):
    """{name: array} of a state dict of _Tensor; `memory` makes bytes of a storage's key."""
    if not isinstance(state, dict) or not all(isinstance(tensor, _Tensor) for tensor in state.values()):
        raise ValueError("it holds something else than a dictionary of tensors")
    return {name: _array(tensor, memory(tensor.storage.key)) for name, tensor in state.items()}


def _array(tensor, memory):
    dtype = jnp.dtype(tensor.storage.dtype)
    first = (tensor.storage.offset + tensor.offset) * dtype.itemsize
    # This raises where a view would leave the memory.
    return np.ndarray(tensor.shape, dtype, memory, first, [stride * dtype.itemsize for stride in tensor.strides])
