"""Hostile input ends in one line, whatever it is: never in a traceback, never in a hang, never in memory without bound.

`python -m pytest -m fuzz` tries some thousand inputs; with FUZZ=10 before it ten times as many. An input that fails is kept by
hypothesis in .hypothesis/, and tried first the next time.
"""

import contextlib
import gzip
import importlib
import io
import json
import os
import pathlib
import pickle
import resource
import shutil
import signal
import sys
from unittest import mock
import zipfile

from absl import flags
from absl.testing import flagsaver
import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
from PIL import Image
import pytest
from safetensors import numpy as safetensors

from configs import variants
from imagegen_jax import command_line
from imagegen_jax import conditions
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.data import captions
from imagegen_jax.data import idx
from imagegen_jax.data import pictures
from imagegen_jax.evaluation import image_sets
from imagegen_jax.reports import history
from imagegen_jax.training import checkpoint
from imagegen_jax.training import run
from imagegen_jax.weights import tensors

pytestmark = pytest.mark.fuzz

TIMES = int(os.environ.get("FUZZ", "1"))
SECONDS = 20  # that one input may take
GROWTH = 4 * 2**30  # bytes that a test may come to: few bytes can be an image of 179 million pixels, Pillow's limit
ARRAYS = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.zeros((2, 3, 2, 2), np.float16)}


def inputs(number, **given):
    """A test of so many inputs, each within its time."""

    def decorate(test):
        @hypothesis.settings(
            max_examples=number * TIMES,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            print_blob=True,
        )
        @hypothesis.given(**given)
        def limited(**values):
            with in_time():
                test(**values)

        def bounded():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            limited()
            assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GROWTH

        bounded.__name__, bounded.__doc__ = test.__name__, test.__doc__
        return bounded

    return decorate


@contextlib.contextmanager
def in_time():
    def stop(*_):
        raise TimeoutError(f"an input took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tried(call, *args):
    """What a call returns, or None where it ends in one line."""
    try:
        return call(*args)
    except errors.UserError as error:
        assert len(str(error).splitlines()) == 1 and str(error).strip(), f"not one line: {error}"


# ---------------------------------------------------------------------------------------------------------- what is damaged


@st.composite
def damaged(draw, originals):
    """The bytes of one of some files, cut, with bytes and numbers changed, put in and taken out."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(("cut", "flip", "insert", "remove", "number")))
        if kind == "cut":
            del data[at:]
        elif kind == "flip" and at < len(data):
            data[at] ^= draw(st.integers(1, 255))
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=16))
        elif kind == "remove":
            del data[at : at + draw(st.integers(1, 64))]
        else:
            width = draw(st.sampled_from((2, 4, 8)))
            order = draw(st.sampled_from(("little", "big")))
            number = draw(st.one_of(st.sampled_from((0, 1, 2**31, 256**width - 1)), st.integers(0, 256**width - 1)))
            data[at : at + width] = (number % 256**width).to_bytes(width, order)
    return bytes(data)


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(("", "0", "-1", "1e999", "None", "()", "(1,", "runs/x", "../..", "2000 steps", "label", "unet", "dit")),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=4,
)


@st.composite
def changed(draw, original):
    """JSON with some of its values replaced by others, or left out."""
    value = json.loads(json.dumps(original))
    for _ in range(draw(st.integers(1, 3))):
        place = value
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(sorted(place))) if isinstance(place, dict) else draw(st.integers(0, len(place) - 1))
            if draw(st.booleans()) or not isinstance(place[key], dict | list) or not place[key]:
                if draw(st.integers(0, 4)) or isinstance(place, list):
                    place[key] = draw(VALUES)
                else:
                    del place[key]
                break
            place = place[key]
    return value


# -------------------------------------------------------------------------------------------------------------------- configs


@pytest.fixture(scope="module")
def declared():
    """The flags of experiments.main, which its import declares."""
    from experiments import main  # noqa: F401


def smoke(recipe):
    return importlib.import_module(f"configs.{recipe}").get_config("smoke")


KEYS = [(recipe, key) for recipe in variants.recipes() for key in sorted(config_lib.flatten(smoke(recipe)))]


@st.composite
def overrides(draw):
    recipe, key = draw(st.sampled_from(KEYS))
    value = draw(VALUES)
    text = value if isinstance(value, str) else json.dumps(value) if draw(st.booleans()) else repr(value)
    if not draw(st.integers(0, 9)):
        key += draw(st.sampled_from((".x", "x", ".", "=")))
    return recipe, key, text


@inputs(800, given=overrides())
def check_override(given):
    recipe, key, text = given
    words = ["main", f"--config=configs/{recipe}.py:smoke", f"--config.{key}={text}"]
    told = io.StringIO()
    with flagsaver.flagsaver(), mock.patch.object(sys, "argv", words), contextlib.redirect_stderr(told):
        try:
            command_line._parse(words)
            config = flags.FLAGS.config
        except SystemExit as end:
            assert end.code == 2 and len(told.getvalue().splitlines()) == 1, told.getvalue()
            return
    tried(config_lib.check, config)


def test_config_overrides(declared):
    check_override()


SAVED, SOONER = (
    json.loads(run.to_json(config_lib.typed(smoke(name)), images.Spec((8, 8, 1), ("a", "b"))))
    for name in ("ddpm_conditional", "baseline")  # the other's parameters are soon counted
)


@inputs(400, value=st.one_of(changed(SAVED), VALUES))
def test_config_json(value):
    folder = scratch()
    (folder / "config.json").write_text(json.dumps(value))
    tried(run.saved, folder)
    found = tried(run.load_config, folder)
    if found:
        tried(run.build_algorithm, *found)


# --------------------------------------------------------------------------------------------------------------------- files


_SCRATCH = pathlib.Path(os.environ.get("TMPDIR", "/tmp")) / f"imagegen_fuzz_{os.getpid()}"


def scratch():
    """An empty folder."""
    shutil.rmtree(_SCRATCH, ignore_errors=True)
    _SCRATCH.mkdir()
    return _SCRATCH


@pytest.fixture(scope="module", autouse=True)
def no_leavings():
    yield
    shutil.rmtree(_SCRATCH, ignore_errors=True)


def pictures_of_all_formats():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    modes = {"PNG": ("RGB", "L", "P", "RGBA", "1"), "GIF": ("P",), "TIFF": ("RGB", "L", "I;16"), "BMP": ("RGB", "1")}
    for kind in pictures.FORMATS:
        for mode in modes.get(kind, ("RGB",)):
            file = io.BytesIO()
            with contextlib.suppress(OSError, KeyError, ValueError):  # formats that Pillow reads alone
                shown = Image.new(mode, (5, 4)) if mode == "I;16" else picture.convert(mode)
                shown.save(file, kind)
                yield file.getvalue()


@inputs(1000, data=st.one_of(damaged(list(pictures_of_all_formats())), st.binary(max_size=64)))
def test_images(data):
    def read():
        with pictures.opened(io.BytesIO(data), "x") as image:
            pictures.header(image)
            return pictures.convert(image, 3)

    found = tried(read)
    assert found is None or (found.dtype == np.uint8 and found.shape[-1] == 3)


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


PIXELS = np.zeros((3, 4, 4, 1), np.uint8)
ARCHIVES = [npz(images=PIXELS, labels=np.arange(3)), npz(images=PIXELS.astype(float)), npz(mu=np.zeros(2), sigma=np.eye(2))]


@inputs(400, data=damaged(ARCHIVES))
def test_npz(data):
    path = scratch() / "a.npz"
    path.write_bytes(data)
    tried(image_sets.statistics, str(path))
    found = tried(image_sets.named, str(path))
    if found:
        tried(lambda: list(found.images(10)))


@inputs(400, data=damaged([safetensors.save(ARRAYS)]))
def test_safetensors(data):
    path = scratch() / "a.safetensors"
    path.write_bytes(data)
    tried(tensors.load, str(path))


def pickles():
    """A .pth as PyTorch writes it, without PyTorch: a zip of a pickle and of storages; and pickles alone."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"a": 1}, protocol=2))
        archive.writestr("a/data/0", bytes(16))
        archive.writestr("a/byteorder", "little")
    return [file.getvalue(), pickle.dumps({"a": [1, 2]}, protocol=2), pickle.dumps(os.getcwd)]


@inputs(400, data=damaged(pickles()))
def test_pth(data):
    path = scratch() / "a.pth"
    path.write_bytes(data)
    tried(tensors.load, str(path))


IDX = b"\0\0\x08\x03" + (2).to_bytes(4, "big") + (3).to_bytes(4, "big") * 2 + bytes(18)


@inputs(300, data=damaged([IDX]), compressed=st.booleans())
def test_idx(data, compressed):
    path = scratch() / ("a.gz" if compressed else "a")
    path.write_bytes(gzip.compress(data)[: -1 if len(data) % 7 == 0 else None] if compressed else data)
    tried(idx.read, path)


LINE = {"file_name": "a.png", "text": ["red boot", "boot, in red"]}


@inputs(300, value=st.one_of(changed(LINE), VALUES), data=damaged([json.dumps(LINE).encode()]), text=st.booleans())
def test_captions(value, data, text):
    folder = scratch()
    (folder / captions.FILE).write_bytes(data if text else json.dumps(value).encode())
    found = tried(captions.of_files, folder, [folder / "a.png"])
    if found:
        made = captions.Captions(found, conditions.Text(8))([0], [3])
        assert made.shape == (1, 8)


METRICS = {"step": 100, "train/loss": 0.5, "images_per_second": 30.0}
SCORE = {
    "label": {"step": 100},
    "scores": {"fid": {"value": 1.0, "interval": [0.9, 1.1]}, "kid": 0.1},
    "anchors": {},
    "protocol": {"images": {"num": 10}, "reference": {"source": "x"}, "features": {"features": "fashion"}},
    "warnings": [],
    "seconds": 1.0,
    "date": "2026-01-01",
    "machine": {},
}


@inputs(60, line=changed(METRICS), score=changed(SCORE), data=damaged([json.dumps(METRICS).encode()]))
def test_metrics_and_scores(line, score, data):
    folder = scratch()
    (folder / "config.json").write_text(json.dumps(SOONER))
    (folder / "metrics.jsonl").write_bytes(json.dumps(line).encode() + b"\n" + data)
    (folder / "eval").mkdir()
    (folder / "eval" / "100.json").write_text(json.dumps(score))
    found = tried(history.read, folder)
    if found:
        found.last("train/loss", found.step)


# --------------------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(the folder of a checkpoint, its state)."""
    folder = tmp_path_factory.mktemp("fuzz") / "checkpoints"
    state = {"a": jax.numpy.arange(6.0), "step": jax.numpy.int32(3)}
    with checkpoint.Checkpointer(folder) as checkpointer:
        checkpointer.save(state, checkpoint.Position(3, 0.0, 8, ""))
    return folder, state


def test_checkpoints(whole):
    folder, state = whole
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())

    @inputs(40, which=st.sampled_from(files), data=st.data())
    def check(which, data):
        copy = scratch() / "checkpoints"
        shutil.copytree(folder, copy)
        original = (copy / which).read_bytes()
        kind = data.draw(st.sampled_from(("damage", "remove")))
        if kind == "remove":
            (copy / which).unlink()
        else:
            (copy / which).write_bytes(data.draw(damaged([original])))
        with checkpoint.Checkpointer(copy, read_only=True) as checkpointer:
            tried(checkpointer.restore, 3, state)

    check()
