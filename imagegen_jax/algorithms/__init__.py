"""The families, a file each: `find` gives the class of a name. A new one is a file here, or a class anywhere else."""

import functools
import importlib
import inspect
import pkgutil

from imagegen_jax import errors
from imagegen_jax.algorithms import base


@functools.cache
def names():
    """Names of the families that come with the package: the modules here with an Algorithm of their own."""
    return tuple(module.name for module in pkgutil.iter_modules(__path__) if _own(_module(module.name)))


def find(name):
    """The class of a name.

    Args:
      name: of a module here, such as 'diffusion'; or 'package.module:Class' of a subclass of base.Algorithm elsewhere.

    Raises:
      errors.UserError: there is none.
    """
    place, colon, wanted = str(name).partition(":")
    if not colon:
        if name not in names():
            raise errors.UserError(
                f"config.algorithm is {name!r}: choose one of {', '.join(names())}, or name a class as package.module:Class"
            )
        return _own(_module(name))
    try:
        found = getattr(importlib.import_module(place), wanted)
    except (ImportError, AttributeError) as error:
        raise errors.UserError(f"config.algorithm is {name!r}: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, base.Algorithm)):
        raise errors.UserError(f"config.algorithm is {name!r}: it is no subclass of imagegen_jax.algorithms.base.Algorithm")
    return found


def _module(name):
    return importlib.import_module(f"{__name__}.{name}")


def _own(module):
    """The Algorithm that a module defines; None where it defines none."""
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base.Algorithm) and value.__module__ == module.__name__
    ]
    return found[0] if found and not inspect.isabstract(found[0]) else None
