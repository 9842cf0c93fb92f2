"""The generator of pix2pix beside one in PyTorch with batch normalisation, of equal weights."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax.networks import cyclegan_nets

pytestmark = pytest.mark.parity


def in_torch(params, x, levels):
    """The unet of junyanz/pytorch-CycleGAN-and-pix2pix, written out: (1, 3, h, w) -> (1, c, h, w), trained without dropout."""
    import torch
    from torch.nn import functional

    def tensors(name):
        return {key: torch.tensor(np.asarray(value)) for key, value in params[name].items()}

    def batch_norm(x, name):
        own = tensors(name)
        return functional.batch_norm(x, None, None, own["scale"], own["offset"], training=True)

    skips = []
    for i in range(levels):
        x = functional.leaky_relu(x, 0.2) if i else x
        x = functional.conv2d(x, tensors(f"Conv_{i}")["kernel"].permute(3, 2, 0, 1), stride=2, padding=1)
        x = batch_norm(x, f"norm_down{i}") if 0 < i < levels - 1 else x
        skips.append(x)
    for step, i in enumerate(reversed(range(levels))):
        x = torch.cat([skips[i], x], 1) if i < levels - 1 else x
        own = tensors(f"TransposedConv_{step}")
        x = functional.conv_transpose2d(functional.relu(x), own["kernel"].permute(3, 2, 0, 1), own.get("bias"), 2, 1)
        x = batch_norm(x, f"norm_up{i}") if i else x
    return torch.tanh(x)


def test_the_generator_computes_what_the_authors_does():
    import torch

    levels = 4
    module = cyclegan_nets.UNetGenerator(2, channels=8, levels=levels, affine=True, dropout=0.5)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 32, 48, 3)).astype(np.float32)
    params = module.init(jax.random.key(0), jnp.asarray(x))["params"]
    drawn = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: np.float32(leaf + 0.1 * drawn.standard_normal(leaf.shape)), params)
    with torch.no_grad():
        theirs = in_torch(params, torch.tensor(x).permute(0, 3, 1, 2), levels).permute(0, 2, 3, 1).numpy()
    assert theirs.std() > 0.1
    np.testing.assert_allclose(module.apply({"params": params}, x), theirs, atol=1e-5)
