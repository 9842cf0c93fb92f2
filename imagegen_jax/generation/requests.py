"""What is asked of a run on the command line: the flags of drawing, which all commands that draw share, and sweeps of them.

Flags, sweeps and what they take are derived from base.SampleRequest: an option that is added there is added here.
"""

import itertools
import math

from absl import flags

from imagegen_jax import errors
from imagegen_jax.algorithms import base
from imagegen_jax.generation import latents as latents_lib


class _Parser(flags.ArgumentParser):
    """Values of one type, as `parsed` reads them."""

    def __init__(self, kind):
        self._kind = kind
        self.syntactic_help = {int: "an integer", float: "a number", tuple: "numbers, separated by commas"}.get(kind, "")

    def parse(self, argument):
        return argument if isinstance(argument, self._kind) else parsed(self._kind, argument)

    def flag_type(self):
        return self._kind.__name__


def define():
    """Declares a flag for each option of base.SampleRequest, --label, and those of latents.Options."""
    flags.DEFINE_string(
        "label", None, "The class that is drawn, by name or number; by default all in turn, a row of a grid each."
    )
    for name, (kind, meaning) in base.request_options().items():
        if kind is bool:
            flags.DEFINE_bool(name, None, meaning)
        else:
            flags.DEFINE(_Parser(kind), name, None, meaning, serializer=flags.ArgumentSerializer())
    flags.DEFINE_enum(
        "latents",
        None,
        latents_lib.KINDS,
        "What codes are drawn from: the family's prior, or what is fitted to training images' codes.",
    )
    flags.DEFINE_integer("components", None, "Gaussians of --latents=gmm; by default 10.")
    flags.DEFINE_integer("leaves", None, "Leaves of --latents=tree, at most; by default 64.")


def options():
    """{name: value} of the fields of base.SampleRequest that are given as flags; 'label' as it was written (`numbered`)."""
    values = {name: flags.FLAGS[name].value for name in ("label", *base.request_options())}
    return {name: value for name, value in values.items() if value is not None}


def numbered(request, specs):
    """A request, as `options` and `sweep` return them, with the number of its class in place of the name.

    Args:
      request: {name: value}.
      specs: the run's {domain: images.Spec}.

    Raises:
      errors.UserError: there is no such class.
    """
    return request | ({"label": specs[""].label_of(request["label"])} if "label" in request else {})


def latents():
    """The latents.Options that are given as flags. Raises errors.UserError."""
    return latents_lib.Options(*(flags.FLAGS[name].value for name in ("latents", "components", "leaves")))


def check_none(reason):
    """Raises errors.UserError, which ends in the reason, where a flag of `define` is given."""
    for name in (*options(), *(name for name in ("latents", "components", "leaves") if flags.FLAGS[name].value is not None)):
        raise errors.UserError(f"--{name}: {reason}; leave it out")


def sweep(words, fixed):
    """Every combination of what a sweep names.

    Args:
      words: of --sweep=steps:10,20,sampler:ddpm, split at its commas.
      fixed: what is the same in each, as `options` returns it; the sweep takes precedence.

    Returns:
      [{name: value}], as `options` returns them; without words, [fixed].

    Raises:
      errors.UserError: no such option, or a value that it does not take.
    """
    kinds = {name: kind for name, (kind, _) in base.request_options().items()} | {"label": str}
    written = f"--sweep={','.join(words)}"
    choices = {}
    name = None
    for word in words:
        key, colon, text = word.rpartition(":")
        name = key if colon else name
        if name not in kinds:
            raise errors.UserError(f"{written}: write such as steps:10,20; keys are {', '.join(kinds)}")
        try:
            choices.setdefault(name, []).append(parsed(kinds[name], text))
        except ValueError as error:
            raise errors.UserError(f"{written}: '{text}' is no {name}, {error}") from error
    return [fixed | dict(zip(choices, values)) for values in itertools.product(*choices.values())]


def parsed(kind, text):
    """A word as a value of a type; a tuple is of floats with commas between, or of one. Raises ValueError, which says why."""
    if kind is tuple:
        return tuple(parsed(float, word) for word in text.split(","))
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("write true or false")
        return text.lower() == "true"
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if kind is not str and not math.isfinite(value):
        raise ValueError(f"write a {'whole ' if kind is int else ''}number")
    return value
