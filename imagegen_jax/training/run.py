"""The folder of a run, and what can be made again from it: the config, the algorithm, a trained state."""

import dataclasses
import json
import math
import shutil

import jax
from ml_collections import config_dict
import numpy as np

from imagegen_jax import algorithms
from imagegen_jax import averages
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import images
from imagegen_jax import keys
from imagegen_jax import optimisers
from imagegen_jax import progress
from imagegen_jax.algorithms import base
from imagegen_jax.data import domains
from imagegen_jax.data import fingerprints
from imagegen_jax.training import checkpoint
from imagegen_jax.training import logging
from imagegen_jax.training import power_ema
from imagegen_jax.training import preservation
from imagegen_jax.training import sharding

CHECKPOINTS = "checkpoints"
BY_MOVING = "move it out of the folder, so that one of these is the latest"  # `remedy` where no flag chooses a checkpoint
CONFIG = "config.json"
NO_FIRST_STAGE = "config.first_stage.workdir is missing: give the folder of a trained run, --config.first_stage.workdir=RUN"


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained run, as every caller holds it.

    Attributes:
      workdir: its folder, as a person wrote it.
      config: its config.Experiment.
      spec: the images.Spec of what the model sees, {domain: Spec} of two domains.
      algorithm: of that config.
      state: of a checkpoint, with what `load` was asked to read.
      step: of that checkpoint.
      ema: whether state.params are the moving averages; the width of those that are power-function averages.
    """

    workdir: str
    config: config_lib.Experiment
    spec: images.Spec | dict[str, images.Spec]
    algorithm: base.Algorithm
    state: base.TrainState
    step: int
    ema: bool | float = True


def build_algorithm(config, spec, records=1, schedules=None):
    """The algorithm of a config.

    Args:
      config: a config.Experiment, or the ConfigDict of one.
      spec: the images.Spec, {domain: Spec} of two domains.
      records: images in an epoch; they matter to training alone, where the learning rate depends on the step.
      schedules: of the learning rate, as a checkpoint.Position has them; None for a single one, to config.duration.

    Raises:
      errors.UserError: the config asks for what does not exist or does not fit the images.
    """
    config = config_lib.typed(config)

    def steps(duration):
        return config.steps(duration, records)

    training = base.Training(batch_size=config.batch_size, steps=steps)
    if config.optimizer:
        schedules = schedules or ((0, steps(config.duration)),)

        def repeated(updates):
            each = [(updates * first, updates * end) for first, end in schedules]
            lengths = (updates * steps(duration) for duration in (config.optimizer.warmup, config.optimizer.hold))
            return optimisers.make(config.optimizer, each, *lengths)

        training = dataclasses.replace(
            training,
            optimizer=repeated(1),
            repeated=repeated,
            ema_decay=averages.decay_schedule(config.ema),
            accumulate=config.optimizer.accumulate,
        )
    if config.needs_first_stage:
        training = dataclasses.replace(training, first_stage=_first_stage(config, spec))
    return algorithms.find(config.algorithm).from_config(config.method, spec, training)


def _first_stage(config, spec):
    """The algorithm that a method stands on, of which nothing is trained."""
    if not config.first_stage.run:
        raise errors.UserError(NO_FIRST_STAGE)
    found = config_lib.typed(config_dict.ConfigDict(config.first_stage.run))
    if config.first_stage.class_names is not None:  # its images have the same shape, and may have other labels
        spec = dataclasses.replace(spec, class_names=tuple(config.first_stage.class_names))
    return algorithms.find(found.algorithm).from_config(found.method, spec, base.Training())


def abstract_state(algorithm, mesh, rules, min_size, ema_widths=()):
    """The shapes and shardings of an algorithm's state, with power-function averages of these widths."""
    shapes = jax.eval_shape(lambda key: power_ema.begun(algorithm.init(key), ema_widths), jax.random.key(0))
    shardings = sharding.state_shardings(mesh, shapes, rules, min_size)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def configured_state(config, algorithm, mesh):
    """The same as a config.Experiment says: its rules and its averages."""
    return abstract_state(algorithm, mesh, config.sharding.all_rules, config.sharding.min_size, config.ema_widths)


def to_json(config, specs, schedules=()):
    """The text of config.json: all that it takes to build the algorithm again, and the first of the `schedules`, if known."""
    images_of = {name: dataclasses.asdict(spec) for name, spec in (specs if isinstance(specs, dict) else {"": specs}).items()}
    begun = {"first_schedule": schedules[0]} if schedules else {}
    return json.dumps({"config": config_lib.to_dict(config), "images": images_of} | begun, indent=1)


def from_json(text):
    """(config.Experiment, images.Spec, or {domain: Spec} of two); the inverse of `to_json`. Newer keys have their defaults."""
    saved = json.loads(text)
    config = config_lib.completed(saved["config"])
    wanted = algorithms.find(config.algorithm).domains or ("",)
    if set(saved["images"]) != set(wanted):
        raise ValueError(
            f"its images are of {', '.join(map(repr, saved['images']))}, and not of {', '.join(map(repr, wanted))}"
        )
    return config, _specs(saved["images"])


def _specs(saved):
    """The images.Spec, or {domain: Spec} of two domains, of what config.json says under 'images'."""

    def one(shape, class_names=None, classes=0, **others):  # before names were kept, there was the number of classes
        names = images.unnamed(classes) if class_names is None else tuple(class_names)
        spec = images.Spec(tuple(shape), names, **others)
        if objection := next(keys.objections(spec, "images."), None):
            raise ValueError(objection)
        return spec

    found = {name: one(**spec) for name, spec in saved.items()}
    return found.get("", found)


def save_config(workdir, config, specs, schedules=()):
    """Makes the folder and writes config.json. Raises errors.UserError."""
    with files.atomic_write(files.to_path(workdir) / CONFIG, f"cannot write to the workdir {workdir}") as temporary:
        temporary.write_text(to_json(config, specs, schedules) + "\n")


def saved(workdir):
    """(flat config, images.Spec or {domain: Spec}) of config.json, whatever version it is of. Raises errors.UserError."""

    def flat(text):
        found = json.loads(text)
        return config_lib.flatten(config_dict.ConfigDict(found["config"])), _specs(found["images"])

    return _there(workdir, load_config(workdir, flat))


def load_config(workdir, read=from_json):
    """(config.Experiment, images.Spec or {domain: Spec}), or what `read` makes of config.json; None where there is none.

    Raises:
      errors.UserError: config.json is damaged, or of another version.
    """
    path = files.to_path(workdir) / CONFIG
    if not path.exists():
        return None
    try:
        return read(path.read_text())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, errors.UserError) as error:
        raise errors.UserError(f"cannot read {path}: {error}") from error


def _there(workdir, found):
    """What was found in config.json. Raises errors.UserError where there is none."""
    if found is None:
        raise errors.UserError(f"{workdir} is not the folder of a run: it has no {CONFIG}")
    return found


def check_resumable(workdir, config, specs):
    """Whether the folder holds the beginning of another experiment, which left no checkpoint and so gives way to this one.

    Raises:
      errors.UserError: the folder holds checkpoints of another experiment, or of an unknown one.
    """
    begun = checkpoint.available_steps(files.to_path(workdir) / CHECKPOINTS)
    saved = load_config(workdir)
    if saved is None:
        if begun:
            raise errors.UserError(f"{workdir} holds checkpoints but no {CONFIG}: choose another --workdir")
        return False
    differing = config_lib.contradictions(saved[0], config)
    if isinstance(saved[1], dict) != isinstance(specs, dict) or not all(
        old.agrees(new) for old, new in zip(domains.parts(saved[1]), domains.parts(specs))
    ):
        differing.append(f"images: {saved[1]} in the run, {specs} now")
    differing += _renumbered(saved[1], config, specs)
    if differing and begun:
        raise errors.UserError(f"{workdir} holds another experiment ({'; '.join(differing)}): choose another --workdir")
    return bool(differing)


def scheduled(workdir, config, position):
    """The position with the learning-rate schedules of the steps to come, up to config.duration.

    Args:
      workdir: folder of the run.
      config: checked.
      position: the checkpoint.Position that the training goes on from.

    Returns:
      (position, one line about what is new; '' for nothing)

    Raises:
      errors.UserError: see optimisers.resumed.
    """
    schedules, told = ((0, config.steps(config.duration, position.records)),), ""
    if position.step and config.optimizer:
        lived = tuple(map(tuple, position.schedules or [_first_schedule(workdir, position.records)]))
        durations = config.duration, config.optimizer.warmup, config.optimizer.hold
        lengths = (config.steps(duration, position.records) for duration in durations)
        schedules, told = optimisers.resumed(config.optimizer, lived, position.step, *lengths)
    return dataclasses.replace(position, schedules=schedules), told


def _first_schedule(workdir, records):
    """What the first schedule was, for checkpoints that do not tell; a resumed run has put its new duration in config.json."""
    saved = json.loads((files.to_path(workdir) / CONFIG).read_text())
    if first := saved.get("first_schedule"):
        return first
    config, _ = load_config(workdir)
    return 0, config.steps(config.duration, records)


def _renumbered(saved, config, specs):
    """What is to be said of folders of classes that a run from before names were kept numbered in the order of text."""
    return [
        f"labels: in the run '10' comes before '2', now it is {', '.join(spec.class_names[:11])}"
        for old, spec, section in zip(*map(domains.parts, (saved, specs, domains.sections(config.data))))
        if old.known_names is None and "folder:" in section.source and sorted(spec.class_names) != list(spec.class_names)
    ]


def on_images(position, records, fingerprint):
    """The Position of a run that goes on with these training images, with their fingerprint.

    Raises:
      errors.UserError: they are not those that the run was trained on.
    """
    if position.records != records:
        differing = f"it was trained on {position.records}, there are {records} now"
    elif not fingerprints.same(position.fingerprint, fingerprint):
        differing = "there are as many, but contents, names or classes have changed"
    else:
        if fingerprints.old(position.fingerprint):
            progress.tell(f"note: of images, an old checkpoint tells only how many there were ({records}), not their contents")
        return dataclasses.replace(position, fingerprint=fingerprint)
    raise errors.UserError(
        f"the training images are not those of the run: {differing}; put back those that it had, or choose another --workdir"
    )


def check_space(workdir, state):
    """Raises errors.UserError where the disk has less room than two checkpoints of `state` need. A bucket has no end."""
    if files.is_remote(workdir := files.to_path(workdir)):
        return
    needed = 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    workdir = workdir.absolute()
    existing = next(folder for folder in (workdir, *workdir.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise errors.UserError(
            f"the disk of {workdir} has {free / 1e6:.0f} MB free and two checkpoints need {needed / 1e6:.0f} MB: "
            "free some, or choose another --workdir"
        )


def named_arrays(state):
    """What other programs need of a trained state: {path: array}, such as 'unet/conv_in/kernel' or 'extra/codebook/vectors'."""
    extra = {name: value for name, value in state.extra.items() if name != "ema"}  # whose averages `load` has put in place
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(state.params | {"extra": extra}))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.ascontiguousarray(leaf) for path, leaf in leaves}


def find_step(workdir, config, wanted):
    """The step that a person asks for.

    Args:
      workdir: the run's folder.
      config: of the run.
      wanted: a number; 'best' for the checkpoint that is best by config.checkpoint.best_metric; 'latest' or None.

    Returns:
      The number, or None for the latest.

    Raises:
      errors.UserError: it is none of these, or no checkpoint is known to be the best.
    """
    if wanted in (None, "latest"):
        return None
    if wanted != "best":
        if not str(wanted).isdecimal():
            raise errors.UserError(f"--checkpoint={wanted}: give the number of a step, latest or best")
        return int(wanted)
    metric = config.checkpoint.best_metric
    if not metric:
        raise errors.UserError(
            f"{workdir} keeps no best checkpoint, since its config.checkpoint.best_metric is empty: give a step"
        )
    steps = checkpoint.available_steps(files.to_path(workdir) / CHECKPOINTS)
    best = preservation.best(metric, scores(workdir, metric), steps)
    if best is None:
        raise errors.UserError(f"{workdir} has no checkpoint at whose step {metric} was measured: give a step")
    return best


def scores(workdir, metric, last=math.inf):
    """{step: value} of a metric, as far as it was measured up to the step `last`."""
    return {row["step"]: row[metric] for row in logging.rows(workdir) if metric in row and row["step"] <= last}


def load(workdir, step=None, use_ema=True, remedy="choose with --checkpoint=STEP", check=None):
    """A trained run, ready to be asked for images.

    Args:
      workdir: the run's folder.
      step: which checkpoint, as `find_step` takes it.
      use_ema: with the moving averages in place of the parameters.
      remedy: see checkpoint.Checkpointer.restore.
      check: (Run without a state) -> None, which raises errors.UserError before the checkpoint is read.

    Returns:
      A Run. Its state has params, which are the averages as far as they are wanted and there are some, and extra; nothing else
      is read.

    Raises:
      errors.UserError: the folder is not a run, or the checkpoint cannot be read.
    """

    def unread(shapes):
        if not use_ema:
            return {"opt_state": shapes.opt_state, "ema_params": shapes.ema_params}
        return {"opt_state": shapes.opt_state, "params": {name: shapes.params[name] for name in shapes.ema_params}}

    found = restore(workdir, step, unread, remedy, check)
    state = found.state.with_ema() if use_ema else found.state
    return dataclasses.replace(found, state=state.replace(opt_state={}, ema_params={}), ema=use_ema)


def restore(workdir, step, unread, remedy="choose with --checkpoint=STEP", check=None):
    """As `load`, but all of the state is read that `unread` does not name: state of shapes -> {field: those of its arrays}.

    Power-function averages are not read; post_hoc.py does.
    """
    opened = open_run(workdir, check)
    shapes = opened.state
    parts = unread(shapes) | {"extra": {name: part for name, part in shapes.extra.items() if name == power_ema.NAME}}
    left_out = {name: getattr(shapes, name) | checkpoint.left_out(part) for name, part in parts.items()}
    reader = checkpoint.Checkpointer(files.to_path(workdir) / CHECKPOINTS, read_only=True)
    state, position = reader.restore(find_step(workdir, opened.config, step), shapes.replace(**left_out), remedy)
    return dataclasses.replace(opened, state=power_ema.without(state), step=position.step)


def open_run(workdir, check=None):
    """The Run of a folder with the shapes and shardings of its state, which is not read; arguments and errors are `load`'s."""
    config, specs = _there(workdir, load_config(workdir))
    opened = Run(str(workdir), config, specs, build_algorithm(config, specs), state=None, step=None, ema=False)
    if check:
        check(opened)
    mesh = sharding.make_mesh(jax.device_count())
    return dataclasses.replace(opened, state=configured_state(config, opened.algorithm, mesh))
