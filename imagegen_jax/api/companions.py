"""Companions: the trained states that a drawing takes beside the run's own, such as a classifier that guides a diffusion."""

import dataclasses
import functools
import json
from typing import Any

import jax

from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax.algorithms import capabilities
from imagegen_jax.data import fingerprints
from imagegen_jax.generation import requests as requests_lib
from imagegen_jax.training import post_hoc
from imagegen_jax.training import run


@dataclasses.dataclass(frozen=True, eq=False)
class Accompanied:
    """A run with the companions that a request names.

    Attributes:
      run: the run.Run, with an algorithm and a state that draw with them.
      companions: {option: run.Run}.
    """

    run: run.Run
    companions: dict[str, run.Run]

    def about(self) -> dict[str, Any]:
        """What a protocol says of them, as JSON."""
        return {"companions": {option: identity(one) for option, one in self.companions.items()}} if self.companions else {}


def each(trained, requests):
    """The Accompanied of each request, all read from disk; requests with the same companions share one.

    Args:
      trained: a run.Run.
      requests: [{name: value}], as requests.typed makes them.

    Raises:
      errors.UserError: a companion's folder is no run, or one of another kind or of other images; or its checkpoint cannot be
        read. The line names the option.
    """
    load = functools.cache(functools.partial(_load, trained))

    @functools.cache
    def accompanied(named):
        found = {option: load(option, value, companion) for option, value, companion in named}
        if not found:
            return Accompanied(trained, {})
        algorithm, state = trained.algorithm.accompanied(trained.state, found)
        return Accompanied(dataclasses.replace(trained, algorithm=algorithm, state=state), found)

    return [accompanied(_named(trained.algorithm, request)) for request in requests]


def identity(trained):
    """Which trained state a run.Run holds, as JSON: what a protocol says of it."""
    return {
        "run": files.to_path(trained.workdir).name,
        "algorithm": trained.config.algorithm,
        "config": fingerprints.digest(json.dumps(config_lib.to_dict(trained.config), sort_keys=True)),
        "step": trained.step,
        "ema": trained.ema,
        "parameters": fingerprints.digest(*jax.tree.leaves(jax.device_get((trained.state.params, trained.state.extra)))),
    }


def _named(algorithm, request):
    """((option, its value, capabilities.Companion), ...) of a request."""
    if not isinstance(algorithm, capabilities.TakesCompanions):
        return ()
    options = requests_lib.options(request)
    found = algorithm.companions(algorithm.Request(**options))
    return tuple((option, options[option], companion) for option, companion in found.items())


def _load(trained, option, value, companion):
    """The run.Run of a companion, with moving averages as far as the run itself has them."""

    def check(opened):
        if not isinstance(opened.algorithm, companion.capability):
            raise errors.UserError(f"it is a run of {opened.config.algorithm}, and not of {companion.what}")
        if not opened.spec.agrees(trained.spec):
            raise errors.UserError(f"its images are {_said(opened.spec)}, and those of {trained.workdir} {_said(trained.spec)}")

    own = companion.workdir is None
    # The width of an average is chosen for the run itself: others need not keep such averages.
    ema = trained.ema if own else bool(trained.ema)
    load = functools.partial(run.load, remedy=run.BY_MOVING) if isinstance(ema, bool) else post_hoc.load
    try:
        return load(trained.workdir if own else companion.workdir, companion.checkpoint, ema, check=check)
    except errors.UserError as error:
        raise errors.UserError(f"--{option}={value}: {error}") from error


def _said(spec):
    """Shape and classes."""
    names = ", ".join(spec.known_names or map(str, range(spec.classes)))
    return f"{'x'.join(map(str, spec.shape))} of {f'the classes {names}' if spec.classes else 'no classes'}"
