"""The U-Net of DDPM (Ho et al. 2020, appendix B; hojonathanho/diffusion, models/unet.py), with details of DDPM++ by option.

DDPM++ is the network of Song et al. 2021, appendix H, as Karras et al. 2022 train it (NVlabs/edm, SongUNet).
"""

from collections.abc import Callable
import dataclasses
from typing import Annotated
from typing import Any
from typing import Literal

from flax import linen as nn
import jax
from jax import numpy as jnp

from imagegen_jax import keys
from imagegen_jax.networks import blocks


class ResidualBlock(nn.Module):
    """GroupNorm, swish, conv3, + dense(swish(embedding)), GroupNorm, swish, dropout, conv3, + shortcut, times skip_scale.

    Of no embedding (None) there is no such term.

    With `resample`, a function of (n, h, w, c) to another height and width, that comes before the first convolution and before
    a linear shortcut. With `scale_shift` the embedding comes behind the second norm, which would else take out much of it where
    its groups are small: norm * (1 + scale) + shift, by a dense of both (Nichol & Dhariwal 2021, section 3; Dhariwal & Nichol
    2021, section 3.1).
    """

    channels: int
    dropout: float
    groups: int
    dtype: Any
    skip_scale: float = 1.0
    resample: Callable | None = None
    scale_shift: bool = False

    @nn.compact
    def __call__(self, x, embedding, train):
        def conv(init, name):
            return nn.Conv(self.channels, (3, 3), kernel_init=init, dtype=self.dtype, name=name)

        def norm(name):
            return blocks.GroupNorm(self.groups, name=name)

        resample = self.resample or (lambda x: x)
        h = conv(blocks.fan_avg, "conv1")(resample(nn.swish(norm("norm1")(x))))
        h = norm("norm2")(h) if embedding is None else self._told(norm("norm2"), h, embedding)
        h = nn.Dropout(self.dropout, deterministic=not train)(nn.swish(h))
        h = conv(blocks.near_zero, "conv2")(h)
        x = resample(x)
        if x.shape[-1] != self.channels or self.resample:
            x = nn.Dense(self.channels, kernel_init=blocks.fan_avg, dtype=self.dtype, name="shortcut")(x)
        return (x + h) * self.skip_scale

    def _told(self, norm, h, embedding):
        """norm(h), which the embedding shifts."""
        outputs = self.channels * (1 + self.scale_shift)
        time = nn.Dense(outputs, kernel_init=blocks.fan_avg, dtype=self.dtype, name="time")(nn.swish(embedding))[:, None, None]
        if not self.scale_shift:
            return norm(h + time)
        scale, shift = jnp.split(time, 2, axis=-1)
        return norm(h) * (1 + scale) + shift


class AttentionBlock(nn.Module):
    """Residual self-attention over all positions, softmax(q k^T / sqrt(channels / heads)) v, in float32 inside."""

    heads: int
    groups: int
    dtype: Any
    skip_scale: float = 1.0

    @nn.compact
    def __call__(self, x):
        n, height, width, channels = x.shape

        def dense(init, name):
            return nn.Dense(channels, kernel_init=init, dtype=self.dtype, name=name)

        h = blocks.GroupNorm(self.groups, name="norm")(x).reshape(n, height * width, channels)
        q, k, v = (
            dense(blocks.fan_avg, name)(h).reshape(n, height * width, self.heads, channels // self.heads) for name in "qkv"
        )
        h = jax.nn.dot_product_attention(q, k, v).reshape(n, height, width, channels)
        return (x + dense(blocks.near_zero, "out")(h)) * self.skip_scale


class CrossAttentionBlock(nn.Module):
    """Residual attention of all positions to the tokens of a text (Rombach et al. 2022, section 3.3)."""

    heads: int
    groups: int
    dtype: Any
    skip_scale: float = 1.0

    @nn.compact
    def __call__(self, x, words):
        n, height, width, channels = x.shape

        def split(x, name):
            x = nn.Dense(channels, kernel_init=blocks.fan_avg, dtype=self.dtype, name=name)(x)
            return x.reshape(n, -1, self.heads, channels // self.heads)

        q = split(blocks.GroupNorm(self.groups, name="norm")(x).reshape(n, height * width, channels), "q")
        k, v = split(words.tokens, "k"), split(words.tokens, "v")
        h = jax.nn.dot_product_attention(q, k, v, mask=words.visible[:, None, None]).reshape(x.shape)
        out = nn.Dense(channels, kernel_init=blocks.near_zero, dtype=self.dtype, name="out")
        return (x + out(h)) * self.skip_scale


class UNet(nn.Module):
    """Predicts one array of the image's shape from a noisy image and its timestep.

    Attributes:
      channels: width at full resolution.
      multipliers: width of each level as a multiple of `channels`; each further level halves the resolution, rounding up.
      blocks: residual blocks per level on the way down; one more on the way up.
      attention_levels: levels (0 is full resolution) whose residual blocks are each followed by self-attention.
      heads: attention heads.
      dropout: rate inside residual blocks.
      groups: groups of each GroupNorm.
      resample_filter: taps of the filter, such as (1, 1), by which residual blocks change the resolution; () for convolutions
        between the levels, as DDPM has them.
      skip_scale: factor of each sum of a residual block, such as sqrt(1/2).
      scale_shift: the embedding of time and label scales and shifts what the second norm of a residual block makes, as in ADM,
        instead of being added before it.
      patch_size: the network works on patch_size^2-pixel patches as channels (1: on pixels, as DDPM does).
      out_channels: channels of the result.
      classes: labels that it is told, by an embedding that is added to that of the time; 0 for none. There is one for the null
        condition, too.
      text: makes words.Words of a text, to which each self-attention is followed by attention, and whose mean is added
        to the embedding of the time; None where it is told none.
      times: numbers that it is told of each image, such as two timesteps, or one and the noise of its condition, each by a
        layer of its own.
      dtype: of the computation; parameters, normalisation, softmax and the last layer are float32.
      remat: recompute each block's activations in the backward pass instead of keeping them.
    """

    channels: Annotated[int, keys.AtLeast(2)] = 128
    multipliers: Annotated[tuple[int, ...], keys.Each(keys.AtLeast(1))] = (1, 2, 2, 2)
    blocks: Annotated[int, keys.AtLeast(1)] = 2
    attention_levels: tuple[int, ...] = (1,)
    heads: Annotated[int, keys.AtLeast(1)] = 1
    dropout: Annotated[float, keys.AtLeast(0), keys.Below(1)] = 0.1
    groups: Annotated[int, keys.AtLeast(1)] = 32
    resample_filter: Annotated[tuple[int, ...], keys.Each(keys.AtLeast(1))] = ()
    skip_scale: Annotated[float, keys.Above(0), keys.AtMost(1)] = 1.0
    scale_shift: bool = False
    patch_size: Annotated[int, keys.AtLeast(1)] = 1
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
          train: with dropout, whose key is 'dropout'.

        Returns:
          (n, h, w, out_channels) float32.
        """
        wrap = (lambda module, **kw: nn.remat(module, **kw)) if self.remat else (lambda module, **kw: module)
        residual_block = wrap(ResidualBlock, static_argnums=(3,))
        attention_block, cross_attention_block = wrap(AttentionBlock), wrap(CrossAttentionBlock)

        def residual(x, i, name, resample=None):
            width = self.channels * self.multipliers[i]
            settings = (self.dropout, self.groups, self.dtype, self.skip_scale, resample, self.scale_shift)
            return residual_block(width, *settings, name=name)(x, embedding, train)

        def attention(x, name):
            settings = self.heads, self.groups, self.dtype, self.skip_scale
            x = attention_block(*settings, name=name)(x)
            return cross_attention_block(*settings, name=f"{name}_text")(x, words) if self.text else x

        def level(x, i, name):
            x = residual(x, i, f"{name}_block")
            return attention(x, f"{name}_attention") if i in self.attention_levels else x

        def halved(x, i):
            if not self.resample_filter:
                return conv(x.shape[-1], f"down{i}_conv", strides=2)(x)
            return residual(x, i - 1, f"down{i}_resample", lambda x: blocks.downsample(x, self.resample_filter))

        def doubled(x, i, height, width):
            if not self.resample_filter:
                return conv(x.shape[-1], f"up{i}_conv")(blocks.upsample_nearest(x, height, width))
            return residual(x, i, f"up{i}_resample", lambda x: blocks.upsample(x, self.resample_filter, height, width))

        def conv(features, name, init=blocks.fan_avg, strides=1, dtype=self.dtype):
            return nn.Conv(features, (3, 3), strides, kernel_init=init, dtype=dtype, name=name)

        x, t = blocks.with_image(x, t, condition)
        words = self.text(condition["text"]) if self.text else None
        embedding = self._embedding(t, condition, words)
        levels = range(len(self.multipliers))
        x = blocks.space_to_depth(x, self.patch_size)
        x = conv(self.channels, "conv_in")(x)
        skips = [x]
        for i in levels:
            if i > 0:
                x = halved(x, i)
                skips.append(x)
            for j in range(self.blocks):
                x = level(x, i, f"down{i}_{j}")
                skips.append(x)

        x = residual(x, levels[-1], "middle_block1")
        x = attention(x, "middle_attention")
        x = residual(x, levels[-1], "middle_block2")

        for i in reversed(levels):
            for j in range(self.blocks + 1):
                x = level(jnp.concatenate([x, skips.pop()], axis=-1), i, f"up{i}_{j}")
            if i > 0:
                x = doubled(x, i, *skips[-1].shape[1:3])

        x = nn.swish(blocks.GroupNorm(self.groups, name="norm_out")(x))
        x = conv(self.out_channels * self.patch_size**2, "conv_out", init=blocks.near_zero, dtype=jnp.float32)(x)
        return blocks.depth_to_space(x, self.patch_size)

    def _embedding(self, t, condition, words):
        """(n, 4 channels) of the times, the label and the text."""

        def dense(name):
            return nn.Dense(4 * self.channels, kernel_init=blocks.fan_avg, dtype=self.dtype, name=name)

        first, *others = t.T if self.times > 1 else (t,)
        embedding = dense("time_in")(blocks.sinusoidal_embedding(first, self.channels))
        for i, other in enumerate(others, 1):
            embedding += dense(f"time_in{i}")(blocks.sinusoidal_embedding(other, self.channels))
        embedding = dense("time_out")(nn.swish(embedding))
        if self.classes:
            told = nn.Embed(self.classes + 1, 4 * self.channels, dtype=self.dtype, name="label")(condition["label"])
            embedding = embedding + told
        return embedding + dense("text_pooled")(words.pooled) if self.text else embedding


@dataclasses.dataclass(frozen=True)
class Config(keys.section(UNet, without=("out_channels", "classes", "text", "times"))):
    """The section `network` of a U-Net."""

    name: Literal["unet"] = "unet"

    def objections(self):
        """See keys.objections."""
        levels = len(self.multipliers)
        if not levels:
            yield "multipliers", "give one for each level, such as (1, 2)"
            return
        if len(self.resample_filter) % 2:
            yield "resample_filter", "give an even number of taps, such as (1, 1), or none"
        if any(level not in range(levels) for level in self.attention_levels):
            yield "attention_levels", f"choose of 0 to {levels - 1}, since config.network.multipliers has {levels}"
            return
        for level in {*self.attention_levels, levels - 1}:  # there is attention in the middle, too
            width = self.channels * self.multipliers[level]
            if width % self.heads:
                yield "heads", f"it must divide the {width} channels of level {level}, which has attention"
