"""Published weights as variables of our networks."""

import functools

from flax import traverse_util
import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax import errors
from imagegen_jax.networks import inception as inception_lib
from imagegen_jax.networks import vgg
from imagegen_jax.weights import tensors as tensors_lib

# The leaves of Linen's variables and PyTorch's names for them.
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def inception(path):
    """The variables of networks.inception.InceptionV3, as float32 arrays, from the weights of the FID.

    Raises:
      errors.UserError: the file cannot be read, or is of another network.
    """
    known = "pt_inception-2015-12-05-6726825d.pth from pytorch-fid's releases on GitHub, whose SHA-256 begins with 6726825d"
    return _variables(inception_lib.InceptionV3(), (1, 299, 299, 3), path, known)


def vgg16(path, head=True):
    """The variables of networks.vgg.VGG16, with its fully-connected layers or without, as float32, from torchvision's weights.

    Raises:
      errors.UserError: the file cannot be read, or is of another network.
    """
    known = "vgg16-397923af.pth from torchvision's model zoo, whose SHA-256 begins with 397923af"
    return _variables(vgg.VGG16(head), (1, 224, 224, 3), path, known)


def lpips(path):
    """LPIPS's weights of the channels of VGG16, {'lin0': (64,), ...} float32.

    Raises:
      errors.UserError: the file cannot be read, or is of another network.
    """
    layers = [f"lin{i}.model.1" for i in range(len(vgg.MAP_CHANNELS))]
    shapes = [jax.ShapeDtypeStruct((1, 1, channels, 1), jnp.float32) for channels in vgg.MAP_CHANNELS]
    specs = {"params": {layer: {"kernel": shape} for layer, shape in zip(layers, shapes)}}
    found = _read(specs, path, "weights/v0.1/vgg.pth of the package lpips")["params"]
    return {layer.removesuffix(".model.1"): found[layer]["kernel"].reshape(-1) for layer in layers}


def _variables(network, shape, path, known):
    """Variables whose names and shapes are the network's. `known` says which file a person may have meant."""
    return _read(_specs(network, shape), path, known)


@functools.cache
def _specs(network, shape):
    return jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def _read(specs, path, known):
    """Variables of these names and shapes, {'params': {module: {leaf: jax.ShapeDtypeStruct}}}."""
    try:
        tensors = tensors_lib.load(path)
        return traverse_util.path_aware_map(functools.partial(_leaf, path, tensors), specs)
    except errors.UserError as error:
        raise errors.UserError(f"{error}: give {known}, or the same tensors as .safetensors") from error


def _leaf(path, tensors, place, spec):
    """The variable at ('params', 'Mixed_5b', …, 'kernel') from the tensor 'Mixed_5b.….weight'."""
    _, *modules, leaf = place
    name = ".".join((*modules, _LEAVES[leaf]))
    if name not in tensors:
        raise errors.UserError(f"{path} has no tensor '{name}'")
    tensor = tensors[name]
    # A kernel is (out, in) or (out, in, height, width) in PyTorch, (in, out) or (height, width, in, out) in Linen.
    wanted = spec.shape[:-3:-1] + spec.shape[:-2] if leaf == "kernel" else spec.shape
    if tensor.shape != wanted:
        raise errors.UserError(f"{path}: its tensor '{name}' is {tensor.shape} where {wanted} is needed")
    if leaf == "kernel":
        tensor = tensor.transpose(*range(2, tensor.ndim), 1, 0)
    return np.ascontiguousarray(tensor, np.float32)
