"""What a method can do beside training, as small protocols. A caller asks `isinstance(algorithm, capabilities.Draws)`.

A class has a capability by having its methods and attributes; nothing is inherited. Arrays are batches of n; images are
(n, height, width, channels) float32 in [-1, 1]. `condition` is a dict of arrays with n rows, of what the images are to show:
'label' (n,) int32 where `classes` > 0.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import typing
from typing import Any
from typing import Protocol
from typing import Self

import jax

from imagegen_jax import distributions
from imagegen_jax.algorithms import base
from imagegen_jax.diffusion import degradations
from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import samplers
from imagegen_jax.diffusion import solvers


@typing.runtime_checkable
class Draws(Protocol):
    """Images from nothing.

    Attributes:
      Request: the options of drawing, a frozen dataclass (see imagegen_jax/keys.py).
      classes: number of labels, of which `condition` must have one for each image; 0 where the method takes none.
    """

    Request: type
    classes: int

    def sample(self, state: base.TrainState, keys: jax.Array, condition: Mapping[str, jax.Array], request) -> jax.Array:
        """Images drawn with state.params, each a function of its own of (n,) keys, of its condition and the request alone."""

    def check_request(self, request) -> None:
        """Raises errors.UserError where this algorithm cannot draw what is requested."""

    def about_request(self, request) -> dict[str, Any]:
        """All constants that images of a request are drawn with, and no others, as JSON, for the protocol of a score."""


@dataclasses.dataclass(frozen=True)
class Companion:
    """A trained state that a drawing takes beside the run's own.

    Attributes:
      capability: the protocol, or the class, of its algorithm.
      what: its run, as a person calls it.
      workdir: folder of that run; None for the run that is drawn from.
      checkpoint: number of its step; None for the latest.
    """

    capability: type
    what: str
    workdir: str | None = None
    checkpoint: int | None = None


@typing.runtime_checkable
class TakesCompanions(Protocol):
    """Draws with other trained states beside its own, where a request names such."""

    def companions(self, request) -> dict[str, Companion]:
        """Those that a request names, by the options of the request that name them."""

    def accompanied(self, state: base.TrainState, companions: Mapping[str, Any]) -> tuple[Any, base.TrainState]:
        """The algorithm and the state that draw with them: {option: what has `spec`, `algorithm` and `state` of its run}."""


@typing.runtime_checkable
class Decodes(Protocol):
    """Images of latents.

    Attributes:
      latent_shape: of an image's latents: (h, w, c) where they have places, (d,) otherwise.
      prior_is_normal: whether latents are standard normal a priori, so that random ones can be decoded.
      classes: see Draws.
    """

    latent_shape: tuple[int, ...]
    prior_is_normal: bool
    classes: int

    def decode(self, state: base.TrainState, latents: jax.Array, condition: Mapping[str, jax.Array]) -> jax.Array:
        """The images of (n, *latent_shape) latents."""


@typing.runtime_checkable
class Autoencodes(Decodes, Protocol):
    """Latents of images, and back."""

    def encode(self, state: base.TrainState, batch: base.Batch, rng: jax.Array | None = None) -> jax.Array:
        """(n, *latent_shape) float32: the most likely latents, or random ones of the posterior where `rng` is given.

        Random ones depend on rng and the image's index.
        """


@typing.runtime_checkable
class AutoencodesSpatially(Autoencodes, Protocol):
    """Latents that have places, so that networks of images work on them.

    Attributes:
      image_shape: (height, width, channels).
    """

    image_shape: tuple[int, int, int]

    def of_image_shape(self, shape: tuple[int, int, int]) -> Self:
        """The same networks, for images of another height and width: latents have as many places as those need."""


@typing.runtime_checkable
class HasPosterior(Protocol):
    """Knows q(z | x) of its latents, a normal distribution."""

    def posterior(self, state: base.TrainState, batch: base.Batch) -> distributions.Gaussian:
        """Of (n, *latent_shape); what `encode` draws with a key is its value at rng.normal of that and of the index."""


@typing.runtime_checkable
class Precomputes(Protocol):
    """Trains on what a first stage makes of images, which can be computed of all before (training/precomputed.py)."""

    def precompute(self, state: base.TrainState, batch: base.Batch) -> dict[str, jax.Array]:
        """What may stand in place of 'image' in a batch that is trained on: {name: array with a row for each image}."""


@typing.runtime_checkable
class Tokenizes(Protocol):
    """Images as whole numbers, and back, for a prior over those.

    Attributes:
      codes: how many numbers there are.
      code_shape: (h, w) of an image's numbers.
    """

    codes: int
    code_shape: tuple[int, int]

    def indices(self, state: base.TrainState, image: jax.Array) -> jax.Array:
        """(n, h, w, c) uint8 images -> (n, *code_shape) int32."""

    def decode_indices(self, state: base.TrainState, indices: jax.Array) -> jax.Array:
        """The images of (n, *code_shape) int32."""


@typing.runtime_checkable
class Translates(Protocol):
    """Images of one domain as those of another.

    Attributes:
      directions: {name of a direction: (domain to come from, domain to go to)}, as batches name them.
      shapes: {domain: (height, width, channels)}.
      multiples: {direction: of which the sides of an image must be}.
      paired_test: whether test image i of one domain is the true translation of test image i of the other.
    """

    directions: Mapping[str, tuple[str, str]]
    shapes: Mapping[str, tuple[int, int, int]]
    multiples: Mapping[str, int]
    paired_test: bool

    def translate(self, state: base.TrainState, direction: str, image: jax.Array) -> jax.Array:
        """Images of one domain to the other's, by state.params; of any height and width that the network takes."""


@typing.runtime_checkable
class HasBound(Protocol):
    """A bound of likelihoods that gets tighter with samples."""

    def log_importance_weights(self, state: base.TrainState, batch: base.Batch, rng: jax.Array, sample: jax.Array) -> jax.Array:
        """(n,) float32 log p(x, z) - log q(z | x) in nats, with z the posterior's sample of this number.

        Their exponentials average p(x) over samples; x is what the likelihood observes of the image, the same for all samples.
        They depend on rng, the images' indices and `sample` alone.
        """


@typing.runtime_checkable
class HasLikelihood(Protocol):
    """Log probabilities of 8-bit images, or lower bounds of them, by estimates whose expectations need no more samples.

    Attributes:
      likelihoods: {kind: of how many samples an image, unless it is said}.
    """

    likelihoods: Mapping[str, int]

    def likelihood_costs(
        self, state: base.TrainState, batch: base.Batch, rng: jax.Array, kind: str, samples: int
    ) -> dict[str, jax.Array]:
        """{part: (n,) float32 nats}, which add up to minus the log probability; they depend on rng and the indices alone."""


@typing.runtime_checkable
class ShowsPanels(Protocol):
    """What becomes of held-out images, to look at.

    Attributes:
      columns: what `panel` shows of an image, from left to right.
    """

    columns: tuple[str, ...]

    def panel(self, state: base.TrainState, batch: base.Batch, rng: jax.Array) -> jax.Array:
        """(n, len(columns), height, width, channels)."""


@typing.runtime_checkable
class Classifies(Protocol):
    """Says of which class an image is.

    Attributes:
      image_shape: (height, width, channels).
    """

    image_shape: tuple[int, int, int]

    def classify(self, state: base.TrainState, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(n, h, w, c) uint8 -> (features (n, d), logits (n, classes)), float32."""


@typing.runtime_checkable
class Perceives(Protocol):
    """Sees in images what a distance between them is to be measured in (similarity.perceptual)."""

    def maps(self, state: base.TrainState, x: jax.Array) -> Sequence[jax.Array]:
        """(n, h, w, c) float32 images in [-1, 1] -> maps (n, h', w', c') of each level, differentiable with respect to x."""

    def map_weights(self, state: base.TrainState) -> Sequence[jax.Array] | None:
        """(c',) weights of each level's channels in that distance; None for all 1."""


@typing.runtime_checkable
class ClassifiesNoisy(Protocol):
    """Says of which class a noisy image is, differentiably, so that it can guide a diffusion of any process.

    Attributes:
      classes: number of labels.
    """

    classes: int

    def log_prob(self, state: base.TrainState, x_t: jax.Array, level: processes.Level, label: jax.Array) -> jax.Array:
        """(n,) float32 log p(label | x_t) of x_t = alpha x0 + sigma eps, each of its own image alone.

        `level` is that of all images, or broadcasts against them; `label` is (n,) int32.
        """


@typing.runtime_checkable
class Denoises(Protocol):
    """Says which image a noisy one holds, at any noise level of a process.

    Attributes:
      process: from images to noise.
      classes: see Draws.
    """

    process: processes.Process
    classes: int

    def denoiser(self, state: base.TrainState) -> solvers.Denoiser:
        """By state.params; levels may be those of each image."""


@typing.runtime_checkable
class DrawsByDenoising(Draws, Protocol):
    """Draws step by step along a process, so that what is known of an image can be put in on the way.

    Attributes:
      process: from images to noise.
      image_shape: (height, width, channels).
    """

    process: processes.Process
    image_shape: tuple[int, int, int]

    def denoising(self, state: base.TrainState, request) -> tuple[solvers.Denoiser, samplers.Sampler]:
        """What images of a request are drawn with, by state.params: the denoiser, guided, and the sampler."""


@typing.runtime_checkable
class Restores(Protocol):
    """Draws images of which it is told what is left, as it was trained to.

    Attributes:
      Request: see Draws.
      classes: see Draws.
      process: see DrawsByDenoising.
      image_shape: see DrawsByDenoising.
      degradation: what it undoes; the denoiser's condition has what `degradation.told` makes of images.
    """

    Request: type
    classes: int
    process: processes.Process
    image_shape: tuple[int, int, int]
    degradation: degradations.Degradation

    def denoising(self, state: base.TrainState, request) -> tuple[solvers.Denoiser, samplers.Sampler]:
        """See DrawsByDenoising."""

    def restore(self, state: base.TrainState, batch: base.Batch, rng: jax.Array) -> jax.Array:
        """A batch's images, degraded as in training and restored by the run's own sampler; of rng and the indices alone."""


@typing.runtime_checkable
class HasFirstStage(Protocol):
    """Stands on a trained run of another method; on none where its Config's `needs_first_stage` is there and False.

    Attributes:
      first_stage_capability: the protocol that the other method has to fulfil.
    """

    first_stage_capability: type

    def with_first_stage(self, state: base.TrainState, trained: base.TrainState) -> base.TrainState:
        """The first state, with what it takes from the trained state of the first stage."""
