"""Image generation in JAX and Flax.

import imagegen_jax

run = imagegen_jax.load("runs/ddpm")
images = run.sample(64, seed=0)
scores = run.evaluate(num=2000)["scores"]
"""

import importlib

_FUNCTIONS = {"load": "runs", "train": "runs", "Run": "runs", "evaluate": "scoring", "sweep": "runs"}
_PACKAGES = ("api", "benchmark", "reports")


def __getattr__(name):
    """What is asked for, which is imported only then: JAX and the families take their time."""
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _FUNCTIONS:
        raise AttributeError(f"module 'imagegen_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"imagegen_jax.api.{_FUNCTIONS[name]}"), name)
