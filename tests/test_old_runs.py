"""Runs that earlier versions wrote: they load, give the same images and losses, and go on (tests/old_runs/README.md)."""

import collections
import pathlib
import re
import zipfile

import jax
import numpy as np
import optax
import pytest

from imagegen_jax import images
from imagegen_jax import rng
from imagegen_jax.algorithms import capabilities
from imagegen_jax.data import domains
from imagegen_jax.training import checkpoint
from imagegen_jax.training import loop
from imagegen_jax.training import run
from imagegen_jax.training import sharding

ARCHIVES = {path.stem: path for path in sorted((pathlib.Path(__file__).parent / "old_runs").glob("*.zip"))}
FOUNDATIONS = {"code_prior": "vqvae"}  # what a run stands on

CHANGED = {  # what goes another way since, on purpose
    "classifier": "/scale$",  # AdamW leaves the scales of norms as they are
    "code_prior": "/scale$",
    "gan": "^extra/ema/",  # batch statistics averaged over as many steps as the parameters
    "vaegan": "^extra/ema/",
}
# How far apart two ways may be, as a share of the way. Only CycleGAN's gradient has a kink near where this run begins: instance
# normalisation makes 50 times as much of what is nearly flat, and so a background comes within rounding of ReLU's 0. In
# float64, noise of 3e-7 in the images changes the first gradient by .009. On one kind of processor the VAE-GAN's batch
# statistics are .0014 apart, by rounding alone: so they were at commit 94a2c45, which agrees on another.
LIMITS = {"cyclegan": 0.1, "vaegan": 0.005}


@pytest.fixture(params=ARCHIVES)
def workdir(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the runs name each other as runs/<name>
    for name in filter(None, (request.param, FOUNDATIONS.get(request.param))):
        with zipfile.ZipFile(ARCHIVES[name]) as archive:
            archive.extractall(tmp_path / "runs" / name)
    return tmp_path / "runs" / request.param


def assert_close(found, expected):
    """Equal but for rounding, as compilers and processors differ in it."""
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * max(np.std(expected), 1e-6))


def arrays(state):
    """{'params/unet/conv_in/kernel': array} of all that a state holds."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def significant(state):
    """{'unet/conv_in/kernel': where its gradients have been more than rounding}, by Adam's mean squares.

    Elsewhere Adam makes whole steps of rounding, up or down: a bias in front of instance normalisation has no gradient.
    """
    found = {}
    for name, opt_state in state.opt_state.items():
        squares = arrays({name: optax.tree.get(opt_state, "nu")})
        mean = sum(leaf.sum() for leaf in squares.values()) / sum(leaf.size for leaf in squares.values())
        found |= {path: leaf > 1e-6 * mean for path, leaf in squares.items()}
    return found


def assert_same_way(family, begin, found, expected):
    """From one state to another with the same changes of parameters, averages, moments and all else.

    Other noise, another order of the data or another rule changes them altogether.
    """
    heeded = significant(expected)
    begin, found, expected = (arrays(state) for state in (begin, found, expected))
    assert begin.keys() == found.keys() == expected.keys()
    apart, moved = collections.Counter(), collections.Counter()
    for path, theirs in expected.items():
        if family in CHANGED and re.search(CHANGED[family], path):
            continue
        if np.issubdtype(theirs.dtype, np.integer):  # counts of steps, which would hide the moments beside them
            np.testing.assert_array_equal(found[path], theirs)
            continue
        section, _, rest = path.partition("/")
        kind = next((kind for kind in ("mu", "nu") if kind in path.split("/")), section)
        weight = heeded.get(rest, True) if section in ("params", "ema_params") else True
        apart[kind] += (weight * np.square(np.float64(found[path]) - theirs)).sum()
        moved[kind] += (weight * np.square(np.float64(begin[path]) - theirs)).sum()
    for kind, square in moved.items():
        assert apart[kind] <= LIMITS.get(family, 1e-3) ** 2 * square, kind


def test_images_and_losses_stay_as_they_were(workdir):
    trained = run.load(workdir)
    config, algorithm, state, specs = trained.config, trained.algorithm, trained.state, trained.spec
    assert trained.step == 2
    with np.load(workdir / "expected.npz") as file:
        expected = dict(file)
    key = jax.random.key(0)
    test_set = domains.open_domains(config.data, "test", specs)
    # The first four by number, whatever images an evaluation takes.
    batch = domains.each(lambda name, domain: domain.reader([0, 1, 2, 3]), test_set)

    made = {"loss": jax.jit(algorithm.eval_step)(state, batch, key)["loss"]}
    if "drawn" in expected:
        index = np.arange(4, dtype=np.int32)
        condition = {"label": index % algorithm.classes} if algorithm.classes else {}
        sample = jax.jit(algorithm.sample, static_argnums=3)
        made["drawn"] = sample(state, rng.per_index(key, index), condition, algorithm.Request())
    if "decoded" in expected:
        made["decoded"] = jax.jit(lambda s, b: algorithm.decode(s, algorithm.encode(s, b), b["condition"]))(state, batch)
    if "translated" in expected:
        translate = jax.jit(lambda s, x: algorithm.translate(s, "ab", images.to_float(x)))
        made["translated"] = translate(state, batch["a"]["image"])
    assert made.keys() == expected.keys()
    for name, value in made.items():
        assert_close(value, expected[name])


@pytest.mark.recipes
def test_training_is_what_it_was_and_goes_on(workdir):
    """Two steps from nothing end where the run did, and a third from there is the same as from its checkpoint."""
    config, specs = run.load_config(workdir)
    train_set = domains.open_domains(config.data, "train")
    algorithm = run.build_algorithm(config, specs, domains.records(train_set))
    mesh = sharding.make_mesh(1, devices=jax.devices()[:1])
    shapes = run.abstract_state(algorithm, mesh, (), 0)
    batch_shape = domains.abstract_batch(train_set, config.batch_size, sharding.batched(mesh))
    rngs = tuple(sharding.key(mesh, config.seed, name) for name in ("train", "augment"))
    augment = domains.augmentation(train_set, config.data.flip)
    step = loop.compile_step(algorithm, augment, mesh, shapes, batch_shape, rngs, {})

    shardings = jax.tree.map(lambda x: x.sharding, shapes)
    restored, position = checkpoint.Checkpointer(workdir / run.CHECKPOINTS, read_only=True).restore(None, shapes)
    assert position.step == int(restored.step) == 2
    state = loop.initialise(algorithm, sharding.key(mesh, config.seed, "init"), shardings)
    if isinstance(algorithm, capabilities.HasFirstStage):
        state = state.replace(extra=restored.extra)
    begin = jax.device_get(state)
    batches = domains.train_batches(train_set, config, 0)
    for _ in range(2):
        state, _ = step(state, sharding.put_batch(mesh, next(batches)), rngs, {})
    assert_same_way(workdir.name, begin, jax.device_get(state), jax.device_get(restored))
    batch = sharding.put_batch(mesh, next(batches))
    assert_same_way(workdir.name, begin, *(jax.device_get(step(each, batch, rngs, {})[0]) for each in (state, restored)))
