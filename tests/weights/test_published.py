"""Published weights: another network's, or none, are refused by name."""

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from imagegen_jax import errors
from imagegen_jax.weights import published


@pytest.mark.parametrize(
    ("read", "tensors", "reason"),
    [
        (published.inception, {}, "has no tensor 'Conv2d_1a_3x3.bn.running_mean'"),
        (published.inception, {"Conv2d_1a_3x3.bn.running_mean": np.zeros(31)}, r"is \(31,\) where \(32,\) is needed"),
        (published.vgg16, {"classifier.0.bias": np.zeros((1, 4096))}, r"is \(1, 4096\) where \(4096,\) is needed"),
    ],
)
def test_another_networks_weights(tmp_path, read, tensors, reason):
    safetensors_numpy.save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(errors.UserError, match=reason) as caught:
        read(tmp_path / "weights.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (published.inception, "pt_inception-2015-12-05-6726825d.pth from pytorch-fid's releases"),
        (published.vgg16, "vgg16-397923af.pth from torchvision's model zoo"),
    ],
)
def test_missing_weights_are_named(tmp_path, read, words):
    for path in (tmp_path / "none.pth", tmp_path, ""):
        with pytest.raises(errors.UserError, match=words) as caught:
            read(path)
        assert "\n" not in str(caught.value)
