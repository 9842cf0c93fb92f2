"""The commands: python -m experiments.NAME."""

import os

# Before JAX is imported: up to 0.10.1, jaxlib writes errors of kilobytes for programs that it takes from its own cache.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
