"""What reads a text: a transformer (Vaswani et al. 2017) that is trained with the network that it tells, or a published one.

A convolution over neighbouring bytes comes first, since the parts of words say more than letters do (Clark et al. 2022, section
3.2, has attention between neighbours there).
"""

import dataclasses
import json
import pathlib
from typing import Annotated
from typing import Any

from flax import linen as nn
import jax
from jax import numpy as jnp

from imagegen_jax import errors
from imagegen_jax import keys
from imagegen_jax.networks import clip_text
from imagegen_jax.networks import t5_encoder
from imagegen_jax.networks import words

_NEIGHBOURS = 5  # tokens that one is made of
_unit = nn.initializers.normal(1.0)
_small = nn.initializers.normal(0.02)


class TextEncoder(nn.Module):
    """Tokens of conditions.Text -> words.Words, pooled their mean.

    Attributes:
      vocabulary: tokens that there are.
      width: features of a token.
      layers: blocks.
      heads: of attention.
      dtype: of the computation; parameters, norms and softmax are float32.
    """

    vocabulary: int = 256
    width: Annotated[int, keys.AtLeast(1)] = 128
    layers: Annotated[int, keys.AtLeast(1)] = 2
    heads: Annotated[int, keys.AtLeast(1)] = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, text):
        """(n, length) int32 -> Words with l = length + 1: a token of its own comes first, which an empty text has, too."""
        n, length = text.shape
        start = self.param("start", _small, (1, self.width)).astype(self.dtype)
        places = self.param("places", _small, (length, self.width)).astype(self.dtype)
        there = text < self.vocabulary
        table = nn.Embed(self.vocabulary, self.width, embedding_init=_unit, dtype=self.dtype, name="bytes")
        x = jnp.where(there[..., None], table(jnp.where(there, text, 0)), 0)
        x = nn.gelu(nn.Conv(self.width, (_NEIGHBOURS,), dtype=self.dtype, name="neighbours")(x)) + places
        x = jnp.concatenate([jnp.broadcast_to(start, (n, 1, self.width)), x], 1)
        visible = jnp.concatenate([jnp.ones((n, 1), bool), there], 1)
        for i in range(self.layers):
            x = words.Block(self.heads, self.dtype, name=f"block{i}")(x, visible)
        x = nn.LayerNorm(name="norm_out")(x).astype(self.dtype)
        return words.Words(x, visible, x.mean(1, where=visible[..., None]))


class Frozen(nn.Module):
    """A text encoder that stays as it is: no gradient reaches it, and the optimiser knows none of its parameters.

    Attributes:
      pretrained: the encoder; its name is that of what is not trained (optimisers.FROZEN).
    """

    pretrained: nn.Module

    def __call__(self, text):
        return jax.lax.stop_gradient(self.pretrained(text))


@dataclasses.dataclass(frozen=True)
class Config(keys.section(TextEncoder, without=("vocabulary",))):
    """The section `text_encoder`."""

    # Folder of a CLIP or T5 as transformers saves them, whose encoder reads texts and is not trained; '' for one of our own.
    pretrained: str = keys.resumable("")

    def objections(self):
        """See keys.objections."""
        if self.width % self.heads:
            yield "heads", f"it must divide config.text_encoder.width ({self.width})"


def build(config, kind):
    """The Linen module, tokens -> Words, of a Config; None for a network that is told no texts.

    Args:
      config: of it.
      kind: the conditions.Text that it reads, or None.

    Raises:
      errors.UserError: config.pretrained is no folder of such a model, or of one that reads other or fewer tokens.
    """
    if kind is None:
        return None
    if not (folder := config.pretrained):
        own = {name: getattr(config, name) for name in ("width", "layers", "heads")}
        return TextEncoder(kind.vocabulary, **own, dtype=jnp.dtype(config.dtype))
    encoder = published(folder, jnp.dtype(config.dtype))
    if not kind.tokenizer:
        raise errors.UserError(f"{_key(folder)}: say what tokens it reads, --config.data.tokenizer={folder}")
    if kind.vocabulary > encoder.vocabulary:
        raise errors.UserError(
            f"{_key(folder)}, which knows {encoder.vocabulary} tokens, and {kind.tokenizer} makes {kind.vocabulary}: give its "
            "own tokenizer"
        )
    if kind.length > (most := getattr(encoder, "positions", kind.length)):
        raise errors.UserError(f"config.data.caption_length is {kind.length}, and {folder} reads at most {most} tokens")
    return Frozen(encoder)


def published(folder, dtype=jnp.float32):
    """The encoder whose sizes the config.json of a folder has, as transformers writes it. Raises errors.UserError."""
    path = pathlib.Path(folder).expanduser() / "config.json"
    try:
        found = json.loads(path.read_text("utf-8"))
        found = found.get("text_config") or found  # a whole CLIP has a part for images, too
        return _MADE[found["model_type"]](found, dtype)
    except (OSError, ValueError) as error:
        raise errors.UserError(f"{_key(folder)}: cannot read {path} ({getattr(error, 'strerror', None) or error})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise errors.UserError(f"{_key(folder)}: {path} describes no text encoder of CLIP or T5 ({error})") from error


def _key(folder):
    return f"config.text_encoder.pretrained is {folder}"


def _clip(found, dtype):
    return clip_text.ClipText(
        vocabulary=found["vocab_size"],
        width=found["hidden_size"],
        layers=found["num_hidden_layers"],
        heads=found["num_attention_heads"],
        hidden=found["intermediate_size"],
        positions=found["max_position_embeddings"],
        activation=_known(clip_text.ACTIVATIONS, found["hidden_act"]),
        epsilon=found.get("layer_norm_eps", 1e-5),
        dtype=dtype,
    )


def _t5(found, dtype):
    return t5_encoder.T5Encoder(
        vocabulary=found["vocab_size"],
        width=found["d_model"],
        layers=found["num_layers"],
        heads=found["num_heads"],
        head_width=found["d_kv"],
        hidden=found["d_ff"],
        activation=_known(t5_encoder.ACTIVATIONS, found.get("feed_forward_proj", "relu")),
        buckets=found.get("relative_attention_num_buckets", 32),
        furthest=found.get("relative_attention_max_distance", 128),
        epsilon=found.get("layer_norm_epsilon", 1e-6),
        dtype=dtype,
    )


def _known(activations, name):
    """A name of one of these; KeyError of others, as of a missing entry."""
    return name if activations[name] else None


_MADE = {"clip": _clip, "clip_text_model": _clip, "t5": _t5}
