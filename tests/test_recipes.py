"""What is compiled for the recipes computes what the same operations do one by one, and without the compiler's libraries.

`python -m pytest -m recipes tests/test_recipes.py` tries steps and drawing of some recipes; FAULTS=10 before it has it try all
programs of all recipes.
"""

import importlib
import os

import jax
import numpy as np
import pytest
import whole_runs

from configs import variants
from imagegen_jax import algorithms
from imagegen_jax import images
from imagegen_jax import rng
from imagegen_jax.algorithms import capabilities
from imagegen_jax.training import compiler
from imagegen_jax.training import run

pytestmark = pytest.mark.recipes

SHAPE, CLASSES = (28, 28, 1), 10
NAMES = tuple(map(str, range(CLASSES)))
SHAPES = dict.fromkeys(("colorize", "text_to_image"), (28, 28, 3))
TEXTS = ("red boot", "a dress", "", "bag, in green")
ALL = whole_runs.TIMES > 1
SOME = ("cgan", "cyclegan", "ddpm", "dit", "vae", "vqvae_prior")  # a recipe for each kind of layers
OPTIMISED = {"xla_backend_optimization_level": 3}  # as outside of tests
if "xla_cpu_use_fusion_emitters" in os.environ["XLA_FLAGS"]:
    OPTIMISED |= {"xla_cpu_use_fusion_emitters": True, "xla_cpu_parallel_codegen_split_count": 32}


def config_of(recipe):
    module = importlib.import_module(f"configs.{recipe}")
    config = module.get_config()
    if "optimizer" in config:
        config.optimizer.eps = 1e3  # so large that Adam makes no whole steps of the rounding in gradients near zero
        if config.optimizer.name == "muon":  # which makes them, too
            config.optimizer.name = "adam"
    if "first_stage" in config:
        with config.unlocked():
            config.first_stage.run = config_of(module.FIRST_STAGE)
    return config


def condition_of(spec, label):
    """What images of these labels show, with texts where there are such."""
    texts = [TEXTS[i % len(TEXTS)] for i in range(len(label))]
    return {"label": label} | ({"text": spec.conditions["text"].tokens(texts)} if spec.caption_length else {})


def batch_of(names, n, seed, spec):
    drawn = np.random.default_rng(seed)

    def rows():
        image = np.clip(drawn.normal(110, 60, (n, *spec.shape)), 0, 255).astype(np.uint8)
        return {
            "image": image,
            "condition": condition_of(spec, drawn.integers(0, CLASSES, n, np.int32)),
            "index": np.arange(n, dtype=np.int32),
        }

    return {name: rows() for name in names} or rows()


def programs(recipe):
    """{name: (function, arguments)} on shapes as large as in a run, of a state in which all parameters have moved."""
    config = config_of(recipe)
    spec = images.Spec(SHAPES.get(recipe, SHAPE), NAMES, config.data.get("caption_length", 0))
    names = algorithms.find(config.algorithm).domains
    algorithm = run.build_algorithm(config, dict.fromkeys(names, spec) or spec, 8000)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    drawn = np.random.default_rng(1)
    params = jax.tree.map(lambda x: np.float32(x + 0.02 * drawn.standard_normal(x.shape)), state.params)
    state, key = state.replace(params=params), jax.random.key(3)
    made = {
        "train": (algorithm.train_step, (state, batch_of(names, config.batch_size, 0, spec), key)),
        "evaluate": (algorithm.eval_step, (state, batch_of(names, config.eval.batch_size, 1, spec), key)),
    }
    if isinstance(algorithm, capabilities.Draws):
        index = np.arange(config.sample.batch_size, dtype=np.int32)
        shown = condition_of(spec, index % CLASSES)
        condition = {
            name: shown[name] for name in ("label", "text") if (algorithm.classes if name == "label" else algorithm.text)
        }

        def sample(state, key, index, condition):
            return algorithm.sample(state, rng.per_index(key, index), condition, algorithm.Request())

        made["draw"] = (sample, (state, key, index, condition))
    if isinstance(algorithm, capabilities.ShowsPanels):
        made["panel"] = (algorithm.panel, (state, batch_of(names, 16, 2, spec), key))
    return made


def assert_equal_but_for_rounding(found, expected, begin, share, what):
    """Each array to a share of its greatest change from `begin`, but for what is tiny beside that of all, and rounding.

    Deep networks of random parameters amplify rounding that much. A value in a wrong place is about its whole size off.
    """
    found, expected, begin = (jax.tree.leaves(jax.device_get(tree)) for tree in (found, expected, begin))
    changes = [np.abs(np.float64(x) - first).max(initial=0) for x, first in zip(expected, begin, strict=True)]
    for ours, theirs, change in zip(found, expected, changes, strict=True):
        tolerance = share * change + 1e-4 * max(changes) + 2.0**-22 * np.abs(theirs).max(initial=0)
        apart = np.abs(np.float64(ours) - theirs).max(initial=0)
        assert apart <= tolerance, f"{what}: {apart} apart in {theirs.shape}, where {tolerance} is allowed"


def parts(name, made):
    """What is compared with each other: the sections of a state and the metrics, of a training step."""
    if name != "train":
        return {name: made}
    state, metrics = made
    sections = {section: getattr(state, section) for section in ("params", "opt_state", "ema_params", "extra")}
    return sections | {"metrics": metrics}


def each_way(name, function, args):
    """{how: what a program makes}, what is the surest last: one operation after the other, or without libraries.

    Loops of drawing would take minutes one by one.
    """
    compiled = {"with libraries": compiler.LIBRARIES}
    if ALL or name != "train":
        compiled["without libraries"] = compiler.NO_LIBRARIES
    made = {how: jax.jit(function, compiler_options=options | OPTIMISED)(*args) for how, options in compiled.items()}
    if name in ("train", "evaluate"):
        with jax.disable_jit():
            made["one by one"] = function(*args)
    return made


@pytest.mark.parametrize("recipe", variants.recipes() if ALL else SOME)
def test_compiled_programs_compute_what_their_operations_do(recipe):
    share = 0.1 if recipe == "cyclegan" else 0.01  # its gradients are 3 % apart: single operations have no fusion emitters
    for name, (function, args) in programs(recipe).items():
        if not ALL and name not in ("train", "draw"):
            continue
        *others, (_, surest) = each_way(name, function, args).items()
        expected = parts(name, surest)
        begin = {section: getattr(args[0], section, jax.tree.map(np.zeros_like, value)) for section, value in expected.items()}
        for how, value in others:
            for section, found in parts(name, value).items():
                assert_equal_but_for_rounding(found, expected[section], begin[section], share, f"{name} {how}, {section}")
