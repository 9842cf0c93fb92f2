"""The diffusion transformer (DiT: Peebles & Xie 2023), with details of later ones by option.

An image is a sequence of patches. Each block is told the time and the label by adaLN-zero (figure 3 there): its norms are
scaled and shifted, and its branches gated, by functions of both that are zero at first, so that it begins as the identity.

The options together make the transformer of JiT (Li & He 2025, "Back to Basics: Let Denoising Generative Models Denoise"):
RMSNorm, SwiGLU, rotary positions, normalised queries and keys, class tokens, and patches through a bottleneck.
"""

import dataclasses
from typing import Annotated
from typing import Any
from typing import Literal

from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax import keys
from imagegen_jax.networks import blocks

SIZES = {  # {name: fields of a DiT}, table 1
    "S": dict(width=384, layers=12, heads=6),
    "B": dict(width=768, layers=12, heads=12),
    "L": dict(width=1024, layers=24, heads=16),
    "XL": dict(width=1152, layers=28, heads=16),
}
_WAVES = 128  # of a time
_small = nn.initializers.normal(0.02)


def angles(places, waves):
    """Places (...) times the frequencies 1e4^(-i / waves) of Vaswani et al. 2017, section 3.5: (..., waves)."""
    return places[..., None] * 1e4 ** (-np.arange(waves) / waves)


def places(now, before):
    """(l, 2) float64, row and column of each of `now` patches, row by row, among the `before` of training.

    Patches are areas: of another number the centres lie between those of training, as interpolation has it.

    Args:
      now: (rows, columns).
      before: likewise.
    """
    axes = [(np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(now, before)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def embedded(at, width):
    """(l, 2) places -> (l, width): sines and cosines of the column, then of the row (facebookresearch/DiT, models.py)."""
    theta = angles(at[:, ::-1], width // 4)
    return np.concatenate([np.sin(theta), np.cos(theta)], -1).reshape(len(at), width)


def rotated(x, theta):
    """Rotary positions (Su et al. 2021, equation 34): turns channels (2 i, 2 i + 1) as a point of the plane.

    Args:
      x: (n, l, heads, d) queries or keys.
      theta: (l, d / 2) angles.

    Returns:
      Shaped as x, float32. The product of two depends on the difference of their angles alone.
    """
    cos, sin = jnp.cos(theta)[:, None], jnp.sin(theta)[:, None]
    a, b = jnp.moveaxis(x.reshape(*x.shape[:-1], -1, 2), -1, 0)
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)


class Modulation(nn.Module):
    """adaLN-zero: (n, width) of time and label -> `parts` factors or shifts (n, 1, width), zero at first."""

    parts: int
    dtype: Any

    @nn.compact
    def __call__(self, told):
        features = self.parts * told.shape[-1]
        dense = nn.Dense(features, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="dense")
        return jnp.split(dense(nn.silu(told))[:, None], self.parts, -1)


class Norm(nn.Module):
    """LayerNorm without parameters, or RMSNorm (Zhang & Sennrich 2019) with a scale; then x (1 + scale) + shift, in float32."""

    kind: str

    @nn.compact
    def __call__(self, x, shift, scale):
        plain = dict(use_bias=False, use_scale=False) if self.kind == "layer" else {}
        norm = (nn.LayerNorm if self.kind == "layer" else nn.RMSNorm)(epsilon=1e-6, dtype=jnp.float32, name="norm", **plain)
        return norm(x) * (1 + scale) + shift


class Attention(nn.Module):
    """softmax(q k^T / sqrt(width / heads)) v of all tokens, in float32 inside, and a linear layer."""

    heads: int
    qk_norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, theta, visible=None):
        """Mixes tokens.

        Args:
          x: (n, l, width).
          theta: angles of rotary positions, (l, width / heads / 2), or None.
          visible: (n, l) bool, which tokens there are; None for all.

        Returns:
          (n, l, width).
        """
        n, length, width = x.shape
        qkv = nn.Dense(3 * width, kernel_init=blocks.fan_avg, dtype=self.dtype, name="query_key_value")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(n, length, 3, self.heads, width // self.heads), 2, 0)
        if self.qk_norm:  # over the channels of a head (Dehghani et al. 2023)
            q, k = (nn.RMSNorm(epsilon=1e-6, dtype=jnp.float32, name=f"{name}_norm")(y) for name, y in (("q", q), ("k", k)))
        if theta is not None:
            q, k = rotated(q, theta), rotated(k, theta)
        mask = None if visible is None else visible[:, None, None]
        h = jax.nn.dot_product_attention(q.astype(self.dtype), k.astype(self.dtype), v, mask=mask).reshape(x.shape)
        return nn.Dense(width, kernel_init=blocks.fan_avg, dtype=self.dtype, name="out")(h)


class Hidden(nn.Module):
    """The hidden layer of a block: gelu(x W) V, or SwiGLU (Shazeer 2020, equation 6) of 2/3 its channels: as many weights."""

    kind: str
    ratio: float
    dtype: Any

    @nn.compact
    def __call__(self, x):
        width, swiglu = x.shape[-1], self.kind == "swiglu"

        def dense(features, name):
            return nn.Dense(features, kernel_init=blocks.fan_avg, dtype=self.dtype, name=name)

        hidden = int(self.ratio * width * (2 / 3 if swiglu else 1))
        h = dense(2 * hidden if swiglu else hidden, "in")(x)
        if swiglu:
            gate, h = jnp.split(h, 2, -1)
            return dense(width, "out")(nn.silu(gate) * h)
        return dense(width, "out")(nn.gelu(h, approximate=True))


class Block(nn.Module):
    """Attention, then a hidden layer, each modulated and gated by adaLN-zero. Attributes as those of DiT."""

    heads: int
    norm: str
    mlp: str
    mlp_ratio: float
    qk_norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, told, theta, visible=None):
        """(n, l, width) tokens, (n, width) of time and label, and what Attention takes -> (n, l, width)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = Modulation(6, self.dtype, name="modulation")(told)
        h = Norm(self.norm, name="norm1")(x, shift1, scale1).astype(self.dtype)
        x = x + gate1 * Attention(self.heads, self.qk_norm, self.dtype, name="attention")(h, theta, visible)
        h = Norm(self.norm, name="norm2")(x, shift2, scale2).astype(self.dtype)
        return x + gate2 * Hidden(self.mlp, self.mlp_ratio, self.dtype, name="mlp")(h)


class DiT(nn.Module):
    """Predicts one array of the image's shape from a noisy image and its timestep.

    Attributes:
      width: channels of a token.
      layers: blocks.
      heads: of attention.
      patch_size: side of a patch in pixels.
      bottleneck: channels through which a patch comes into the width; 0: at once.
      norm: layer (LayerNorm), or rms (RMSNorm).
      mlp: of a block's hidden layer, gelu or swiglu.
      mlp_ratio: its channels by the width.
      rotary: positions turn queries and keys, too, beside the sines and cosines that are added to patches.
      qk_norm: normalise queries and keys.
      class_tokens: tokens of the label beside those of patches and of it; without labels they are registers.
      class_tokens_from: the block, counted from 0, before which they come in.
      trained_size: height and width of the images whose patches positions are counted in; those of another size lie between.
        () for its own.
      out_channels: channels of the result.
      classes: labels that it is told, by an embedding that is added to that of the time; 0 for none. There is one for the null
        condition, too.
      text: makes words.Words of a text, which stand beside those of patches (Esser et al. 2024, section 4, with one set
        of weights for both), and whose mean is added to the embedding of the time; None where it is told none.
      times: numbers that it is told of each image, such as two timesteps, or one and the noise of its condition, each by a
        layer of its own.
      dtype: of the computation; parameters, norms, softmax and the last layer are float32.
      remat: recompute each block's activations in the backward pass instead of keeping them.
    """

    width: Annotated[int, keys.AtLeast(4)] = 384
    layers: Annotated[int, keys.AtLeast(1)] = 12
    heads: Annotated[int, keys.AtLeast(1)] = 6
    patch_size: Annotated[int, keys.AtLeast(1)] = 2
    bottleneck: Annotated[int, keys.AtLeast(0)] = 0
    norm: Literal["layer", "rms"] = "layer"
    mlp: Literal["gelu", "swiglu"] = "gelu"
    mlp_ratio: Annotated[float, keys.Above(0)] = 4.0
    rotary: bool = False
    qk_norm: bool = False
    class_tokens: Annotated[int, keys.AtLeast(0)] = 0
    class_tokens_from: Annotated[int, keys.AtLeast(0)] = 0
    trained_size: Annotated[tuple[int, ...], keys.Each(keys.AtLeast(1))] = ()
    out_channels: int = 3
    classes: int = 0
    text: nn.Module | None = None
    times: int = 1
    dtype: Any = jnp.float32
    remat: bool = keys.resumable(False)

    @nn.compact
    def __call__(self, x, t, condition=None, train=False):
        """Predicts.

        Args:
          x: (n, h, w, c) float.
          t: (n,) timesteps; (n, times) where `times` is above 1, but for the noise of a condition.
          condition: with 'label', (n,) int32, where classes is not 0, and 'text', (n, length) int32, where it is told one;
            'image' and 'noise' as blocks.with_image takes them.
          train: nothing here depends on it.

        Returns:
          (n, h, w, out_channels) float32.
        """
        x, t = blocks.with_image(x, t, condition)
        before = [side / self.patch_size for side in self.trained_size or x.shape[1:3]]
        x = blocks.space_to_depth(x, self.patch_size)
        n, *sides, _ = x.shape
        label = self._label(condition)
        told = self._time(t) if label is None else self._time(t) + label

        at = places(sides, before)
        x = self._patches(x.reshape(n, len(at), -1)) + jnp.asarray(embedded(at, self.width), self.dtype)
        theta = angles(at, self.width // self.heads // 4).reshape(len(at), -1) if self.rotary else None
        visible = None
        if self.text:
            words = self.text(condition["text"])
            told = told + nn.Dense(self.width, kernel_init=_small, dtype=self.dtype, name="text_pooled")(words.pooled)
            tokens = nn.Dense(self.width, kernel_init=blocks.fan_avg, dtype=self.dtype, name="text_tokens")(words.tokens)
            x, theta, visible = _joined(tokens, words.visible, x, theta, visible)
        block = nn.remat(Block) if self.remat else Block
        options = self.heads, self.norm, self.mlp, self.mlp_ratio, self.qk_norm, self.dtype
        for i in range(self.layers):
            if self.class_tokens and i == self.class_tokens_from:
                x, theta, visible = _joined(self._class_tokens(n, label), None, x, theta, visible)
            x = block(*options, name=f"block{i}")(x, told, theta, visible)
        x = x[:, -len(at) :]

        x = Norm(self.norm, name="norm_out")(x, *Modulation(2, self.dtype, name="modulation_out")(told))
        x = nn.Dense(self.out_channels * self.patch_size**2, kernel_init=nn.initializers.zeros, name="out")(x)
        return blocks.depth_to_space(x.reshape(n, *sides, -1), self.patch_size)

    def _time(self, t):
        """(n, width) of times (n,) or (n, times)."""
        t = t.astype(jnp.float32).reshape(len(t), self.times)
        theta = angles(t, _WAVES)
        waves = jnp.concatenate([jnp.cos(theta), jnp.sin(theta)], -1)

        def dense(name):
            return nn.Dense(self.width, kernel_init=_small, dtype=self.dtype, name=name)

        h = sum(dense(f"time_in{i or ''}")(waves[:, i]) for i in range(self.times))
        return dense("time_out")(nn.silu(h))

    def _label(self, condition):
        """(n, width), or None where there are no classes."""
        if not self.classes:
            return None
        embed = nn.Embed(self.classes + 1, self.width, embedding_init=_small, dtype=self.dtype, name="label")
        return embed(condition["label"])

    def _patches(self, x):
        """(n, l, channels) patches -> (n, l, width)."""

        def dense(features, name, **options):
            return nn.Dense(features, kernel_init=blocks.fan_avg, dtype=self.dtype, name=name, **options)

        x = dense(self.bottleneck, "bottleneck", use_bias=False)(x) if self.bottleneck else x
        return dense(self.width, "patches")(x)

    def _class_tokens(self, n, label):
        """(n, class_tokens, width)."""
        own = self.param("class_tokens", _small, (self.class_tokens, self.width)).astype(self.dtype)
        return jnp.broadcast_to(own, (n, *own.shape)) + (0 if label is None else label[:, None])


def _joined(tokens, there, x, theta, visible):
    """Tokens that have no place before others, x, with those others' angles and visibility."""
    theta = None if theta is None else np.pad(theta, ((tokens.shape[1], 0), (0, 0)))
    if there is not None or visible is not None:
        parts = [jnp.ones(y.shape[:2], bool) if seen is None else seen for seen, y in ((there, tokens), (visible, x))]
        visible = jnp.concatenate(parts, 1)
    return jnp.concatenate([tokens, x], 1), theta, visible


@dataclasses.dataclass(frozen=True)
class Config(keys.section(DiT, without=("out_channels", "classes", "text", "times"))):
    """The section `network` of a DiT."""

    name: Literal["dit"] = "dit"

    def objections(self):
        """See keys.objections."""
        if self.width % self.heads:
            yield "heads", f"it must divide config.network.width ({self.width})"
        elif self.rotary and self.width // self.heads % 4:
            yield "heads", f"rotary positions turn a multiple of 4 channels, and each of {self.width // self.heads} in a head"
        if self.width % 4:
            yield "width", "it must be a multiple of 4: sines and cosines of rows and of columns"
        if self.class_tokens_from >= self.layers:
            yield "class_tokens_from", f"choose of 0 to {self.layers - 1}, since config.network.layers is {self.layers}"
        if len(self.trained_size) not in (0, 2):
            yield "trained_size", "give a height and a width, such as (32, 32), or nothing: ()"
