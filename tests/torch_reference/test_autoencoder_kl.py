"""The autoencoder of latent diffusion against that of diffusers, which the published weights run in."""

import jax
import numpy as np
import pytest

from imagegen_jax.networks import autoencoder_kl

pytestmark = pytest.mark.parity


def built(network):
    """The diffusers.AutoencoderKL that computes what a networks.autoencoder_kl.AutoencoderKL does."""
    import diffusers

    levels = len(network.multipliers)
    return diffusers.AutoencoderKL(
        in_channels=network.image_shape[-1],
        out_channels=network.image_shape[-1],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(network.channels * multiplier for multiplier in network.multipliers),
        layers_per_block=network.blocks,
        latent_channels=network.latent_channels,
        norm_num_groups=network.groups,
    ).eval()


def fill(layer, params):
    """Flax parameters of a layer into it; returns how many there are."""
    import torch

    weight = np.array(params["kernel"] if "kernel" in params else params["scale"])
    if weight.ndim == 4:
        weight = weight.transpose(3, 2, 0, 1)
    elif weight.ndim == 2:
        weight = weight.T
    layer.weight.copy_(torch.tensor(weight).reshape(layer.weight.shape))
    layer.bias.copy_(torch.tensor(np.array(params["bias"])))
    return weight.size + params["bias"].size


def fill_residual(block, params):
    layers = {"norm1": block.norm1, "conv1": block.conv1, "norm2": block.norm2, "conv2": block.conv2}
    if block.conv_shortcut is not None:
        layers["shortcut"] = block.conv_shortcut
    assert params.keys() == layers.keys()
    return sum(fill(layer, params[name]) for name, layer in layers.items())


def fill_ends(half, params):
    """What encoder and decoder share."""
    attention = half.mid_block.attentions[0]
    layers = {"norm": attention.group_norm, "q": attention.to_q, "k": attention.to_k, "v": attention.to_v}
    layers["out"] = attention.to_out[0]
    filled = sum(fill(layer, params["middle_attention"][name]) for name, layer in layers.items())
    filled += sum(fill_residual(half.mid_block.resnets[i], params[f"middle_block{i + 1}"]) for i in (0, 1))
    ends = {"conv_in": half.conv_in, "norm_out": half.conv_norm_out, "conv_out": half.conv_out}
    return filled + sum(fill(layer, params[name]) for name, layer in ends.items())


def copy(params, model):
    """Flax parameters of an AutoencoderKL into it; returns how many there are."""
    import torch

    encoder, decoder, filled = params["encoder"], params["decoder"], 0
    with torch.no_grad():
        levels = len(model.encoder.down_blocks)
        for i in range(levels):
            down, up = model.encoder.down_blocks[i], model.decoder.up_blocks[levels - 1 - i]
            filled += sum(fill_residual(block, encoder[f"down{i}_{j}"]) for j, block in enumerate(down.resnets))
            filled += sum(fill_residual(block, decoder[f"up{i}_{j}"]) for j, block in enumerate(up.resnets))
            if i < levels - 1:
                filled += fill(down.downsamplers[0].conv, encoder[f"down{i + 1}_conv"])
            if i:
                filled += fill(up.upsamplers[0].conv, decoder[f"up{i}_conv"])
        filled += fill_ends(model.encoder, encoder) + fill_ends(model.decoder, decoder)
        return filled + sum(fill(getattr(model, name), params[name]) for name in ("quant_conv", "post_quant_conv"))


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        (dict(channels=32, multipliers=(1, 2, 4, 4), blocks=2, latent_channels=4, groups=32), (32, 48, 3)),
        (dict(channels=16, multipliers=(1, 2), blocks=1, latent_channels=16, groups=8), (28, 28, 1)),
    ],
)
def test_it_computes_what_diffusers_does(fields, shape):
    """With the same random weights, and with all of them."""
    import torch

    network = autoencoder_kl.AutoencoderKL(image_shape=shape, **fields)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2, *shape)).astype(np.float32)
    noise = rng.standard_normal((2, *network.latent_shape)).astype(np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, noise)["params"]
    params = jax.tree.map(
        lambda leaf: np.float32(rng.standard_normal(leaf.shape) / np.sqrt(leaf.size / leaf.shape[-1])), shapes
    )
    params = jax.tree.map(lambda leaf: np.float32(0.1 * rng.standard_normal(leaf.shape)) if leaf.ndim == 1 else leaf, params)
    scaled = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf + (path[-1].key == "scale"), params)

    model = built(network)
    size = sum(leaf.size for leaf in jax.tree.leaves(scaled))
    assert copy(scaled, model) == size == sum(parameter.numel() for parameter in model.parameters())
    posterior, made = jax.jit(network.apply)({"params": scaled}, x, noise)
    with torch.no_grad():
        theirs = model.encode(torch.tensor(x).permute(0, 3, 1, 2)).latent_dist
        z = theirs.mean + theirs.std * torch.tensor(noise).permute(0, 3, 1, 2)
        parts = theirs.mean, theirs.std, model.decode(z).sample, theirs.kl()
    for ours, their in zip((posterior.mean, np.exp(posterior.log_std), made), parts):
        their = their.permute(0, 2, 3, 1).numpy()
        assert their.std() > 0.01
        np.testing.assert_allclose(ours, their, rtol=0, atol=1e-5 * np.abs(their).max())


def test_the_published_size():
    network = autoencoder_kl.AutoencoderKL(image_shape=(256, 256, 3))
    blank = jax.ShapeDtypeStruct((1, 256, 256, 3), np.float32), jax.ShapeDtypeStruct((1, 32, 32, 4), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *blank)
    assert network.latent_shape == (32, 32, 4)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 83_653_863
