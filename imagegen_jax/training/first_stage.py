"""The trained run that a method stands on: its config, for as long as the method's own run lasts, and its state, to begin with.

It is named by its folder, or is the classifier of the bundled images, FASHION, which comes with the package, or is made of
published weights, vgg:FILE or, with LPIPS's weights of channels, vgg:FILE,LPIPS_FILE.
"""

import dataclasses
import functools
import importlib.resources
import re

from flax import traverse_util

from imagegen_jax import algorithms
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax.algorithms import base
from imagegen_jax.training import checkpoint
from imagegen_jax.training import run
from imagegen_jax.weights import published
from imagegen_jax.weights import tensors

FASHION, VGG = "fashion", "vgg:"


def filled_in(workdir, config, specs):
    """The config with that of the run that it stands on in first_stage.run; as it is where it stands on none.

    Once the run in `workdir` (None for none) has begun, its own config tells, so that it no longer needs the other's folder.

    Raises:
      errors.UserError: that folder is not given, is not a run, or one of a method that will not do or of other images.
    """
    if not config.needs_first_stage:
        return config
    has_begun = workdir is not None and checkpoint.available_steps(files.to_path(workdir) / run.CHECKPOINTS)
    own = run.load_config(workdir) if has_begun else None
    begun = own[0].first_stage if own and own[0].first_stage else None
    found = {"run": begun.run, "class_names": begun.class_names} if begun else _found(config, specs)
    return dataclasses.replace(config, first_stage=dataclasses.replace(config.first_stage, **found))


def trained(config):
    """The base.TrainState of the run in config.first_stage.workdir. Raises errors.UserError."""
    folder = config.first_stage.workdir
    if folder.startswith(VGG):
        network, weights = _vgg_files(folder)
        params = {"vgg16": published.vgg16(network, head=False)["params"]}
        if weights:
            params["lpips"] = published.lpips(weights)
        return base.TrainState(0, params, {}, {})
    return (bundled() if folder == FASHION else run.load(folder, remedy=run.BY_MOVING)).state


@functools.cache
def bundled():
    """The run.Run of the bundled classifier, an exported run of configs/classifier.py (experiments/export.py)."""
    with bundled_file() as path:
        config, spec = run.from_json(tensors.metadata(path)["run"])
        params = traverse_util.unflatten_dict(tensors.load(path), sep="/")
    params.pop("extra", None)
    return run.Run(FASHION, config, spec, run.build_algorithm(config, spec), base.TrainState(0, params, {}, {}), step=0)


def bundled_file():
    """A context with the path of its file."""
    return importlib.resources.as_file(importlib.resources.files("imagegen_jax.weights") / "fashion_classifier.safetensors")


def _vgg_files(folder):
    """(file of VGG16, file of LPIPS or '') of vgg:FILE,LPIPS_FILE."""
    network, _, lpips = folder.removeprefix(VGG).partition(",")
    return network, lpips


def _found(config, specs):
    """What the section `first_stage` is to say of the run in its workdir, which must have the capability that is needed."""
    folder = config.first_stage.workdir
    if not folder:
        raise errors.UserError(run.NO_FIRST_STAGE)
    if folder.startswith(VGG):
        theirs = config_lib.default("vgg16")
        theirs.lpips = bool(_vgg_files(folder)[1])
        found = config_lib.typed(theirs), specs
    else:
        found = (bundled().config, bundled().spec) if folder == FASHION else run.load_config(folder)
    if found is None:
        raise errors.UserError(
            f"config.first_stage.workdir is {folder}, which is not the folder of a run: it has no {run.CONFIG}"
        )
    needed = algorithms.find(config.algorithm).first_stage_capability
    if not isinstance(run.build_algorithm(*found), needed):
        able = re.sub("(?<=[a-z])(?=[A-Z])", " ", needed.__name__).lower()
        raise errors.UserError(f"{folder} is a run of {found[0].algorithm}, and {config.algorithm} stands on one that {able}")
    theirs, ours = ("x".join(map(str, spec.shape)) for spec in (found[1], specs))
    if theirs != ours:
        raise errors.UserError(f"{folder} is a run of {theirs} images, and those of config.data are {ours}")
    return {"run": config_lib.to_dict(found[0]), "class_names": found[1].class_names}
