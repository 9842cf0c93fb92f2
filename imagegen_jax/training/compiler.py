"""Options for XLA that pay on a backend."""

import functools

import jax

# XLA:CPU hands matrix products and convolutions to a library, YNNPACK. Handing it reductions too, and leaving convolutions to
# Eigen, takes .78 of the time of XLA's own choice for a U-Net's train step (default recipe) and .76 for a CycleGAN's.
# Elementwise chains besides would take 5 % off a larger U-Net's step and add 10 % and 48 % to these two (JAX 0.10.2, 2 cores).
_CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"}


# What runs once, such as the drawing of the first parameters, takes longer to compile than to run: 14 s against 3 s.
_CPU_QUICK = {"xla_backend_optimization_level": 0}


def options():
    """The `compiler_options` of every jax.jit that does real work."""
    return _known(_CPU) if jax.default_backend() == "cpu" else {}


def quick_options():
    """The `compiler_options` of what runs only once."""
    return _known(_CPU_QUICK) if jax.default_backend() == "cpu" else {}


def _known(choices):
    """The choices, or none where this XLA does not know them."""
    return choices if _accepted(tuple(choices.items())) else {}


@functools.cache
def _accepted(items):
    try:
        jax.jit(lambda x: x + 1, compiler_options=dict(items)).lower(0.0).compile()
    except (jax.errors.JaxRuntimeError, ValueError):
        return False
    return True
