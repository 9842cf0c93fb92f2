"""The flags of drawing, which all commands that draw share, and sweeps of them.

They are the fields of the families' `Request` dataclasses: an option that is declared there is a flag, a key of a sweep and an
argument of Run.sample.
"""

import contextlib
import itertools
import os
import sys

from absl import flags

from imagegen_jax import algorithms
from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import keys
from imagegen_jax.generation import latents as latents_lib
from imagegen_jax.generation import requests
from imagegen_jax.training import run


def define():
    """Declares a flag for each option of a family, --label, and those of latents.Options.

    The options of a class outside of the package are there where --workdir names a run of it.
    """
    flags.DEFINE_string(
        requests.LABEL, None, "The class that is drawn, by name or number; by default all in turn, a row of a grid each."
    )
    flags.DEFINE_multi_string(
        requests.PROMPT, None, "What is drawn, of a run that is told texts; several, each with its flag, are drawn in turn."
    )
    flags.DEFINE_string("prompts", None, "File of such, one a line.")
    for name, (kind, meaning) in declared().items():
        (flags.DEFINE_bool if kind is bool else flags.DEFINE_string)(name, None, meaning)
    flags.DEFINE_enum(
        "latents",
        None,
        latents_lib.KINDS,
        "What latents are drawn from: the family's prior, or what is fitted to training images' latents.",
    )
    flags.DEFINE_integer("components", None, "Gaussians of --latents=gmm; by default 10.")
    flags.DEFINE_integer("leaves", None, "Leaves of --latents=tree, at most; by default 64.")


def declared():
    """{name: (type, what --help says)} of the options of all families."""
    found = {}
    for family in (*algorithms.names(), *_outside(sys.argv)):
        for name, field in keys.fields(algorithms.find(family).Request).items():
            meanings = [meaning for _, meaning in [found[name]] if meaning != field.meaning] if name in found else []
            found[name] = (field.kinds[0], " ".join([*meanings, field.meaning]))
    return found


def _outside(argv):
    """The algorithm of the run that a command line names, if that is a class outside of the package."""
    for word, after in zip(argv, [*argv[1:], ""]):
        name, equals, value = word.partition("=")
        if name in ("--workdir", "-workdir"):
            with contextlib.suppress(errors.UserError):  # the command says what is wrong with it
                saved, _ = run.saved(os.path.expanduser(value if equals else after))
                if ":" in (family := str(saved.get("algorithm"))):
                    algorithms.find(family)
                    yield family


def given():
    """{name: value} of the flags of drawing, as they are written, that are given; among them 'label' and 'prompt'.

    Raises:
      errors.UserError: the file of prompts cannot be read.
    """
    values = {name: flags.FLAGS[name].value for name in (requests.LABEL, *declared()) if name in flags.FLAGS}
    prompts = [*(flags.FLAGS[requests.PROMPT].value or []), *_lines(flags.FLAGS["prompts"].value)]
    return {name: value for name, value in (values | {requests.PROMPT: prompts or None}).items() if value is not None}


def _lines(path):
    """The lines of --prompts that are not blank."""
    if path is None:
        return []
    try:
        found = [line.strip() for line in files.to_path(path).read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UserError(f"--prompts={path}: cannot read it: {error}") from error
    if not found:
        raise errors.UserError(f"--prompts={path}: it has no lines; write a prompt in each")
    return found


def latents():
    """The latents.Options that are given as flags. Raises errors.UserError."""
    return latents_lib.Options(*(flags.FLAGS[name].value for name in ("latents", "components", "leaves")))


def sweep(words):
    """Every combination of what a sweep names.

    Args:
      words: of --sweep=steps:10,20,sampler:ddpm, split at its commas.

    Returns:
      [{name: text}], for requests.typed; without words, [{}].

    Raises:
      errors.UserError: no family has such an option.
    """
    names = (*declared(), requests.LABEL)
    choices = {}
    name = None
    for word in words:
        key, colon, text = word.rpartition(":")
        name = key if colon else name
        if name not in names:
            raise errors.UserError(f"--sweep={','.join(words)}: write such as steps:10,20; keys are {', '.join(names)}")
        choices.setdefault(name, []).append(text)
    return [dict(zip(choices, values)) for values in itertools.product(*choices.values())]
