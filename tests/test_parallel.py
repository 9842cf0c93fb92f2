"""The same training on one device, on eight, under FSDP, on two processes, after a stop; and images from any batch size."""

import dataclasses
import importlib

import chex
import jax
from jax import numpy as jnp
import numpy as np
import pytest
import whole_runs

from configs import variants
from imagegen_jax import algorithms
from imagegen_jax import config as config_lib
from imagegen_jax import images
from imagegen_jax import rng
from imagegen_jax.data import domains
from imagegen_jax.generation import sampling
from imagegen_jax.training import checkpoint
from imagegen_jax.training import loop
from imagegen_jax.training import run
from imagegen_jax.training import sharding

SHAPE = (8, 8, 1)
STEPS = 4
CLASSES = 3
_SOONEST = ("cvae",)  # families of which the README's test line tries these; the rest take minutes


def mesh_of(devices, shape=(1, -1)):
    return sharding.make_mesh(devices, shape, jax.devices()[:devices])


def tiny(recipe):
    """The smoke variant of a recipe, with as few levels as there can be, standing on that of another where it stands on one."""
    module = importlib.import_module(f"configs.{recipe}")
    config = module.get_config("smoke")
    if "first_stage" in config:
        with config.unlocked():
            config.first_stage.run = tiny(module.FIRST_STAGE)
    network = config.get("network", {})
    if "channels" in network:
        network.channels = 8
    for section in {"network", "discriminator", "encoder"} & set(config):
        if "widths" in config[section]:
            config[section].widths = config[section].widths[:1]
    if "multipliers" in network:
        network.multipliers = network.multipliers[:1]
    if "latents" in network:
        network.latents = network.latents[:2]
    if "text_encoder" in config:
        config.text_encoder.layers = 1
    return config


def build(recipe, shape=SHAPE, lr=2e-3, eps=1e-2, **changes):
    """The algorithm of a tiny recipe with these keys changed, for images of this shape."""
    config = tiny(recipe)
    if "optimizer" in config:
        config.optimizer.eps = eps  # so large that Adam makes no whole steps of the rounding in gradients near zero
        config.optimizer.lr = lr
    config.update_from_flattened_dict(changes)
    spec = images.Spec(shape, images.unnamed(CLASSES), config.data.get("caption_length", 0))
    return run.build_algorithm(config, dict.fromkeys(algorithms.find(config.algorithm).domains, spec) or spec)


@pytest.fixture(scope="module")
def algorithm():
    return build("ddpm")


def train(algorithm, devices, rules=(), min_size=0, shape=SHAPE, stop_in=None, mesh_shape=(1, -1)):
    """([loss and norms of gradients of each step], state) after a few steps on so many devices.

    With the folder `stop_in` they are taken twice more: half of them, then the state is saved there and restored, and then the
    other half, which must end in the same bits.
    """
    mesh = mesh_of(devices, mesh_shape)
    state_shape = run.abstract_state(algorithm, mesh, rules, min_size)
    rngs = tuple(sharding.key(mesh, 0, name) for name in ("train", "augment"))
    drawn = np.random.default_rng(0)

    def rows():
        image, condition = drawn.integers(0, 256, (8, *shape), np.uint8), {"label": drawn.integers(0, CLASSES, 8, np.int32)}
        if algorithm.text:
            condition["text"] = algorithm.text.tokens(["a red boot", "bag", "", "dress, in green"] * 2)
        return {
            "image": image,
            "condition": condition,
            "index": np.arange(8, dtype=np.int32),
        }

    domain = domains.Domain(None, None, images.Spec(shape))
    shown = dict.fromkeys(algorithm.domains, domain) or domain
    batches = [sharding.put_batch(mesh, domains.each(lambda *_: rows(), shown)) for _ in range(STEPS)]
    mirrored = domains.augmentation(shown, flip=True)
    step = loop.compile_step(algorithm, mirrored, mesh, state_shape, batches[0], rngs, {})
    shardings = jax.tree.map(lambda x: x.sharding, state_shape)
    state = loop.initialise(algorithm, sharding.key(mesh, 7, "init"), shardings)
    losses = []

    def go_on(state, batches):
        for batch in batches:
            state, metrics = step(state, batch, rngs, {})
            norms = [float(value) for name, value in metrics.items() if "grad_norm" in name]
            losses.append([float(metrics["loss"]), *norms])
        return state

    if stop_in is None:
        return losses, go_on(state, batches)
    first = jax.device_get(state)
    state = go_on(state, batches)
    half = go_on(jax.device_put(first, shardings), batches[: STEPS // 2])
    with checkpoint.Checkpointer(stop_in) as checkpointer:
        checkpointer.save(half, checkpoint.Position(STEPS // 2, 0.0, 1, ""))
    restored, _ = checkpoint.Checkpointer(stop_in, read_only=True).restore(None, state_shape)
    chex.assert_trees_all_equal(jax.device_get(go_on(restored, batches[STEPS // 2 :])), jax.device_get(state))
    assert losses[STEPS:] == losses[:STEPS]
    return losses[:STEPS], state


@pytest.fixture(scope="module")
def on_one(algorithm):
    losses, state = train(algorithm, 1)
    assert len({loss for loss, *_ in losses}) == STEPS
    return losses, jax.device_get(state)


@pytest.mark.recipes
@pytest.mark.parametrize("mesh_shape", [(1, -1), (2, 4)])
def test_eight_devices_train_as_one_does_under_fsdp(algorithm, on_one, mesh_shape):
    losses, state = train(algorithm, 8, rules=((".*", "fsdp"),), mesh_shape=mesh_shape)
    np.testing.assert_allclose(losses, on_one[0], atol=1e-5)
    chex.assert_trees_all_close(jax.device_get(state.params), on_one[1].params, atol=1e-5)
    chex.assert_trees_all_close(jax.device_get(state.ema_params), on_one[1].ema_params, atol=1e-5)


# All that a GAN remembers: singular vectors, batch statistics of both networks, a probability that changes, and when a penalty
# is due, which is before the stop and after it.
_EVERYTHING = {
    "discriminator.norm": "spectral",
    "discriminator.mbstd_group_size": 2,
    "gan.d_steps": 2,
    "gan.penalty_every": 5,
    "augment.adaptive": True,
    "augment.span": 64,
}
# An absolute difference has a step in its gradient, which rounding takes on one side or the other: hence the large eps.
_LARGER = {"shape": (16, 16, 1), "lr": 1e-3, "eps": 1.0}
_SETTINGS = {
    "ddpm": {"network.multipliers": (1, 2)},  # one that goes down and up is enough
    # Where XLA divides maps along their sides it makes wrong gradients of these.
    "cgan": _EVERYTHING | {"shape": (28, 28, 1)},
    "cyclegan": _LARGER | {"shape": (28, 28, 1), "devices": 4, "lr": 1e-5},
    "pix2pix": _LARGER,
    "kl_autoencoder": _LARGER | {"autoencoder.adversarial_start": "1 steps"},  # before the stop
    "vqgan": _LARGER | {"autoencoder.adversarial_start": "1 steps"},
    "latent_diffusion": {"shape": (16, 16, 1)},
    "latent_meanflow": {"shape": (16, 16, 1)},
    "colorize": {"shape": (8, 8, 3)},
}


def one_recipe_of_each_kind():
    """Of each family and each kind of its networks the first recipe that has it; with FAULTS=10 also of what it restores."""
    found = {}
    for name in variants.recipes():
        config = config_lib.typed(importlib.import_module(f"configs.{name}").get_config("smoke"))
        sections = ("network", "restoration") if whole_runs.TIMES > 1 else ("network",)
        kinds = (type(getattr(config.method, section, None)) for section in sections)
        found.setdefault((config.algorithm, *kinds), name)
    # The codes of the one are in another order than those of maskgit; the other is told texts.
    return sorted({*found.values(), "vqvae_prior", "text_to_image"})


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(name, marks=() if name in _SOONEST else pytest.mark.recipes) for name in one_recipe_of_each_kind()],
)
def test_a_family_trains_on_several_devices_as_on_one_and_goes_on_as_if_it_had_not_stopped(tmp_path, recipe):
    settings = {"shape": SHAPE, "devices": 8} | _SETTINGS.get(recipe, {})
    devices, shape = settings.pop("devices"), settings["shape"]
    algorithm = build(recipe, **settings)
    one, state_of_one = train(algorithm, 1, shape=shape)
    # Norms of gradients are compared, too: Adam would do the same with multiples of them.
    rules = () if recipe in _SOONEST else ((".*", "fsdp"),)
    several, state = train(algorithm, devices, shape=shape, stop_in=tmp_path, rules=rules)
    (loss, *norms), (expected_loss, *expected_norms) = np.transpose(several), np.transpose(one)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(norms, expected_norms, rtol=1e-4)  # sums over all parameters: rounding adds up to 2e-5
    for name in ("params", "ema_params", "extra"):
        ours, theirs = (jax.device_get(getattr(s, name)) for s in (state, state_of_one))
        chex.assert_trees_all_close(ours, theirs, atol=1e-5)
    for pool in state.extra.get("pool", {}).values():
        assert int(pool.count) == 12  # of 32 offered: it is full


@pytest.mark.parametrize(("mesh_shape", "share"), [((1, -1), 8), ((-1, 4), 4), ((8, 1), 1)])
def test_under_fsdp_each_device_holds_its_share(algorithm, mesh_shape, share):
    mesh = mesh_of(8, mesh_shape)
    shape = run.abstract_state(algorithm, mesh, ((".*", "fsdp"),), 0)
    shardings = jax.tree.map(lambda x: x.sharding, shape)
    state = loop.initialise(algorithm, sharding.key(mesh, 7, "init"), shardings)
    for tree in (state.params, state.ema_params, state.opt_state):
        leaves = jax.tree.leaves(tree)
        held, whole = sum(leaf.addressable_shards[3].data.size for leaf in leaves), sum(leaf.size for leaf in leaves)
        assert whole / share <= held < 1.1 / share * whole


def test_rules_are_tried_in_order_and_small_arrays_stay_whole():
    state = {
        "params": {"a": jax.ShapeDtypeStruct((16, 64), jnp.float32), "b": jax.ShapeDtypeStruct((16, 64), jnp.float32)},
        "small": jax.ShapeDtypeStruct((8,), jnp.float32),
        "odd": jax.ShapeDtypeStruct((333, 7), jnp.float32),
    }
    placed = sharding.state_shardings(mesh_of(8), state, (("params/a", "replicate"), (".*", "fsdp")), 100)
    spec = jax.tree.map(lambda s: tuple(s.spec), placed)
    assert spec == {"params": {"a": (), "b": (None, "fsdp")}, "small": (), "odd": ()}


def test_image_depends_on_seed_and_index_alone(algorithm):
    state = jax.jit(algorithm.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape).astype(np.float32), jax.device_get(state.params))

    def draw(devices, batch_size, num, seed=0):
        mesh = mesh_of(devices)
        placed = jax.device_put(dataclasses.replace(state, params=params), sharding.replicated(mesh))
        return np.concatenate(list(sampling.Drawer(algorithm, mesh, batch_size).batches(placed, seed, num))).astype(int)

    whole = draw(1, 12, 12)
    assert len({image.tobytes() for image in whole}) == 12
    for devices, batch_size, num in ((1, 5, 7), (8, 8, 12)):
        drawn = draw(devices, batch_size, num)
        assert drawn.shape == (num, *SHAPE)
        assert np.abs(drawn - whole[:num]).max() <= 1  # of 255: float rounding
    assert np.abs(draw(1, 12, 12, seed=1) - whole).max() > 50


def test_sample_requests_are_traced_once_per_kind(algorithm):
    """Another batch of the same size must not compile again."""
    state = jax.jit(algorithm.init)(jax.random.key(0))
    sample = jax.jit(chex.assert_max_traces(algorithm.sample, n=1), static_argnums=3)
    for start in (0, 4):
        sample(state, rng.per_index(jax.random.key(0), jnp.arange(start, start + 4)), {}, algorithm.Request())
