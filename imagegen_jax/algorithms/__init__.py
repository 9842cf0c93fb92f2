"""The families by name. A new one is a file of its own here and a row in this table."""

from imagegen_jax.algorithms import cyclegan
from imagegen_jax.algorithms import diffusion

ALGORITHMS = {
    "cyclegan": cyclegan.CycleGan,
    "diffusion": diffusion.Diffusion,
}
