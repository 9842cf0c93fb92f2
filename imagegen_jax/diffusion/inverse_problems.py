"""Images of which y = A x + noise has been observed, drawn by a diffusion that was trained on images alone.

Each method puts the observation into every step of a sampler. With r^2 = 1 / (alpha^2 / sigma^2 + 1 / d^2), the variance of x0
given x_t where pixels are independent Gaussians of standard deviation d, and J = d x0 / d x_t, the estimate x0 becomes

    ddnm            x0 + r^2 A^T (r^2 A A^T + noise^2)^-1 (y - A x0)          Wang et al. 2023; with noise Zhu et al. 2023
    reconstruction  x0 + weight alpha J^T A^T (y - A x0)                      Ho et al. 2022b; Chung et al. 2023
    mmps            x0 + C A^T (A C A^T + noise^2)^-1 (y - A x0)              Rozet et al. 2024
                    with C = sigma^2 / alpha J, the covariance of x0 given x_t

and repaint (Lugmayr et al. 2022) leaves it, and replaces what x_s has of A x by a noisy y.

What their images are, if the denoiser is exact and the steps are many and ancestral:

    mmps            of the posterior p(x | y) where images are Gaussian; as near as C is known elsewhere.
    ddnm            of the posterior where pixels are independent, as a Gaussian of deviation d if there is noise. Otherwise
                    biased: of what is observed x_t holds a noisy version, by which alone the rest is estimated, and the rest
                    keeps more of what it is without the observation; the less so, the more often steps are repeated. Without
                    noise A x is y, whatever the images.
    repaint         of the posterior, approximately: repeated steps let the rest follow what is observed; with few it is biased
                    as ddnm is. Without noise A x is y.
    reconstruction  biased: its weight is none that Bayes' rule gives; A x is near y, and variety is too small or too great.

Gradients make a step of reconstruction about three times as long, and one of mmps so many times more as it has iterations.
"""

from collections.abc import Callable
import dataclasses
from typing import Annotated
from typing import Any
from typing import NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax import keys as keys_lib
from imagegen_jax.diffusion import linear_operators
from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import samplers
from imagegen_jax.diffusion import solvers

DATA_STD = 0.5  # d
_REPEATS = 5
_OF_KNOWN = 2**31 - 1  # folded into a key: the noise of y, which no step of a solver has


class Drawing(NamedTuple):
    """What images are drawn with.

    Attributes:
      denoise: the network's estimate.
      process: that it was trained with.
      sampler: its steps.
      keys: (n,) random keys, of which image i depends on keys[i] alone.
      shape: of one image.
      condition: of the images, a pytree of arrays with n rows.
    """

    denoise: solvers.Denoiser
    process: processes.Process
    sampler: samplers.Sampler
    keys: jax.Array
    shape: tuple[int, ...]
    condition: Any = ()

    def sample(self, denoise=None, **kwargs):
        """samplers.sample, with another denoiser where one is given."""
        given = denoise or self.denoise, self.keys, self.shape, self.process, self.sampler, self.condition
        return samplers.sample(*given, **kwargs)


class Observation(NamedTuple):
    """y = A x + noise.

    Attributes:
      operator: A.
      y: (n, h', w', c').
      noise: standard deviation of the noise, on the scale of the images; a float, 0 for none.
    """

    operator: linear_operators.Operator
    y: jax.Array
    noise: float = 0.0


def ddnm(drawing: Drawing, seen: Observation, repeats=_REPEATS, data_std=DATA_STD):
    """Draws with the range of A^T from y, the null space of A from the network (Wang et al. 2023, algorithm 1).

    Repeated steps are the time travel of their algorithm 2, by one step.

    With noise, the estimate is the mean of x0 given y, if x0 given x_t is N(estimate, r^2) (Zhu et al. 2023, algorithm 1). As
    DDNM+ does (Wang et al. 2023, section 3.3), that trusts y the less, the less noise x_t has.
    """
    a, y, noise = seen

    def corrected(x0, x_t, level):
        if not noise:
            return linear_operators.projected(a, x0, y)
        variance = 1 / ((level.alpha / level.sigma) ** 2 + data_std**-2)
        gain = variance * a.singular / (variance * a.singular**2 + noise**2)
        return x0 + a.image(gain * (a.observed(y) - a.singular * a.components(x0)))

    return drawing.sample(on_x0=corrected, repeats=_repeats(seen, repeats))


def repaint(drawing: Drawing, seen: Observation, repeats=_REPEATS):
    """Replaces what is observed by a noisy y at each step's end, and repeats steps (Lugmayr et al. 2022, algorithm 1).

    Theirs is of masks. Here the components V^T x become those of S^+ U^T y, with as much more noise as their level has. Where y
    has more noise than that they stay (Kawar et al. 2022, section 4), and the steps, which would forget them, are not repeated.
    Jumps have the length 1.
    """
    a, y, noise = seen
    known = a.inverse_singular * a.observed(y)
    known_std = a.inverse_singular * noise

    def replaced(x, level, i):
        of_y = samplers.normal(jax.vmap(lambda key: jax.random.fold_in(key, _OF_KNOWN))(drawing.keys), known.shape[1:])
        left = level.sigma**2 - (level.alpha * known_std) ** 2
        wanted = level.alpha * known + jnp.sqrt(jnp.maximum(left, 0)) * of_y(i)
        change = jnp.where((a.singular > 0) & (left >= 0), wanted - a.components(x), 0.0)
        return x + a.image(change)

    return drawing.sample(on_x=replaced, repeats=_repeats(seen, repeats))


def reconstruction(drawing: Drawing, seen: Observation, weight=1.0):
    """Reconstruction guidance: along the gradient of -|y - A x0|^2 / 2 with respect to x_t (Ho et al. 2022b, equation 7).

    DPS (Chung et al. 2023, algorithm 1) is this with steps of another length. The weight is of an A whose greatest singular
    value is 1.
    """
    a, y, _ = seen
    weight = weight / jnp.square(a.singular).max((1, 2, 3), keepdims=True)

    def guided(x, level, condition):
        x0, pull, variance = _with_transposed_jacobian(drawing.denoise, x, level, condition)
        misfit = linear_operators.transpose(a, y - linear_operators.apply(a, x0))
        return solvers.Estimate(x0 + weight * level.alpha * pull(misfit), variance)

    return drawing.sample(guided)


def mmps(drawing: Drawing, seen: Observation, iterations=3):
    """Moment-matching posterior sampling (Rozet et al. 2024, section 4): the mean of x0 given x_t and y, both Gaussian.

    The covariance of x0 given x_t is Tweedie's; the system that it makes is solved by so many steps of conjugate gradients, and
    exactly by as many as y has values.
    """
    a, y, noise = seen

    def guided(x, level, condition):
        x0, pull, variance = _with_transposed_jacobian(drawing.denoise, x, level, condition)

        def towards(v):
            """C A^T v."""
            return level.sigma**2 / level.alpha * pull(linear_operators.transpose(a, v))

        def system(v):
            return linear_operators.apply(a, towards(v)) + noise**2 * v

        found = _conjugate_gradients(system, y - linear_operators.apply(a, x0), iterations)
        return solvers.Estimate(x0 + towards(found), variance)

    return drawing.sample(guided)


# {method: (function, its own constants)}
_METHODS = {
    "ddnm": (ddnm, ("repeats",)),
    "repaint": (repaint, ("repeats",)),
    "reconstruction": (reconstruction, ("weight",)),
    "mmps": (mmps, ("iterations",)),
}
SINGLE = ("ddpm", "ddim", "euler")  # samplers whose steps know nothing of each other


@dataclasses.dataclass(frozen=True)
class Method:
    """How images are drawn of what was observed; options of editing."""

    method: Annotated[
        str,
        keys_lib.OneOf(_METHODS),
        f"{', '.join(_METHODS)}: how what is known is put in.",
    ] = "ddnm"
    repeats: Annotated[int, keys_lib.AtLeast(1), "ddnm and repaint: how often each step is taken."] = _REPEATS
    weight: Annotated[float, keys_lib.Above(0), "reconstruction: of the gradient."] = reconstruction.__defaults__[0]
    iterations: Annotated[int, keys_lib.AtLeast(1), "mmps: of conjugate gradients, a gradient each."] = mmps.__defaults__[0]

    def draw(self, drawing: Drawing, seen: Observation) -> jax.Array:
        """(n, *shape) images."""
        function, own = _METHODS[self.method]
        return function(drawing, seen, **{name: getattr(self, name) for name in own})

    def takes(self, sampler: samplers.Sampler):
        """Whether it can draw with a sampler: repaint, and what repeats steps, with single steps of known noise alone."""
        single = sampler.name in SINGLE and not (sampler.name == "ddpm" and sampler.variance == "learned")
        repeats = self.method == "ddnm" and self.repeats > 1
        return single or not (repeats or self.method == "repaint")

    def foreign(self, asked):
        """Yields (an option that this method does not heed, the method that would)."""
        for name in asked:
            owners = [method for method, (_, own) in _METHODS.items() if name in own]
            if owners and self.method not in owners:
                yield name, " or ".join(owners)


def _repeats(seen, times):
    """How often steps are taken: once where x_t has less noise than y, of which they would forget what it says."""
    return None if times == 1 else lambda t: np.where(t.noise_ratio > seen.noise / seen.operator.least, times, 1)


def noised(drawing: Drawing, x0, strength):
    """SDEdit: noise is given to images, and taken away again (Meng et al. 2022, algorithm 1).

    Args:
      drawing: of a sampler other than ode.
      x0: (n, h, w, c) the images.
      strength: how much noise, above 0, as the time of the cosine schedule: sigma / alpha = tan(strength pi / 2), or less where
        the sampler's levels have less next; 1 draws from noise.
    """
    levels = samplers.levels(drawing.process, drawing.sampler)
    skipped = begins(levels, strength)
    level = processes.Level(*(jnp.float32(values[skipped]) for values in levels))
    x = level.alpha * x0 + level.sigma * samplers.normal(drawing.keys, drawing.shape)(0)
    return drawing.sample(begin=(skipped, x))


def begins(levels, strength):
    """The step with which `noised` begins: at least one is taken."""
    ratio = levels.noise_ratio[:-1]
    more = ratio > np.tan(strength * np.pi / 2) if strength < 1 else np.zeros_like(ratio)
    return min(int(more.sum()), len(ratio) - 1)


def _with_transposed_jacobian(denoise, x, level, condition) -> tuple[jax.Array, Callable, Any]:
    """(x0, v -> J^T v, variance) of the estimate of x, with J = d x0 / d x."""

    def of_x(x):
        return denoise(x, level, condition)

    x0, pull, variance = jax.vjp(of_x, x, has_aux=True)
    return x0, lambda v: pull(v)[0], variance


def _conjugate_gradients(system, b, iterations):
    """Solves system(v) = b for each image by itself (Hestenes & Stiefel 1952); v stays where nothing is left to solve."""

    def dot(u, v):
        return (u * v).sum((1, 2, 3), keepdims=True)

    def ratio(above, below):
        return jnp.where(below > 0, above / jnp.where(below > 0, below, 1.0), 0.0)

    def step(carry, _):
        v, residual, direction = carry
        image = system(direction)
        length = ratio(dot(residual, residual), dot(direction, image))
        left = residual - length * image
        onward = left + ratio(dot(left, left), dot(residual, residual)) * direction
        return (v + length * direction, left, onward), None

    (v, _, _), _ = jax.lax.scan(step, (jnp.zeros_like(b), b, b), length=iterations)
    return v
