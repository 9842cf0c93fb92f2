"""Options for XLA that pay on a backend, as far as what they make of a program is right."""

import functools
import hashlib
import os
import pathlib
import platform
import sys

import jax
from jax import numpy as jnp
import jaxlib
import numpy as np

from imagegen_jax import files

# XLA:CPU hands operations to a library, YNNPACK, several of them at a time. Handing it products and reductions, and leaving
# convolutions to Eigen, takes .76 of the time of no library for a U-Net's train step (default recipe), .90 for a CycleGAN's and
# 1 for a GAN's, and .78 and .76 of XLA's own choice for the first two (JAX 0.10.2, 2 cores, medians by turns). Elementwise
# chains besides would take 5 % off a larger U-Net's step and add 10 % and 48 % to these two.
LIBRARIES = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"}
# In jaxlib 0.10.2 such fusions leave values wrong in silence (jax-ml/jax issue 39103). Of their kinds, products, reductions and
# elementwise chains are each wrong alone, and so is XLA's own choice; single products are right, and no faster than none.
NO_LIBRARIES = {"xla_cpu_experimental_ynn_fusion_type": ""}

# What runs once, such as the drawing of the first parameters, takes longer to compile than to run: 14 s against 3 s.
_QUICK = {"xla_backend_optimization_level": 0}
# Not every XLA knows this. It takes a third off (a U-Net's 5.2 -> 3.5 s of processor time), and makes the same bits.
_SOONER = {"xla_cpu_use_fusion_emitters": False}


def options():
    """The `compiler_options` of every jax.jit that does real work."""
    return _of_cpu() if jax.default_backend() == "cpu" else {}


def quick_options():
    """The `compiler_options` of what runs only once."""
    return _quick() if jax.default_backend() == "cpu" else {}


@functools.cache
def _quick():
    quick = _QUICK | NO_LIBRARIES
    return next(filter(_accepted, (quick | _SOONER, quick)), {})


@functools.cache
def _of_cpu():
    """LIBRARIES where they compute right, or what is slower and does; nothing where this XLA knows neither.

    Whether they do is found out once for each jaxlib and processor, and said where they do not.
    """
    if not _accepted(LIBRARIES):
        return {}
    known = files.cache_folder() / "compiler" / hashlib.sha256(_versions().encode()).hexdigest()[:16]
    try:
        return LIBRARIES if known.read_text() == "right" else NO_LIBRARIES
    except OSError:
        right = computes_right(LIBRARIES)
    try:
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text("right" if right else "wrong")
    except OSError:
        pass  # it is found out again
    if not right and jax.process_index() == 0:
        print(
            f"note: with its fast libraries jaxlib {jaxlib.__version__} computes wrong sums on this processor; it goes without "
            "them, which makes steps up to 1.4 times as long, until there is a jaxlib that has it right",
            file=sys.stderr,
        )
    return LIBRARIES if right else NO_LIBRARIES


def computes_right(choices):
    """Whether a program that jaxlib 0.10.2 gets wrong, sums of squares of 40,000 rows, is right by these `compiler_options`."""
    rows = np.stack([np.arange(40_000) % 251, np.ones(40_000), np.zeros(40_000)], 1).astype(np.float32)
    squares = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)), compiler_options=choices)
    return np.array_equal(squares(rows), np.square(rows).sum(1))


def _versions():
    """What decides how a program is compiled: jaxlib, the processor and its instructions, the flags of XLA, the options."""
    processor = f"{platform.machine()} {platform.processor()}"
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        processor += " ".join(next(line for line in lines if line.startswith(kind)) for kind in ("model name", "flags"))
    except (OSError, StopIteration):
        pass  # another system or processor
    return f"{jaxlib.__version__} {processor} {os.environ.get('XLA_FLAGS')} {LIBRARIES}"


def _accepted(choices):
    """Whether this XLA knows them."""
    try:
        jax.jit(lambda x: x + 1, compiler_options=choices).lower(0.0).compile()
    except (jax.errors.JaxRuntimeError, ValueError):
        return False
    return True
