"""Resizing: closed forms, and what the three communities' own code makes of the same images."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from imagegen_jax.evaluation import resizing


def resize(name, images, size):
    function = resizing.PROTOCOLS[name]
    result = function(images, size) if name == "clean" else jax.jit(function, static_argnums=1)(images, size)
    assert result.shape == (len(images), size, size, 3) and result.dtype == np.float32
    return np.asarray(result)


def columns(values):
    """(1, n, n, 3) uint8, every row of which is `values`; with them as rows for the channel 1."""
    image = np.broadcast_to(np.asarray(values, np.uint8), (len(values), len(values)))
    return np.stack([image, image.T, image], -1)[None]


@pytest.mark.parametrize("name", resizing.PROTOCOLS)
def test_no_change_at_the_same_size(name):
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), np.uint8)
    np.testing.assert_array_equal(resize(name, images, 24), images)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("legacy_tensorflow", lambda i: i / 2),
        ("clean", lambda i: (i + 0.5) / 2 - 0.5),
        ("legacy_pytorch", lambda i: (i + 0.5) / 2 - 0.5),
    ],
)
def test_a_ramp_shows_where_pixels_lie(name, place):
    ramp = resize(name, columns(8 * np.arange(32)), 64)[0]
    inner = slice(4, -4)  # bicubic looks two pixels further
    expected = 8 * place(np.arange(64))[inner]
    np.testing.assert_allclose(ramp[7, inner, 0], expected, atol=1e-3)
    np.testing.assert_allclose(ramp[inner, 7, 1], expected, atol=1e-3)


@pytest.mark.parametrize(("name", "row"), [("legacy_tensorflow", (0, 4, 8, 8)), ("legacy_pytorch", (0, 2, 6, 8))])
def test_the_border_repeats(name, row):
    np.testing.assert_allclose(resize(name, columns([0, 8]), 4)[0, 0, :, 0], row)


# A quarter of the size: one looks at 4 i alone, one at the two pixels about 4 i + 3/2, one at all.
@pytest.mark.parametrize(("name", "value"), [("legacy_tensorflow", 0), ("legacy_pytorch", 255), ("clean", 127.5)])
def test_only_clean_sees_every_pixel_of_stripes(name, value):
    stripes = resize(name, columns([0, 255, 255, 0] * 16), 16)[0, 4:-4, 4:-4]
    np.testing.assert_allclose(stripes, value, atol=1e-3)


def test_clean_stays_in_range():
    edge = resize("clean", columns([0] * 8 + [255] * 8), 64)
    assert edge.min() == 0 and edge.max() == 255


@pytest.fixture(scope="module", params=[(32, 32), (333, 400)])
def drawn(request):
    return np.random.default_rng(1).integers(0, 256, (2, *request.param, 3), np.uint8)


@pytest.mark.parity
def test_legacy_pytorch_is_pytorchs(drawn):
    import torch

    image = torch.from_numpy(drawn).permute(0, 3, 1, 2).float()
    theirs = torch.nn.functional.interpolate(image, (299, 299), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    np.testing.assert_allclose(resize("legacy_pytorch", drawn, 299), theirs, atol=1e-3)


@pytest.mark.parity
def test_legacy_tensorflow_is_torch_fidelitys(drawn):
    import torch

    # The file alone, as the package wants torchvision.
    path = pathlib.Path(importlib.util.find_spec("torch_fidelity").origin).with_name("interpolate_compat_tensorflow.py")
    spec = importlib.util.spec_from_file_location("interpolate_compat_tensorflow", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    image = torch.from_numpy(drawn).permute(0, 3, 1, 2).float()
    theirs = module.interpolate_bilinear_2d_like_tensorflow1x(image, (299, 299), align_corners=False).permute(0, 2, 3, 1)
    np.testing.assert_allclose(resize("legacy_tensorflow", drawn, 299), theirs, atol=1e-3)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")
def test_clean_is_clean_fids(drawn):
    from cleanfid import resize as module

    theirs = module.make_resizer("PIL", False, "bicubic", (299, 299))
    np.testing.assert_allclose(resize("clean", drawn, 299), np.stack([theirs(image) for image in drawn]), atol=1e-3)
