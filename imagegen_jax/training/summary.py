"""What there is to see of a run when its training ends, and what to ask of it next."""

import shlex

from imagegen_jax import files
from imagegen_jax.algorithms import capabilities
from imagegen_jax.training import logging


def lines(workdir, algorithm):
    """A few lines: the last grid and panel, the last held-out values, and a command that makes more of the run.

    Args:
      workdir: folder of the run, which has a checkpoint.
      algorithm: of the run.
    """
    place, found = files.to_path(workdir), []
    for name, folder in (("grid", "samples"), ("panel", "panels")):
        steps = [int(path.stem) for path in (place / folder).glob("*.png") if path.stem.isdecimal()]
        if steps:
            found.append(f"last {name}: {place / folder / str(max(steps))}.png")
    measured = [row for row in logging.rows(workdir) if any(name.startswith("eval/") for name in row)]
    if measured:
        values = ", ".join(f"{name} {value:.4g}" for name, value in measured[-1].items() if name.startswith("eval/"))
        found.append(f"held-out images, step {measured[-1]['step']}: {values}")
    return [*found, _next(shlex.quote(f"--workdir={workdir}"), algorithm)]


def _next(workdir, algorithm):
    if isinstance(algorithm, capabilities.Draws):
        return f"draw more: python -m experiments.sample {workdir} --num=64 --out=more.png"
    if isinstance(algorithm, capabilities.Translates):
        flags = f"--direction={next(iter(algorithm.directions))} --input=IMAGES --out=translated/"
        return f"translate a folder of images: python -m experiments.edit translate {workdir} {flags}"
    if isinstance(algorithm, capabilities.Restores):
        verb = algorithm.degradation.name
        flags = "--input=test:0,1,2,3 --out=restored" + (" --mask=half:left" if verb == "inpaint" else "")
        return f"restore test images: python -m experiments.edit {verb} {workdir} {flags}"
    if isinstance(algorithm, capabilities.Autoencodes):
        return f"reconstruct: python -m experiments.edit reconstruct {workdir} --input=test:0,1,2,3 --out=pairs.png"
    return f"a page of the run: python -m experiments.report {workdir}"
