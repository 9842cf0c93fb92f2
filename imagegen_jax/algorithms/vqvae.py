"""The vector-quantised autoencoder (van den Oord et al. 2017): each place of the encoder's output becomes one of K vectors.

With z the encoder's output, e the nearest vector of the codebook (equations 1 and 2) and sg the stopped gradient, the networks
minimise equation 3 without its middle term,

    |decoder(z + sg(e - z)) - x|^2 + commitment |z - sg(e)|^2

as means over pixels in [-1, 1] and over the numbers of a code. The decoder sees e, and the encoder gets the gradient at e
("straight through"). What the middle term would do, moving averages do (appendix A.1): with n_i the places of a batch whose
nearest vector is e_i, and s_i the sum of their z,

    N_i <- decay N_i + (1 - decay) n_i,    m_i <- decay m_i + (1 - decay) s_i,    e_i = m_i / N_i            equations 6 to 8

A vector that is hardly ever the nearest is replaced by a z of the batch (Dhariwal et al. 2020, section 3.1), and in the first
step all of them are, so that the codebook begins among what it is to represent.

The networks' moving averages go with a codebook of their own, of N_i and m_i that are averaged over as many steps as they are:
to first order, an average encoder's z is the average of the encoders' z. That of a vector that is replaced begins anew with it.
"""

import dataclasses
from typing import Annotated
from typing import ClassVar

from flax import linen as nn
import flax.struct
import jax
from jax import numpy as jnp

from imagegen_jax import images
from imagegen_jax import keys
from imagegen_jax.algorithms import base
from imagegen_jax.networks import blocks
from imagegen_jax.networks import vqvae_nets

# Whether two devices choose the same vector must not depend on the low precision in which some multiply by default.
_EXACT = jax.lax.Precision.HIGHEST


@flax.struct.dataclass
class Codebook:
    """K vectors and how much each is used.

    Attributes:
      vectors: (K, d) float32, e of the equations above.
      counts: (K,) float32, N: moving averages of the places in a batch that each vector is nearest to.
    """

    vectors: jax.Array
    counts: jax.Array

    def nearest(self, z):
        """(..., d) -> (...) int32, the number of the nearest vector (equation 1); of several, the first."""
        squares = jnp.square(self.vectors).sum(-1)
        products = jnp.einsum("...d,kd->...k", z, self.vectors, precision=_EXACT)
        return jnp.argmin(squares - 2 * products, -1).astype(jnp.int32)

    def restarted(self, z, rng, dead):
        """With random rows of z (m, d) in place of those vectors that are `dead` (K,) bool, as if they had their even share."""
        codes, rows = len(self.vectors), len(z)
        # One row of each of K equal parts: no vector comes twice where there are enough.
        chosen = (jnp.arange(codes) + jax.random.uniform(rng, (codes,))) * (rows / codes)
        fresh = z[jnp.minimum(chosen.astype(jnp.int32), rows - 1)]
        return self.where(dead, Codebook(fresh, jnp.full(codes, rows / codes)))

    def where(self, chosen, other):
        """With the vectors and counts of another codebook in place of those that are chosen, (K,) bool."""
        vectors = jnp.where(chosen[:, None], other.vectors, self.vectors)
        return Codebook(vectors, jnp.where(chosen, other.counts, self.counts))

    def updated(self, z, uses, decay):
        """After a batch: z (m, d), and uses (m, K) that are 1 at each row's nearest vector and 0 elsewhere.

        m_i = N_i e_i put into equations 6 to 8 gives e_i <- e_i + (1 - decay) (s_i - n_i e_i) / N_i, which leaves a vector
        without uses where it is, however small its count becomes.
        """
        batch_counts = uses.sum(0)
        sums = jnp.einsum("mk,md->kd", uses, z, precision=_EXACT)
        counts = decay * self.counts + (1 - decay) * batch_counts
        moves = (1 - decay) * (sums - batch_counts[:, None] * self.vectors)
        return Codebook(self.vectors + moves / jnp.maximum(counts, jnp.finfo(jnp.float32).tiny)[:, None], counts)


@dataclasses.dataclass(frozen=True)
class Quantiser:
    """The section `vqvae`."""

    codes: Annotated[int, keys.AtLeast(2)] = 128  # in the codebook, K
    dimensions: Annotated[int, keys.AtLeast(1)] = 32  # of a code
    commitment: Annotated[float, keys.AtLeast(0)] = 0.25  # weight of the encoder's distance to its codes
    decay: Annotated[float, keys.AtLeast(0), keys.AtMost(1)] = 0.97  # of the codebook's moving averages
    # A vector is replaced when its count falls below this share of an even one; 0: in the first step alone.
    restart: Annotated[float, keys.AtLeast(0), keys.AtMost(1)] = 0.05


def quantised(aim, state, z, rng, ema_decay):
    """A step of the codebook in `state`, on the encoder's outputs for a whole batch.

    Args:
      aim: the Quantiser.
      state: base.TrainState, in whose `extra` are the codebook and the one that goes with the networks' moving average.
      z: (n, h', w', d).
      rng: key of which z replace vectors.
      ema_decay: step -> decay of the networks' moving average.

    Returns:
      (the vector of each place, shaped as z; what the codebooks become, as in `extra`; metrics)
    """
    rows, before = z.reshape(-1, z.shape[-1]), state.extra["codebook"]
    dead = (state.step == 0) | (before.counts < aim.restart * len(rows) / aim.codes)
    codebook = before.restarted(rows, rng, dead)
    indices = codebook.nearest(z)
    uses = jax.nn.one_hot(indices.reshape(-1), aim.codes)
    longer = jnp.maximum(aim.decay, ema_decay(state.step))
    average = state.extra["ema"]["codebook"].where(dead, codebook).updated(rows, uses, longer)
    metrics = {
        "perplexity": perplexity(uses.mean(0)),
        "codes_in_use": (uses.sum(0) > 0).mean(),
        "codes_restarted": dead.sum().astype(jnp.float32),
    }
    after = {"codebook": codebook.updated(rows, uses, aim.decay), "ema": {"codebook": average}}
    return codebook.vectors[indices], after, metrics


class Tokenizer:
    """What methods with a codebook between an encoder and a decoder have in common: capabilities.Tokenizes and Autoencodes.

    Attributes:
      network: the encoder and the decoder, methods `encode` and `decode` of a module with a `code_shape`, (h', w', d).
      quantiser: the section of the codebook, which is 'codebook' in TrainState.extra.
      network_name: what the network is called in a state.
    """

    columns: ClassVar[tuple[str, ...]] = ("image", "reconstruction")
    classes: ClassVar[int] = 0
    prior_is_normal: ClassVar[bool] = False
    network_name: ClassVar[str]

    network: nn.Module
    quantiser: Quantiser

    @property
    def codes(self):
        """Vectors in the codebook."""
        return self.quantiser.codes

    @property
    def latent_shape(self):
        """(h', w', d)."""
        return self.network.code_shape

    @property
    def code_shape(self):
        """(h', w') of an image's codes."""
        return self.network.code_shape[:2]

    @property
    def image_shape(self):
        """(height, width, channels)."""
        return self.network.image_shape

    def of_image_shape(self, shape):
        """See capabilities.AutoencodesSpatially."""
        return dataclasses.replace(self, network=self.network.clone(image_shape=shape))

    def first_codebook(self, rng):
        """The first step replaces every vector; an untrained codebook has some that differ, so that all else can be tried."""
        return Codebook(jax.random.normal(rng, (self.codes, self.network.dimensions)), jnp.zeros(self.codes))

    def encode(self, state, batch, rng=None):
        """The encoder's outputs z as they are: `decode` goes to the nearest vectors."""
        return self._encode(state.params[self.network_name], images.to_float(batch["image"]))

    def decode(self, state, latents, condition):
        return jnp.clip(self._decode(state.params[self.network_name], self._quantised(state, latents)), -1.0, 1.0)

    def indices(self, state, image):
        """(n, h, w, c) uint8 -> (n, h', w') int32, the number of the vector at each place."""
        return state.extra["codebook"].nearest(self._encode(state.params[self.network_name], images.to_float(image)))

    def decode_indices(self, state, indices):
        """(n, h', w') int32 -> (n, h, w, c) float32 in [-1, 1]."""
        return jnp.clip(self._decode(state.params[self.network_name], state.extra["codebook"].vectors[indices]), -1.0, 1.0)

    def panel(self, state, batch, rng):
        return jnp.stack([images.to_float(batch["image"]), self.decode(state, self.encode(state, batch), {})], 1)

    def _encode(self, params, x):
        return self.network.apply({"params": params}, x, method="encode")

    def _decode(self, params, z):
        return self.network.apply({"params": params}, z, method="decode")

    def _quantised(self, state, z):
        codebook = state.extra["codebook"]
        return codebook.vectors[codebook.nearest(z)]


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of a VQ-VAE."""

    network: vqvae_nets.Config = vqvae_nets.Config()
    vqvae: Quantiser = Quantiser()


@dataclasses.dataclass(frozen=True)
class VqVae(Tokenizer, base.Algorithm):
    """A VQ-VAE of images of one shape. Images are drawn by a prior over its codes, which is a run of its own (code_prior.py).

    Attributes:
      network: the encoder and the decoder.
      quantiser: the codebook.
      training: how it is optimised. The codebook that goes with the networks' moving average is averaged like them.
    """

    Config: ClassVar[type] = Config
    network_name: ClassVar[str] = "vqvae"

    network: vqvae_nets.Coder
    quantiser: Quantiser
    training: base.Training

    @classmethod
    def from_config(cls, config, spec, training):
        network = blocks.from_config(
            vqvae_nets.Coder, config.network, dimensions=config.vqvae.dimensions, image_shape=spec.shape
        )
        return cls(network, config.vqvae, training)

    def init(self, rng):
        params = self.network.init(rng, jnp.zeros((1, *self.network.image_shape)))["params"]
        averaged = {"codebook": self.first_codebook(jax.random.fold_in(rng, 1))}
        return base.first_state("vqvae", params, self.training, averaged)

    def train_step(self, state, batch, rng):
        x = images.to_float(batch["image"])
        # The codebook is that of the whole batch, in however many pieces its gradient is computed. In one piece, the compiler
        # finds that the loss computes the same z, and does so once.
        z = self._encode(state.params["vqvae"], x)
        nearest, codebooks, used = quantised(self.quantiser, state, z, rng, self.training.ema_decay)

        def loss(params, examples, rng):
            x, nearest = examples
            z = self._encode(params, x)
            error = _error(self._decode(params, straight_through(z, nearest)), x).mean()
            distance = _error(z, nearest).mean()
            return error + self.quantiser.commitment * distance, ({"squared_error": error, "code_distance": distance}, {})

        state, metrics = base.train_step(self.training, state, "vqvae", loss, (x, nearest), rng)
        return state.replace(extra=codebooks), metrics | used

    def eval_step(self, state, batch, rng):
        x = images.to_float(batch["image"])
        z = self._encode(state.params["vqvae"], x)
        nearest = self._quantised(state, z)
        error, distance = _error(self._decode(state.params["vqvae"], nearest), x), _error(z, nearest)
        return {"loss": error + self.quantiser.commitment * distance, "squared_error": error, "code_distance": distance}


def straight_through(z, nearest):
    """The value of `nearest` with the gradient of z; both (..., d)."""
    return z + jax.lax.stop_gradient(nearest - z)


def perplexity(shares):
    """e to the entropy of (K,) shares: how many codes it would take, evenly used, to be as unsure of the next."""
    return jnp.exp(jax.scipy.special.entr(shares).sum())


def _error(a, b):
    """(n,) squared differences, averaged over all else."""
    return jnp.square(a - b).mean((1, 2, 3))
