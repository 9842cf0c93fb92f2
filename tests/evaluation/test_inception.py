"""The published networks: pooling by hand, published sizes, and PyTorch's results with the same random weights."""

import copy
import importlib
import importlib.util
import sys
import types

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from experiments.torch_reference import inception as inception_reference
from imagegen_jax import images as images_lib
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import vgg16
from imagegen_jax.evaluation import resizing
from imagegen_jax.networks import inception
from imagegen_jax.networks import vgg
from imagegen_jax.weights import published


def shapes(network, size):
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    return variables, jax.eval_shape(network.apply, variables, image)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_sizes_are_the_published_ones():
    variables, (pool3, logits) = shapes(inception.InceptionV3(), 299)
    assert (pool3.shape, logits.shape) == ((2, 2048), (2, 1008))
    assert pool3.dtype == logits.dtype == jnp.float32
    # Keras counts 21,802,784 without the last layer, of which 34,432 are means and variances; it has no scales.
    assert count(variables["batch_stats"]) == 34_432
    assert count(variables) == 21_802_784 + 34_432 // 2 + 2048 * 1008
    variables, features = shapes(vgg.VGG16(), 224)
    assert features.shape == (2, 4096)
    assert count(variables) == 138_357_544 - 4097 * 1000  # torchvision's, without its last layer


def test_padding_is_no_part_of_the_mean():
    x = np.random.default_rng(0).normal(size=(1, 4, 5, 2)).astype(np.float32)
    means, maxima = inception._average_pool(x), inception._max_pool(x)
    for i in range(4):
        for j in range(5):
            around = x[0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            np.testing.assert_allclose(means[0, i, j], around.mean((0, 1)), rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(maxima[0, i, j], around.max((0, 1)))


def close(ours, theirs):
    """Within 1e-4, relative to the largest."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.fixture(scope="module")
def torch_inception():
    """torch-fidelity's InceptionV3, with random weights."""
    return inception_reference.build()


@pytest.mark.parity
@pytest.mark.parametrize("legacy", [False, True])
def test_inception_is_torch_fidelitys(tmp_path, torch_inception, inception_apply, legacy):
    import torch

    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    torch.save(torch_inception.state_dict(), tmp_path / "inception.pth", _use_new_zipfile_serialization=not legacy)
    ours = inception_apply(published.inception(tmp_path / "inception.pth"), images)
    theirs = torch_inception(torch.from_numpy(images).permute(0, 3, 1, 2))
    for mine, other in zip(ours, theirs, strict=True):
        assert other.std() > 0.1
        close(mine, other.numpy())


@pytest.mark.parity
def test_inception_is_pytorch_fids(tmp_path, monkeypatch, torch_inception, inception_apply):
    """Its own blocks, which average without the padding; what it takes from torchvision is torch-fidelity's copy of that."""
    import torch

    copied = sys.modules[type(torch_inception).__module__]
    blocks = types.SimpleNamespace(InceptionA=copied.InceptionA, InceptionC=copied.InceptionC, InceptionE=copied.InceptionE_1)
    torchvision = types.ModuleType("torchvision")
    torchvision.__version__ = "0.6"
    torchvision.models = types.SimpleNamespace(inception=blocks, inception_v3=lambda **_: copy.deepcopy(torch_inception))
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    pytorch_fid = importlib.import_module("pytorch_fid.inception")
    monkeypatch.delitem(sys.modules, "pytorch_fid.inception")  # and with it the stub
    monkeypatch.setattr(pytorch_fid, "load_state_dict_from_url", lambda *_, **__: torch_inception.state_dict())
    network = pytorch_fid.InceptionV3(resize_input=False, normalize_input=False).eval()
    own = [module for module in network.modules() if type(module).__name__.startswith("FIDInception")]
    assert len(own) == 3 + 4 + 1 + 1

    images = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    torch.save(torch_inception.state_dict(), tmp_path / "inception.pth")
    ours, _ = inception_apply(published.inception(tmp_path / "inception.pth"), images)
    normalised = (np.array(resizing.legacy_tensorflow(images, 299)) - 128) / 128
    with torch.no_grad():
        (theirs,) = network(torch.from_numpy(normalised).permute(0, 3, 1, 2))
    close(ours, theirs[..., 0, 0].numpy())


@pytest.fixture(scope="module")
def inception_apply():
    return jax.jit(
        lambda variables, images: inception.InceptionV3().apply(
            variables, (resizing.legacy_tensorflow(images, 299) - 128) / 128
        )
    )


@pytest.mark.parity
def test_vgg_is_pytorchs(tmp_path):
    import torch

    nn = torch.nn
    layers, channels = [], 3
    for widths in ([64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3):
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    dense = [nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()]
    network = nn.ModuleDict({"features": nn.Sequential(*layers), "classifier": nn.Sequential(*dense)}).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        scale = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.data.normal_(0, scale, generator=generator)
    torch.save(network.state_dict(), tmp_path / "vgg.pth")
    image = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    ours = jax.jit(vgg.VGG16().apply)(published.vgg16(tmp_path / "vgg.pth"), image)
    convolutions = published.vgg16(tmp_path / "vgg.pth", head=False)
    (tmp_path / "vgg.pth").unlink()  # half a gigabyte
    with torch.no_grad():
        theirs = network["classifier"](network["features"](torch.from_numpy(image).permute(0, 3, 1, 2)).flatten(1))
    assert (theirs > 0).sum() > 1000
    close(ours, theirs.numpy())

    # What a perceptual distance sees of images in [-1, 1]: LPIPS's layers, relu1_2 to relu5_3.
    algorithm = vgg16.Vgg16.from_config(vgg16.Config(), images_lib.Spec((32, 48, 3)), base.Training())
    x = np.random.default_rng(1).uniform(-1, 1, (2, 32, 48, 3)).astype(np.float32)
    maps = algorithm.maps(base.TrainState(0, {"vgg16": convolutions["params"]}, {}, {}), x)
    mean, deviation = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    seen = ((torch.from_numpy(x).permute(0, 3, 1, 2) + 1) / 2 - mean) / deviation
    expected = []
    with torch.no_grad():
        for layer in network["features"]:
            if isinstance(layer, nn.MaxPool2d):
                expected.append(seen.permute(0, 2, 3, 1).numpy())
            seen = layer(seen)
    assert len(maps) == len(expected) == 5
    for mine, other in zip(maps, expected):
        close(mine, other)
