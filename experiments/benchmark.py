"""Measures how fast a recipe trains, draws and reads its images on this machine, or a network of scores extracts features.

python -m experiments.benchmark --config=configs/ddpm.py --out=speed.json
python -m experiments.benchmark --config=configs/ddpm.py --against=diffusers
python -m experiments.benchmark --features=inception --against=torch
python -m experiments.benchmark --all --out=speed.json

python -m experiments.benchmark --config=configs/vae.py:smoke --scaling
python -m experiments.benchmark --config=configs/ddpm.py:cifar10 --projection

--scaling times the train step on 1, 2, 4 and 8 devices and in several processes, which it starts. On a CPU they share its
cores: what that shows is the cost of dividing, and that losses stay the same. --projection says what to expect of a TPU pod and
of GPU hosts by the operations of a step and the bytes exchanged (imagegen_jax/benchmark/projection.py); nothing is run.

With --against the networks meet their PyTorch reference implementations, of equal parameter count, by turns in one process,
and with --torch_compile also those that torch.compile makes of them. On a GPU JAX leaves these no memory without
XLA_PYTHON_CLIENT_PREALLOCATE=false in the environment. --all makes all of these comparisons, and one table.
"""

import datetime
import importlib.util
import json

from absl import flags
import jax
from ml_collections import config_flags

from imagegen_jax import command_line
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import machine
from imagegen_jax.api import scaling
from imagegen_jax.benchmark import extraction
from imagegen_jax.benchmark import peers
from imagegen_jax.benchmark import projection
from imagegen_jax.benchmark import recipe
from imagegen_jax.benchmark import table

_PACKAGE = "experiments.torch_reference"
# Its modules, by the value of --against and the family or the features.
_REFERENCES = {
    "diffusers": {"diffusion": "unet"},
    "torch": {"cyclegan": "cyclegan", "gan": "gan", "vae": "vae", "inception": "inception"},
}

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A recipe and its variant, such as configs/ddpm.py or configs/ddpm.py:smoke; --config.KEY=VALUE changes a key.",
)
_FEATURES = flags.DEFINE_enum(
    "features",
    None,
    ["inception"],
    "Time a network of scores instead of a recipe: inception is that of the Fréchet Inception Distance, with random weights.",
)
_OUT = flags.DEFINE_string("out", None, "Where to write the results with the machine and the config: a path ending in .json.")
_AGAINST = flags.DEFINE_enum(
    "against",
    None,
    list(_REFERENCES),
    "Also time the reference implementation in PyTorch, by turns: diffusers has that of a diffusion's U-Net, torch those of a "
    "DCGAN, of a CycleGAN, of a VAE on pythae's networks, and of features.",
)
_TORCH_COMPILE = flags.DEFINE_bool(
    "torch_compile", False, "With --against of a recipe: time the reference's train step with networks that are compiled, too."
)
_ALL = flags.DEFINE_bool("all", False, "Time all recipes that have a reference implementation, each beside it.")
_STEPS_ONLY = flags.DEFINE_bool("steps_only", False, "Time the train step alone.")
_SCALING = flags.DEFINE_bool("scaling", False, "Time the train step on several numbers of devices and processes.")
_PROJECTION = flags.DEFINE_bool("projection", False, "Say what the train step would cost on many TPUs and GPUs.")
_REPEATS = flags.DEFINE_integer("repeats", 20, "How many steps, or batches of features, are timed, each by itself.")


def main():
    """Checks what was asked for, measures, prints a table and writes --out."""
    config = _CONFIG.value
    check(config)
    if _ALL.value:
        report = facts(config)
        report["results"] = peers.measure(["-m", "experiments.benchmark", f"--repeats={_REPEATS.value}", "--torch_compile"])
        write(report, peers.table(report["results"]))
        return
    if _SCALING.value:
        words = ["-m", "experiments.benchmark", *recipe_words(), f"--repeats={_REPEATS.value}", "--steps_only"]
        report = facts(config)
        report["results"] = scaling.measure(words)
        write(report, scaling.table(report["results"]))
        return
    # A step that an earlier run left in the compilation cache would seem to compile in no time.
    jax.config.update("jax_enable_compilation_cache", False)
    report = facts(config) | dict(machine=machine.facts())
    if _FEATURES.value:
        report["results"] = extraction.measure(_REPEATS.value, reference())
    elif _PROJECTION.value:
        report["results"] = recipe.project(config)
    elif _STEPS_ONLY.value:
        report["results"] = recipe.measure_steps(config, _REPEATS.value)
    else:
        report["results"] = recipe.measure(config, _REPEATS.value, reference(), _TORCH_COMPILE.value)
    if jax.process_index() == 0:
        write(report, (projection if _PROJECTION.value else table).table(report))


def check(config):
    """Raises errors.UserError where flags do not go together or a value is wrong."""
    if [config is not None, _FEATURES.value is not None, _ALL.value].count(True) != 1:
        raise errors.UserError("give either --config=FILE, a recipe, --features=inception, or --all (see --help)")
    parts = [f"--{name}" for name in ("all", "scaling", "projection", "steps_only") if flags.FLAGS[name].value]
    others = [f"--{name}={flags.FLAGS[name].value}" for name in ("features", "against") if flags.FLAGS[name].value]
    if parts and len(parts + others) > 1:
        raise errors.UserError(f"{' and '.join(parts + others)} do not go together: leave one of them out")
    if config is not None:
        config_lib.check(config)
    if _TORCH_COMPILE.value and (config is None or _AGAINST.value is None):
        raise errors.UserError("--torch_compile is for a recipe with --against: give both, or leave it out")
    command_line.check_at_least(repeats=1)
    reference()
    if _TORCH_COMPILE.value:
        importlib.import_module(f"{_PACKAGE}.pytorch").check_compiler(_AGAINST.value)
    if _OUT.value is not None:
        check_out(_OUT.value)


def facts(config):
    """What a report says beside the machine and the results."""
    said = dict(date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), repeats=_REPEATS.value)
    if config is None:
        return said | (dict(features=_FEATURES.value) if _FEATURES.value else {})
    return said | dict(recipe=" ".join(recipe_words()).removeprefix("--config="), config=json.loads(config.to_json()))


def write(report, text):
    """Prints the text and writes the report."""
    print(text)
    if _OUT.value is not None:
        with files.atomic_write(_OUT.value, f"--out={_OUT.value}") as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")


def reference():
    """The module that --against names, or None."""
    return reference_of(_FEATURES.value or _CONFIG.value.algorithm, _AGAINST.value) if _AGAINST.value else None


def reference_of(what, against):
    """The module of experiments.torch_reference for a family or 'inception'. Raises errors.UserError where there is none."""
    if what not in _REFERENCES[against]:
        having = [f"choose --against={name}" for name, known in _REFERENCES.items() if what in known]
        raise errors.UserError(
            f"--against={against} has no reference implementation of {what!r}: {', '.join(having) or 'there is none at all'}"
        )
    if importlib.util.find_spec(_PACKAGE) is None:
        raise errors.UserError(
            f"--against={against}: the reference implementations are no part of the installed package; start this in a checkout"
        )
    return importlib.import_module(f"{_PACKAGE}.{_REFERENCES[against][what]}")


def check_out(out):
    """Raises errors.UserError where no JSON can be written to `out`, before anything is measured."""
    path = files.to_path(out)
    if path.suffix != ".json" or path.is_dir():
        raise errors.UserError(f"--out={out}: give a path ending in .json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UserError(f"--out={out}: cannot make {path.parent}: {error.strerror}") from error


def recipe_words():
    """The recipe as it was typed, with its overrides: ['--config=configs/ddpm.py:smoke', '--config.seed=1']."""
    flag = flags.FLAGS["config"]
    overrides = config_flags.get_override_values(flag)
    words = {"config": config_flags.get_config_filename(flag)} | {f"config.{key}": value for key, value in overrides.items()}
    return [f"--{name}={value}" for name, value in words.items()]


if __name__ == "__main__":
    command_line.run(main, starts_others=lambda: _SCALING.value or _ALL.value)
