"""A config: the keys that all families have, and the way between recipes, files and what the package works with.

Each key is declared once, by the file that reads it, as a field of a frozen dataclass (keys.py): those of a family in its
module of imagegen_jax/algorithms, those of its network in imagegen_jax/networks, the rest here or with what reads them. A
recipe (configs/*.py) starts from `default` and states only what it changes. That is a locked ConfigDict: a key that is not
there is an error that names the nearest one, and `--config.optimizer.lr=1e-4` overrides anything. The package itself works with
an Experiment, which `typed` makes of it.

A saved config is laid over today's defaults (`completed`), so that a run from before a key existed has its default, which is
the old behaviour.
"""

from collections.abc import Mapping
import dataclasses
import json
import re
from typing import Annotated
from typing import Any

from ml_collections import config_dict

from imagegen_jax import algorithms
from imagegen_jax import averages
from imagegen_jax import errors
from imagegen_jax import keys
from imagegen_jax import optimisers
from imagegen_jax import rng
from imagegen_jax.data import domains
from imagegen_jax.data import sources

# {path of a key in saved configs: its name today}. What is renamed has a row here for good.
_RENAMED_KEYS = {
    "foundation": "first_stage",
    "diffusion.parametrisation": "prediction_type",
    "discriminator.stddev": "mbstd_group_size",
}


@dataclasses.dataclass(frozen=True)
class FirstStage:
    """The section `first_stage` of a method that stands on a trained run."""

    workdir: str = keys.resumable("")  # folder of that run
    run: Any = None  # its config; filled in when this run begins
    class_names: Any = None  # those of its images, likewise; None, as in runs from before: the same as of this run's
    # Latents or codes of all training images are computed once, before the first step, and read in place of images.
    precompute: bool = keys.resumable(False)


@dataclasses.dataclass(frozen=True)
class Mesh:
    """The section `mesh`: how many devices lie along each axis, -1 for all that are left (training/sharding.py)."""

    data: Annotated[int, keys.AtLeast(-1)] = 1  # copies of a state that is split
    fsdp: Annotated[int, keys.AtLeast(-1)] = -1  # devices that a copy is split over

    def objections(self):
        """See keys.objections."""
        for name, n in vars(self).items():
            if n == 0 or self.data == self.fsdp == -1:
                yield name, "give a number of devices, or -1 for all that are left in one of the two"


# {name: rules for where the arrays of a state lie}. zero1 and fsdp are stages 1 and 3 of ZeRO (Rajbhandari et al. 2020).
_PRESETS = {
    "replicate": ((".*", "replicate"),),
    "zero1": (("^(opt_state|ema_params|extra/ema|extra/power_ema)(/|$)", "fsdp"),),
    "fsdp": ((".*", "fsdp"),),
}


@dataclasses.dataclass(frozen=True)
class Sharding:
    """The section `sharding`."""

    preset: Annotated[str, keys.OneOf(_PRESETS)] = "replicate"  # split nothing; optimiser and averages; everything
    rules: tuple[tuple[str, str], ...] = ()  # before it: (regex of a state array's path, replicate | fsdp), ...
    min_size: Annotated[int, keys.AtLeast(0)] = 2**14  # smaller arrays are replicated whatever the rules say

    @property
    def all_rules(self):
        """For training.sharding.state_shardings."""
        return (*self.rules, *_PRESETS[self.preset])


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The section `checkpoint`."""

    every: keys.Duration = "500 steps"
    keep: Annotated[int, keys.AtLeast(1)] = 2  # the latest so many
    keep_every: keys.Duration = "0"  # of each such duration the first checkpoint stays for good
    best_metric: str = ""  # also keep the best by this, such as 'eval/loss', of those at whose step it is measured


@dataclasses.dataclass(frozen=True)
class Log:
    """The section `log`."""

    every: keys.PositiveDuration = "50 steps"  # means since the last line go to metrics.jsonl and TensorBoard


@dataclasses.dataclass(frozen=True)
class Sample:
    """The section `sample`."""

    every: keys.Duration = "500 steps"  # a grid from fixed noise goes to samples/<step>.png
    num: Annotated[int, keys.AtLeast(1)] = 64
    batch_size: Annotated[int, keys.AtLeast(1)] = 16  # images drawn at once
    prompts: tuple[str, ...] = ()  # what is drawn in turn, by runs that are told texts; () for no words


@dataclasses.dataclass(frozen=True)
class Eval:
    """The section `eval`."""

    every: keys.Duration = "500 steps"  # held-out metrics of the moving average on the test split
    num: Annotated[int, keys.AtLeast(0)] = 1024  # test images, always the same random ones; 0 for all
    batch_size: Annotated[int, keys.AtLeast(1)] = 64
    # Images drawn, or translated, at each of these for eval/fid, kid, duplicates; 0 for none.
    samples: Annotated[int, keys.AtLeast(0)] = 0
    features: str = "fashion"  # for those: fashion, run:WORKDIR, inception:FILE, vgg:FILE or pixels

    def objections(self):
        """See keys.objections."""
        if self.samples == 1:
            yield "samples", "distances between sets of images need 2 at least, and 0 measures none"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A whole config. Its sections and those of `method` stand side by side in recipes and files.

    Sections that are None are not there: a method that takes no gradients has no `optimizer` and no `ema`.
    """

    algorithm: str  # which family: a module of imagegen_jax/algorithms, or package.module:Class
    method: Any  # the family's own sections
    seed: Annotated[int, keys.AtLeast(0), keys.AtMost(rng.SEEDS - 1)] = 0  # of everything random
    batch_size: Annotated[int, keys.AtLeast(1)] = 64  # images a step over all devices and hosts
    duration: keys.PositiveDuration = keys.resumable("2000 steps")  # length of the training
    # How many steps the device takes before the host is asked again. Where steps are short, more save the host's time.
    steps_per_call: Annotated[int, keys.AtLeast(1)] = keys.resumable(1)
    # At a step that is not finite: stop; skip it; or rollback to the last checkpoint and go on with other batches and noise.
    on_nonfinite: Annotated[str, keys.OneOf(("stop", "skip", "rollback"))] = keys.resumable("stop")
    max_rollbacks: Annotated[int, keys.AtLeast(1)] = keys.resumable(3)  # in the whole training
    # WORKDIR[:STEP] or WORKDIR:best of a run: start with its parameters, as far as names and shapes agree.
    init_from: str = ""
    init_from_regex: keys.Regex = ""  # only those whose path, such as 'params/unet/conv_in/kernel', it is found in
    data: sources.Config | domains.PairConfig = sources.Config()
    optimizer: optimisers.Config | None = None
    ema: averages.Config | None = None
    first_stage: FirstStage | None = None
    mesh: Mesh = keys.resumable(Mesh())
    sharding: Sharding = keys.resumable(Sharding())
    checkpoint: Checkpoint = keys.resumable(Checkpoint())
    log: Log = keys.resumable(Log())
    sample: Sample = keys.resumable(Sample())
    eval: Eval = keys.resumable(Eval())

    @property
    def mean_over_images(self):
        """Whether the objective is a mean over images, so that pieces of a batch (optimizer.accumulate) make the same one."""
        return getattr(self.method, "mean_over_images", True)

    @property
    def ema_widths(self):
        """Those of the power-function averages; () for a method that has no section `ema` too."""
        return self.ema.widths if self.ema else ()

    @property
    def precomputes(self):
        """Whether what is trained on is computed of the images before."""
        return self.first_stage is not None and self.first_stage.precompute

    @property
    def needs_first_stage(self):
        """Whether there is a trained run that the method stands on; one that may stand on none says so."""
        return self.first_stage is not None and getattr(self.method, "needs_first_stage", True)

    def steps(self, duration, records):
        """A keys.Duration in steps, with this number of images in an epoch."""
        return keys.in_steps(duration, self.batch_size, records)

    def objections(self):
        """See keys.objections."""
        accumulate = self.optimizer.accumulate if self.optimizer else 1
        if self.batch_size % accumulate:
            yield "optimizer.accumulate", f"it must divide config.batch_size ({self.batch_size})"
        if accumulate > 1 and not self.mean_over_images:
            yield (
                "optimizer.accumulate",
                "it must be 1 here, where the loss is no mean over images (two players, batch normalisation, free bits)",
            )


def default(algorithm, **sections):
    """The config that a recipe starts from.

    Args:
      algorithm: see algorithms.find.
      **sections: of the family, where others are wanted than it begins with, such as network=ladder.Config().

    Returns:
      A locked ConfigDict.

    Raises:
      errors.UserError: there is no such family.
    """
    method = algorithms.find(algorithm)
    experiment = Experiment(
        algorithm=algorithm,
        method=dataclasses.replace(method.Config(), **sections),
        data=_data_class(method)(),
        optimizer=optimisers.Config() if method.optimized else None,
        ema=averages.Config() if method.optimized else None,
        first_stage=FirstStage(run={}) if hasattr(method, "first_stage_capability") else None,
    )
    config = to_config_dict(experiment)
    config.update_from_flattened_dict(method.defaults)
    return config.lock()


def defaults_like(experiment):
    """The defaults of the family, and of the kinds of network and the like, of an Experiment, as a ConfigDict."""
    method = algorithms.find(experiment.algorithm)
    return default(
        experiment.algorithm, **{name: type(getattr(experiment.method, name))() for name in _of_several_kinds(method)}
    )


def _of_several_kinds(method):
    """The keys.Field of a family's sections that `name` chooses the kind of, by name."""
    return {name: field for name, field in keys.fields(method.Config).items() if field.is_section and len(field.kinds) > 1}


def to_config_dict(experiment):
    """An Experiment as a ConfigDict."""
    values = keys.to_dict(dataclasses.replace(experiment, method=None))
    values.pop("method", None)
    return config_dict.ConfigDict(values | keys.to_dict(experiment.method))


def typed(config):
    """The Experiment of a ConfigDict, whatever its values; an Experiment as it is.

    Raises:
      errors.UserError: its algorithm does not exist, or has other keys.
    """
    if isinstance(config, Experiment):
        return config
    method = algorithms.find(config.algorithm)
    values = config.to_dict()
    shared = {name: values.pop(name) for name in keys.fields(Experiment) if name in values}
    if set(values) != set(keys.fields(method.Config)) or ("optimizer" in shared) != method.optimized:
        raise errors.UserError(f"config.algorithm is {config.algorithm!r}, whose recipe starts from another default than this")
    data = keys.build(_data_class(method), shared.pop("data"), "data.")
    experiment = keys.build(Experiment, shared | {"method": None, "data": None})
    return dataclasses.replace(experiment, data=data, method=keys.build(method.Config, values))


def check(config):
    """The Experiment of a ConfigDict. Raises errors.UserError for the first value that cannot be."""
    experiment = typed(config)
    # The whole comes last: where each part is right, what is left is what does not go together.
    for part in (dataclasses.replace(experiment, method=None), experiment.method, experiment):
        for objection in keys.objections(part):
            raise errors.UserError(objection)
    return experiment


def _data_class(method):
    if not method.domains:
        return sources.Config
    return domains.AlignedConfig if method.paired else domains.PairConfig


def completed(saved):
    """The config of a saved one: laid over today's defaults, with keys that have moved under their new names.

    Args:
      saved: {key: value or section} of a config.json. That of the run that it stands on is completed likewise.

    Returns:
      An Experiment.

    Raises:
      errors.UserError: it has a key that this version does not know, or a value of another type.
    """
    if "algorithm" not in saved:
        raise errors.UserError("it names no algorithm")
    saved = _renamed(saved)
    method = algorithms.find(saved["algorithm"])
    chosen = {name: keys.variant(field, saved[name])() for name, field in _of_several_kinds(method).items() if name in saved}
    config = default(saved["algorithm"], **chosen)
    try:
        _lay_over(config, saved)
    except (KeyError, AttributeError, TypeError) as error:
        raise errors.UserError(f"it has keys of another version of imagegen_jax ({error})") from error
    experiment = typed(config)
    for part in (dataclasses.replace(experiment, method=None), experiment.method):
        for misfit in keys.misfits(part):  # today's bounds are not those of its time
            raise errors.UserError(misfit)
    if experiment.first_stage and experiment.first_stage.run:
        first_stage = dataclasses.replace(experiment.first_stage, run=to_dict(completed(experiment.first_stage.run)))
        experiment = dataclasses.replace(experiment, first_stage=first_stage)
    return experiment


def _renamed(values, path=""):
    return {
        _RENAMED_KEYS.get(f"{path}{name}", name): _renamed(value, f"{path}{name}.") if isinstance(value, Mapping) else value
        for name, value in values.items()
    }


def _lay_over(config, values, path="config"):
    for name, value in values.items():
        if name not in config:
            raise errors.UserError(f"this version of imagegen_jax has no {path}.{name}: use the version that wrote it")
        if isinstance(value, Mapping) and name != "run":
            _lay_over(config[name], value, f"{path}.{name}")
        else:
            with config.ignore_type():
                config[name] = value


def to_dict(config):
    """An Experiment or ConfigDict as plain values, as JSON has them."""
    return json.loads((to_config_dict(config) if isinstance(config, Experiment) else config).to_json())


def flatten(config):
    """A config as {'optimizer.lr': 2e-4, ...}, its tuples as lists, as JSON has them."""
    flat = {}

    def visit(prefix, value):
        if isinstance(value, dict):
            for key, item in value.items():
                visit(f"{prefix}.{key}" if prefix else key, item)
        else:
            flat[prefix] = value

    visit("", to_dict(config))
    return flat


def contradictions(saved, config):
    """Keys that make two Experiments different ones, as ['seed: 0 in the run, 1 asked for', ...]."""
    old, new = flatten(saved), flatten(config)
    free = {*_resumable(config), *_resumable(config.method)}
    if not saved.mean_over_images:
        free.discard("optimizer.accumulate")
    return [
        f"{key}: {old.get(key)!r} in the run, {new.get(key)!r} asked for"
        for key in sorted(old.keys() | new.keys())
        if _placeless(old.get(key)) != _placeless(new.get(key))
        and not any(key == one or key.startswith(one + ".") for one in free)
    ]


def _resumable(section, path=""):
    for name, field in keys.fields(type(section)).items():
        if field.resumable:
            yield f"{path}{name}"
        elif dataclasses.is_dataclass(value := getattr(section, name)) and name != "method":
            yield from _resumable(value, f"{path}{name}.")


def _placeless(value):
    """'folder:/a/b' as 'folder': images may move, and their fingerprint says whether they are the same."""
    return (
        re.sub(r"^((?:(?:edges|tinted|left|right):)*(?:folder|idx|emoji)):.*", r"\1", value, flags=re.DOTALL)
        if isinstance(value, str)
        else value
    )
