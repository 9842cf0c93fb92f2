"""The hierarchical VAE's network: a ladder of latent variables (Sønderby et al. 2016), as deep ones build it today.

Bottom-up, an encoder makes features of the image at every resolution. Top-down, a decoder goes from a vector through the
coarsest to the finest resolution, and at each adds what the latent variables there say. Prior and posterior share that way down
(Kingma et al. 2016, figure 2): p(z_l | z_<l) is read off the decoder's state, and q(z_l | x, z_<l) is a correction to it by the
image's features, in units of the prior's deviation (Vahdat & Kautz 2020, equation 3).
"""

import dataclasses
import math
from typing import Annotated
from typing import Literal

from flax import linen as nn
import jax
from jax import numpy as jnp

from imagegen_jax import distributions
from imagegen_jax import keys
from imagegen_jax.networks import blocks
from imagegen_jax.networks import vae_nets


class Up(nn.Module):
    """The way up: (n, h, w, c) -> [features at full resolution, at half, ..., (n, d) of the whole image]."""

    widths: tuple[int, ...]
    blocks: int
    groups: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        features = []
        for level, width in enumerate(self.widths):
            x = nn.Conv(width, (3, 3), 2 if level else 1, dtype=self.dtype)(x)
            for _ in range(self.blocks):
                x = vae_nets.Residual(self.groups, self.dtype)(x)
            features.append(x)
        flat = nn.swish(blocks.GroupNorm(self.groups)(x)).reshape(len(x), -1)
        return [*features, nn.swish(nn.Dense(self.widths[-1], dtype=self.dtype)(flat))]


class StochasticLayer(nn.Module):
    """One level of latent variables: (h (..., width), features of x likewise or None, choose) -> Level of (..., channels).

    `choose` makes z of the prior and the posterior, which is None where there are no features.
    """

    channels: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, h, features, choose):
        prior = self._gaussian(h, "prior")
        if features is None:
            return vae_nets.Level(prior, None, choose(prior, None))
        change = self._gaussian(jnp.concatenate([h, features], -1), "posterior")
        moved = prior.mean + jnp.exp(prior.log_std) * change.mean
        posterior = distributions.Gaussian(moved, prior.log_std + change.log_std)
        return vae_nets.Level(prior, posterior, choose(prior, posterior))

    def _gaussian(self, h, name):
        """It begins as the standard normal distribution, or as no correction."""
        h = nn.swish(nn.Dense(h.shape[-1], dtype=self.dtype, name=f"{name}_hidden")(h))
        parameters = nn.Dense(2 * self.channels, dtype=jnp.float32, kernel_init=nn.initializers.zeros, name=name)(h)
        mean, log_std = jnp.split(parameters, 2, -1)
        return distributions.Gaussian(mean, jnp.clip(log_std, -5.0, 5.0))


class Ladder(nn.Module):
    """Latent variables at several resolutions; its methods are those of vae_nets.Vae.

    Attributes:
      image_shape: (h, w, c) of the images.
      outputs: channels of the output.
      widths: channels at the resolution of patches, half of it, a quarter, ...
      latents: latent channels of each level at these, then dimensions of the vector above them; 0 for none.
      blocks: residual blocks at each resolution, on the way up and on the way down; on the latter each follows a level.
      groups: of GroupNorm.
      patch_size: pixels a side that are taken as one.
      classes: labels that both ways are told; 0 for none.
      dtype: of the computation; the layers that make distributions and the output are float32.
    """

    image_shape: tuple[int, int, int]
    outputs: int
    widths: Annotated[tuple[int, ...], keys.Each(keys.AtLeast(1))] = (32, 64, 128)
    latents: Annotated[tuple[int, ...], keys.Each(keys.AtLeast(0))] = (2, 4, 8, 32)
    blocks: Annotated[int, keys.AtLeast(1)] = 1
    groups: Annotated[int, keys.AtLeast(1)] = 8
    patch_size: Annotated[int, keys.AtLeast(1)] = 1
    classes: int = 0
    dtype: jnp.dtype = jnp.float32

    @property
    def latent_shapes(self):
        """Of the levels, top first."""
        *maps, vector = self.latents
        levels = [(*side, channels) for side, channels in zip(self._sides, maps) if channels for _ in range(self.blocks)]
        return (((vector,),) if vector else ()) + tuple(reversed(levels))

    def infer(self, x, condition, noise, train=False):
        """See vae_nets.Vae.infer."""
        return self(x, condition, len(x), lambda level, prior, posterior: posterior.at(noise[level]))

    def generate(self, condition, noise, temperatures):
        """See vae_nets.Vae.generate."""
        return self(None, condition, len(noise[0]), lambda level, prior, _: prior.at(noise[level], temperatures[level]))[1]

    def decode(self, latents, condition, train=False):
        """See vae_nets.Vae.decode."""
        return self(None, condition, len(latents[0]), lambda level, prior, _: latents[level])[1]

    @nn.compact
    def __call__(self, x, condition, n, choose):
        """One way down, and before it the way up if there is an image.

        Args:
          x: (n, h, w, c) in [-1, 1], or None.
          condition: with 'label', (n,) int32, where classes is not 0.
          n: number of images.
          choose: (number of the level, prior, posterior or None) -> z.

        Returns:
          (a vae_nets.Level for each level, output (n, h, w, outputs)).
        """
        told = jnp.zeros((n, 0), self.dtype)
        if self.classes:
            told = jax.nn.one_hot(condition["label"], self.classes, dtype=self.dtype)
        features = [None] * len(self.latents)
        if x is not None:
            x = blocks.space_to_depth(x.astype(self.dtype), self.patch_size)
            spread = jnp.broadcast_to(told[:, None, None], (*x.shape[:3], self.classes))
            up = Up(self.widths, self.blocks, self.groups, self.dtype, name="up")
            features = up(jnp.concatenate([x, spread], -1))
        levels = []

        def latent(h, features, channels):
            layer = StochasticLayer(channels, self.dtype, name=f"rung_{len(levels)}")
            levels.append(layer(h, features, lambda *distributions: choose(len(levels), *distributions)))
            return levels[-1].z.astype(self.dtype)

        top = self.param("top", nn.initializers.normal(1.0), (self.widths[-1],))
        h = jnp.concatenate([jnp.broadcast_to(top.astype(self.dtype), (n, self.widths[-1])), told], -1)
        if self.latents[-1]:
            h = jnp.concatenate([h, latent(h, features[-1], self.latents[-1])], -1)
        h = nn.Dense(math.prod(self._sides[-1]) * self.widths[-1], dtype=self.dtype)(h)
        h = h.reshape(n, *self._sides[-1], self.widths[-1])
        for level in reversed(range(len(self.widths))):
            if level + 1 < len(self.widths):
                h = blocks.upsample_nearest(h, *self._sides[level])
                h = nn.Conv(self.widths[level], (3, 3), dtype=self.dtype)(h)
            for _ in range(self.blocks):
                if self.latents[level]:
                    z = latent(h, features[level], self.latents[level])
                    h = h + nn.Conv(self.widths[level], (1, 1), dtype=self.dtype)(z)
                h = vae_nets.Residual(self.groups, self.dtype)(h)
        h = nn.swish(blocks.GroupNorm(self.groups)(h))
        output = nn.Conv(self.outputs * self.patch_size**2, (3, 3), dtype=jnp.float32)(h)
        return tuple(levels), blocks.depth_to_space(output, self.patch_size)

    @property
    def _sides(self):
        height, width = (side // self.patch_size for side in self.image_shape[:2])
        return [(-(-height // 2**level), -(-width // 2**level)) for level in range(len(self.widths))]


@dataclasses.dataclass(frozen=True)
class Config(keys.section(Ladder, without=("image_shape", "outputs", "classes"))):
    """The section `network` of a hierarchical VAE."""

    name: Literal["ladder"] = "ladder"

    def objections(self):
        """See keys.objections."""
        if len(self.latents) != len(self.widths) + 1 or not any(self.latents):
            yield (
                "latents",
                (
                    f"give {len(self.widths) + 1} numbers, one for each of config.network.widths and one for the vector above "
                    "them; not all 0"
                ),
            )
