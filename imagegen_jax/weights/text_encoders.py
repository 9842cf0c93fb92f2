"""The weights of published text encoders as parameters of ours, from the .safetensors files that transformers writes."""

import pathlib

import jax
import numpy as np

from imagegen_jax import errors
from imagegen_jax.networks import clip_text
from imagegen_jax.networks import text_encoder
from imagegen_jax.weights import tensors as tensors_lib


def load(folder):
    """The parameters of text_encoder.published(folder), a nested dictionary of float32 arrays.

    Args:
      folder: with config.json and model.safetensors, or several of these (model-00001-of-00002.safetensors, ...).

    Raises:
      errors.UserError: there are none, they cannot be read, or are of another network.
    """
    encoder = text_encoder.published(folder)
    paths = sorted(pathlib.Path(folder).expanduser().glob("model*.safetensors"))
    if not paths:
        raise errors.UserError(f"config.text_encoder.pretrained is {folder}, which has no model.safetensors")
    tensors = {name.removeprefix("text_model."): x for path in paths for name, x in tensors_lib.load(path).items()}
    try:
        found = (_clip if isinstance(encoder, clip_text.ClipText) else _t5)(tensors, encoder.layers)
    except KeyError as error:
        raise errors.UserError(f"config.text_encoder.pretrained: {folder} has no tensor {error}") from error
    found = jax.tree.map(lambda x: np.ascontiguousarray(x, np.float32), found)
    wanted = jax.eval_shape(encoder.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 2), np.int32))["params"]
    if (ours := jax.tree.map(np.shape, found)) != (theirs := jax.tree.map(lambda x: x.shape, wanted)):
        name = next(name for name in theirs if ours.get(name) != theirs[name])
        raise errors.UserError(f"config.text_encoder.pretrained: the {name} of {folder} is not that of its config.json")
    return found


def _clip(tensors, layers):
    """Of clip_text.ClipText, from the names of transformers' CLIPTextModel."""
    return {
        "tokens": {"embedding": tensors["embeddings.token_embedding.weight"]},
        "positions": {"embedding": tensors["embeddings.position_embedding.weight"]},
        "norm_out": _norm(tensors, "final_layer_norm"),
    } | {f"block{i}": _clip_block(tensors, f"encoder.layers.{i}.") for i in range(layers)}


def _clip_block(tensors, at):
    each = [_dense(tensors, f"{at}self_attn.{name}_proj") for name in "qkv"]
    return {
        "norm1": _norm(tensors, f"{at}layer_norm1"),
        "query_key_value": {name: np.concatenate([one[name] for one in each], -1) for name in ("kernel", "bias")},
        "out": _dense(tensors, f"{at}self_attn.out_proj"),
        "norm2": _norm(tensors, f"{at}layer_norm2"),
        "mlp_in": _dense(tensors, f"{at}mlp.fc1"),
        "mlp_out": _dense(tensors, f"{at}mlp.fc2"),
    }


def _t5(tensors, layers):
    """Of t5_encoder.T5Encoder, from the names of transformers' T5EncoderModel, which a whole T5 has, too."""
    attention = "encoder.block.0.layer.0.SelfAttention"
    tokens = tensors["shared.weight"] if "shared.weight" in tensors else tensors["encoder.embed_tokens.weight"]
    return {
        "tokens": {"embedding": tokens},
        "distances": {"embedding": tensors[f"{attention}.relative_attention_bias.weight"]},
        "norm_out": {"scale": tensors["encoder.final_layer_norm.weight"]},
    } | {f"block{i}": _t5_block(tensors, f"encoder.block.{i}.layer.") for i in range(layers)}


def _t5_block(tensors, at):
    hidden = f"{at}1.DenseReluDense."
    gated = f"{hidden}wi_1.weight" in tensors
    kernels = {name: f"{at}0.SelfAttention.{name}" for name in "qkvo"} | {"wo": f"{hidden}wo"}
    kernels |= {"wi": f"{hidden}wi_0", "gate": f"{hidden}wi_1"} if gated else {"wi": f"{hidden}wi"}
    norms = {"norm1": f"{at}0.layer_norm", "norm2": f"{at}1.layer_norm"}
    return {ours: {"kernel": tensors[f"{theirs}.weight"].T} for ours, theirs in kernels.items()} | {
        ours: {"scale": tensors[f"{theirs}.weight"]} for ours, theirs in norms.items()
    }


def _dense(tensors, name):
    """A linear layer's, whose kernel is (out, in) in PyTorch."""
    return {"kernel": tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}


def _norm(tensors, name):
    return {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}
