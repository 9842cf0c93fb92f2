"""The diffusion transformer against that of diffusers, which the published weights of DiT run in."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax.networks import dit

pytestmark = pytest.mark.parity

CLASSES = 10


def built(network, side, channels):
    """The diffusers.DiTTransformer2DModel that computes what a networks.dit.DiT without options computes."""
    import diffusers

    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=network.heads,
        attention_head_dim=network.width // network.heads,
        in_channels=channels,
        out_channels=network.out_channels,
        num_layers=network.layers,
        sample_size=side,
        patch_size=network.patch_size,
        num_embeds_ada_norm=network.classes,
        norm_eps=1e-6,
    )
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0  # as facebookresearch/DiT has it
    return model.eval()


def copy(params, model):
    """Flax parameters of a DiT into it, each of whose blocks has a copy of the embeddings of time and label.

    Returns:
      How many there are, each of those copies counted once.
    """
    import torch

    def fill(layer, weight, bias=None):
        layer.weight.copy_(torch.tensor(np.array(weight)))
        if bias is not None:
            layer.bias.copy_(torch.tensor(np.array(bias)))
        return sum(parameter.numel() for parameter in layer.parameters())

    def dense(layer, p):
        return fill(layer, p["kernel"].T, p["bias"])

    with torch.no_grad():
        conv = model.pos_embed.proj
        size, channels = conv.weight.shape[2], conv.weight.shape[1]
        kernel = params["patches"]["kernel"].reshape(size, size, channels, -1).transpose(3, 2, 0, 1)
        filled = fill(conv, kernel, params["patches"]["bias"])
        for i, block in enumerate(model.transformer_blocks):
            p, told = params[f"block{i}"], block.norm1.emb
            shared = dense(told.timestep_embedder.linear_1, params["time_in"])
            shared += dense(told.timestep_embedder.linear_2, params["time_out"])
            shared += fill(told.class_embedder.embedding_table, params["label"]["embedding"])
            filled += dense(block.norm1.linear, p["modulation"]["dense"])
            qkv = p["attention"]["query_key_value"]
            parts = zip(np.split(qkv["kernel"], 3, -1), np.split(qkv["bias"], 3))
            attention = block.attn1
            for layer, (weight, bias) in zip((attention.to_q, attention.to_k, attention.to_v), parts):
                filled += fill(layer, weight.T, bias)
            filled += dense(attention.to_out[0], p["attention"]["out"])
            filled += dense(block.ff.net[0].proj, p["mlp"]["in"]) + dense(block.ff.net[2], p["mlp"]["out"])
        filled += dense(model.proj_out_1, params["modulation_out"]["dense"]) + dense(model.proj_out_2, params["out"])
    return filled + shared


@pytest.mark.parametrize(
    ("fields", "side"),
    [
        (dict(dit.SIZES["S"], patch_size=2), 32),
        (dict(width=64, layers=3, heads=2, patch_size=4), 16),
        (dict(width=32, layers=2, heads=4, patch_size=1), 8),
    ],
)
def test_it_computes_what_diffusers_does(fields, side):
    """With the same random weights, and with learned variances; of DiT-S/2 at the size of its latents, too."""
    import torch

    network = dit.DiT(**fields, out_channels=8, classes=CLASSES)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, side, side, 4)).astype(np.float32)
    t, label = np.array([0, 3, 999], np.int32), np.array([0, 7, CLASSES], np.int32)  # the last is the null condition
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, t, {"label": label})["params"]
    params = jax.tree.map(lambda leaf: np.float32(rng.standard_normal(leaf.shape) / np.sqrt(leaf.shape[0])), shapes)
    params = jax.tree.map(lambda leaf: 0.1 * leaf if leaf.ndim == 1 else leaf, params)

    model = built(network, side, channels=4)
    assert copy(params, model) == sum(leaf.size for leaf in jax.tree.leaves(params))
    with torch.no_grad():
        images = torch.tensor(x).permute(0, 3, 1, 2)
        theirs = model(images, torch.tensor(t), torch.tensor(label), return_dict=False)[0].permute(0, 2, 3, 1).numpy()
    ours = jax.jit(network.apply)({"params": params}, x, t, {"label": jnp.asarray(label)})
    assert theirs.std() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
