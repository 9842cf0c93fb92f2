"""MeanFlow from a trained diffusion: images in one evaluation of a network that learns from another.

python -m experiments.main --config=configs/ddpm.py --workdir=runs/ddpm
python -m experiments.main --config=configs/meanflow_distilled.py --config.first_stage.workdir=runs/ddpm --workdir=runs/few

''     for a run of configs/ddpm.py, in minutes
smoke  for a run of configs/ddpm.py:smoke, in seconds
"""

from configs import meanflow
from configs import variants

FIRST_STAGE = "ddpm"  # the recipe of the run that it stands on


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {name: lambda name=name: _distilled(name) for name in ("", "smoke")})


def _distilled(variant):
    c = meanflow.like_ddpm(variant, "meanflow_distilled")
    if not variant:
        c.duration = "4000 steps"
    return c
