"""Files of weights: what is in them arrives, and nothing in them runs."""

import hashlib
import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from imagegen_jax import errors
from imagegen_jax.weights import published
from imagegen_jax.weights import tensors as tensors_lib

# Files as torch.save makes them, by hand: these tests are for machines without PyTorch too.
MEMORY = np.arange(24, dtype=np.float32)


def plain(value):
    return pickle.dumps(value, 2)[2:-1]


def called(module, name, *arguments):
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def storage(view=None):
    metadata = b"" if view is None else plain(view)
    return (
        b"(" + plain("storage") + b"ctorch\nFloatStorage\n" + plain("0") + plain("cpu") + plain(MEMORY.size) + metadata + b"tQ"
    )


def tensor(offset, shape, strides, view=None):
    rest = [plain(value) for value in (offset, shape, strides, False)]
    return called("torch._utils", "_rebuild_tensor_v2", storage(view), *rest, called("collections", "OrderedDict"))


def state_dict(**tensors):
    return b"\x80\x02}" + b"".join(plain(name) + value + b"s" for name, value in tensors.items()) + b"."


def write_zip(path, program):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", MEMORY.tobytes())


def write_legacy(path, program):
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    memory = struct.pack("<q", MEMORY.size) + MEMORY.tobytes()
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + program + pickle.dumps(["0"], 2) + memory)


@pytest.fixture(params=[write_zip, write_legacy])
def write(request):
    return request.param


def test_views_of_one_storage(tmp_path, write):
    path = tmp_path / "weights.pth"
    views = {
        "whole": (0, (4, 6), (6, 1)),
        "transposed": (0, (6, 4), (1, 6)),
        "part": (7, (3, 2), (6, 2)),
        "scalar": (5, (), ()),
    }
    write(path, state_dict(**{name: tensor(*view) for name, view in views.items()}))
    found = tensors_lib.load(path)
    whole = MEMORY.reshape(4, 6)
    expected = {"whole": whole, "transposed": whole.T, "part": whole[1:, 1:5:2], "scalar": MEMORY[5]}
    assert list(found) == list(expected)
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
        assert array.dtype == np.float32


def test_storage_within_a_storage(tmp_path):
    write_legacy(tmp_path / "old.pth", state_dict(bias=tensor(1, (3,), (1,), view=("1", 10, 12))))
    np.testing.assert_array_equal(tensors_lib.load(tmp_path / "old.pth")["bias"], MEMORY[11:14])


@pytest.mark.parametrize(
    "view", [(0, (25,), (1,)), (20, (5,), (1,)), (-1, (2,), (1,)), (0, (2,), (24,)), (0, (2,), (-1,)), (0, (2**62,), (4,))]
)
def test_no_view_leaves_its_storage(tmp_path, write, view):
    write(tmp_path / "weights.pth", state_dict(a=tensor(*view)))
    with pytest.raises(errors.UserError, match="cannot read weights from .*weights.pth"):
        tensors_lib.load(tmp_path / "weights.pth")


class Command:
    """A pickle of it runs the command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize(
    "program",
    [
        lambda command: pickle.dumps({"a": Command(command)}, 2),
        lambda command: pickle.dumps({"a": Command(command)}, 4),
        lambda command: state_dict(a=called("posix", "system", plain(command))),
        lambda command: state_dict(a=called("builtins", "eval", plain(f"__import__('os').system({command!r})"))),
        lambda command: state_dict(a=called("torch._utils", "os.system", plain(command))),
        lambda command: state_dict(a=called("collections", "OrderedDict.fromkeys", plain(command))),
        lambda command: state_dict(a=b"(" + plain(command) + b"ios\nsystem\n"),
    ],
)
def test_a_malicious_pickle_runs_nothing(tmp_path, write, program):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    write(path, program(f"touch {trace}"))
    for read in (tensors_lib.load, published.inception, published.vgg16):
        with pytest.raises(errors.UserError, match="which is no part of a file of tensors") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_a_pickle_cannot_alter_the_reader(tmp_path):
    # BUILD sets attributes of what is on the stack: here of the function that rebuilds tensors.
    build = b"ctorch._utils\n_rebuild_tensor_v2\n(N}" + plain("__defaults__") + plain((1,)) + b"stb"
    write_zip(tmp_path / "weights.pth", state_dict(a=build))
    with pytest.raises(errors.UserError, match="no attribute '__defaults__'"):
        tensors_lib.load(tmp_path / "weights.pth")


@pytest.mark.parametrize("program", [pickle.dumps({"epoch": 3}, 2), pickle.dumps([1, 2], 2), b"\x80\x02}", b""])
def test_other_pickles_are_refused(tmp_path, write, program):
    write(tmp_path / "weights.pth", program)
    with pytest.raises(errors.UserError, match="cannot read weights"):
        tensors_lib.load(tmp_path / "weights.pth")


def test_cut_short(tmp_path, write):
    path = tmp_path / "weights.pth"
    write(path, state_dict(a=tensor(0, (24,), (1,))))
    whole = path.read_bytes()
    for length in (0, 4, 20, 100, len(whole) - 40):
        path.write_bytes(whole[:length])
        with pytest.raises(errors.UserError, match="cannot read weights"):
            tensors_lib.load(path)


def test_safetensors_round_trip(tmp_path):
    path = tmp_path / "weights.safetensors"
    tensors = {
        "wide": np.random.default_rng(0).normal(size=(3, 4)),
        "half": np.float16([1.5, -2]),
        "brain": np.array([1.5, -2], ml_dtypes.bfloat16),
        "count": np.array(7),
    }
    safetensors_numpy.save_file(tensors, path)
    found = tensors_lib.load(path)
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert tensors_lib.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest() == tensors_lib.sha256_of(path.read_bytes())


@pytest.mark.parity
@pytest.mark.parametrize("legacy", [False, True])
def test_torch_saves_what_we_load(tmp_path, legacy):
    import torch

    whole = torch.arange(24.0).reshape(4, 6)
    norm = torch.nn.BatchNorm2d(3)
    tensors = norm.state_dict() | {
        "parameter": torch.nn.Parameter(whole[0]),
        "part": whole[1:, ::2],
        "transposed": whole.T,
        "expanded": torch.ones(1).expand(5),
        "empty": torch.zeros(0, 3),
        "half": whole[0].half(),
        "brain": whole[1].bfloat16(),
        "flags": whole[0] > 2,
    }
    torch.save(tensors, tmp_path / "weights.pth", _use_new_zipfile_serialization=not legacy)
    found = tensors_lib.load(tmp_path / "weights.pth")
    assert list(found) == list(tensors)
    for name, expected in tensors.items():
        assert str(expected.dtype) == f"torch.{found[name].dtype}"
        np.testing.assert_array_equal(found[name].astype(np.float32), expected.detach().float(), err_msg=name)
    torch.save(norm, tmp_path / "module.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(errors.UserError, match=r"it names torch.nn.modules.batchnorm.BatchNorm2d"):
        tensors_lib.load(tmp_path / "module.pth")
