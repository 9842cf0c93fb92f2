"""The VQ-VAE's codebook, the transformer over its codes, and the two runs, one standing on the other."""

import dataclasses
import importlib
import json
import pathlib
import shutil
import subprocess
import sys

import chex
import jax
from jax import numpy as jnp
from ml_collections import config_dict
import numpy as np
import pytest

from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import rng
from imagegen_jax.algorithms import vqvae
from imagegen_jax.generation import latents
from imagegen_jax.generation import requests
from imagegen_jax.networks import transformer
from imagegen_jax.networks import vqvae_nets
from imagegen_jax.training import first_stage
from imagegen_jax.training import run
from imagegen_jax.training import sharding

ROOT = pathlib.Path(__file__).parent.parent
SHAPE = (5, 4, 1)
PLACES = (3, 2)  # of its codes
CODES = 5


def recipe(name, **keys):
    config = importlib.import_module(f"configs.{name}").get_config("smoke")
    config.update_from_flattened_dict(keys)
    return config


def vqvae_config(**keys):
    small = {"network.widths": (4,), "network.groups": 4, "vqvae.codes": CODES, "vqvae.dimensions": 3}
    return recipe("vqvae", **small, **keys)


@pytest.fixture(scope="module")
def coder():
    return run.build_algorithm(vqvae_config(), images.Spec(SHAPE))


@pytest.fixture(scope="module")
def coder_state(coder):
    """With parameters far from those of the start, at which the residual branches do nothing."""
    state = jax.jit(coder.init)(jax.random.key(0))
    return state.replace(params=randomised(state.params))


@pytest.fixture(scope="module")
def conditional_prior():
    config = recipe("vqvae_prior", **{"network.width": 8, "prior.conditional": True})
    with config.unlocked():
        config.first_stage.run = vqvae_config()
    return run.build_algorithm(config, images.Spec(SHAPE, images.unnamed(3)))


@pytest.fixture(scope="module")
def prior_state(conditional_prior):
    return jax.jit(conditional_prior.init)(jax.random.key(0))


def some_batch(n=16, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (n, *SHAPE), np.uint8)
    return {"image": image, "condition": {"label": np.arange(n, dtype=np.int32) % 3}, "index": np.arange(n, dtype=np.int32)}


def randomised(tree):
    """Parameters whose kernels are random, where those of last layers are near zero at first."""
    rng = np.random.default_rng(0)

    def one(x):
        return 0.5 * rng.standard_normal(x.shape).astype(np.float32) if x.ndim > 1 else x

    return jax.tree.map(one, jax.device_get(tree))


# The codebook.


def some_codebook(rng, codes=6, dimensions=3):
    vectors, counts = rng.standard_normal((codes, dimensions)), rng.uniform(1, 9, codes)
    return vqvae.Codebook(vectors.astype(np.float32), counts.astype(np.float32))


def test_nearest_vector_is_that_of_numpy():
    rng = np.random.default_rng(0)
    codebook = some_codebook(rng)
    z = rng.standard_normal((4, 5, 2, 3)).astype(np.float32)
    distances = np.square(z[..., None, :] - codebook.vectors).sum(-1)
    np.testing.assert_array_equal(codebook.nearest(z), distances.argmin(-1))


def test_moving_averages_are_those_of_the_papers_counts_and_sums():
    rng = np.random.default_rng(0)
    codebook = some_codebook(rng)
    counts = codebook.counts.astype(np.float64)
    sums = codebook.vectors * counts[:, None]
    for _ in range(5):
        z = rng.standard_normal((20, 3)).astype(np.float32) + 1
        indices = np.asarray(codebook.nearest(z))
        for i in range(len(counts)):
            counts[i] = 0.9 * counts[i] + 0.1 * (indices == i).sum()
            sums[i] = 0.9 * sums[i] + 0.1 * z[indices == i].sum(0)
        codebook = codebook.updated(z, np.eye(6, dtype=np.float32)[indices], decay=0.9)
        np.testing.assert_allclose(codebook.counts, counts, rtol=1e-5)
        np.testing.assert_allclose(codebook.vectors, sums / counts[:, None], rtol=1e-4, atol=1e-5)


def test_vector_that_nothing_is_near_stays_where_it_is():
    codebook = vqvae.Codebook(jnp.array([[0.0], [9.0]]), jnp.array([1.0, 0.0]))
    moved = codebook.updated(jnp.array([[1.0]]), jnp.array([[1.0, 0.0]]), decay=0.5)
    np.testing.assert_allclose(moved.vectors, [[0.5], [9.0]])
    np.testing.assert_allclose(moved.counts, [1.0, 0.0])


def test_dead_vectors_become_different_rows_of_the_batch():
    rng = np.random.default_rng(0)
    codebook = some_codebook(rng)
    z = rng.standard_normal((50, 3)).astype(np.float32)
    dead = np.array([True, False, True, True, False, True])
    restarted = codebook.restarted(z, jax.random.key(0), dead)
    np.testing.assert_array_equal(restarted.vectors[~dead], codebook.vectors[~dead])
    rows = [int(np.flatnonzero((z == vector).all(1))[0]) for vector in np.asarray(restarted.vectors)[dead]]
    assert len(set(rows)) == 4
    np.testing.assert_allclose(restarted.counts, np.where(dead, 50 / 6, codebook.counts))
    other = codebook.restarted(z, jax.random.key(1), dead)
    assert (np.asarray(other.vectors) != restarted.vectors).any(1).sum() >= 3


def test_more_codes_than_places():
    codebook = some_codebook(np.random.default_rng(0))
    restarted = codebook.restarted(jnp.ones((2, 3)), jax.random.key(0), np.ones(6, bool))
    np.testing.assert_array_equal(restarted.vectors, 1.0)


def test_perplexity_of_even_use_is_the_number_of_codes():
    np.testing.assert_allclose(vqvae.perplexity(jnp.array([0.25] * 4 + [0.0] * 3)), 4.0, rtol=1e-6)
    np.testing.assert_allclose(vqvae.perplexity(jnp.array([1.0, 0.0])), 1.0, rtol=1e-6)


# The VQ-VAE.


@pytest.mark.parametrize("shape", [(10, 7, 1), (1, 1, 3), (8, 16, 3)])
def test_codes_and_images_of_any_size(shape):
    network = vqvae_nets.Coder(widths=(4, 8), blocks=1, groups=4, dimensions=3, image_shape=shape)
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    made, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), x)
    assert made.shape == x.shape
    z = jax.eval_shape(lambda variables, x: network.apply(variables, x, method="encode"), variables, x)
    assert z.shape == (2, *network.code_shape) == (2, -(-shape[0] // 4), -(-shape[1] // 4), 3)


def test_the_encoder_gets_the_gradient_at_the_decoders_input(coder, coder_state):
    params = coder_state.params["vqvae"]
    rng = np.random.default_rng(1)
    z, nearest = rng.standard_normal((2, 2, *PLACES, 3)).astype(np.float32)
    x = rng.uniform(-1, 1, (2, *SHAPE)).astype(np.float32)

    def error(at):
        return jnp.square(coder.network.apply({"params": params}, at, method="decode") - x).mean()

    ours, gradient = jax.jit(jax.value_and_grad(lambda z: error(vqvae.straight_through(z, nearest))))(z)
    value, expected = jax.jit(jax.value_and_grad(error))(nearest)
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(ours, value, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_first_step_begins_among_the_encoders_outputs_and_minimises_the_stated_loss(coder, coder_state):
    coder, state, batch = retrained(coder, ema_decay=lambda step: 0.99), coder_state, some_batch()
    stepped, metrics = jax.jit(coder.train_step)(state, batch, jax.random.key(1))
    z = np.asarray(jax.jit(coder.encode)(state, batch)).reshape(-1, 3)
    assert metrics["codes_restarted"] == CODES and metrics["codes_in_use"] > 0.5
    # Each vector was a row of z, and has since moved towards the mean of its rows.
    start = state.extra["codebook"].restarted(z, jax.random.key(1), np.ones(CODES, bool))
    indices = np.asarray(start.nearest(z))
    expected = start.updated(z, np.eye(CODES, dtype=np.float32)[indices], coder.quantiser.decay)
    np.testing.assert_allclose(stepped.extra["codebook"].vectors, expected.vectors, atol=1e-5)
    np.testing.assert_allclose(stepped.extra["codebook"].counts, expected.counts, rtol=1e-5)
    # With the averaged networks goes one that is averaged as long as they are; what it was before is forgotten.
    average = start.updated(z, np.eye(CODES, dtype=np.float32)[indices], 0.99)
    np.testing.assert_allclose(stepped.with_ema().extra["codebook"].vectors, average.vectors, atol=1e-5)
    assert np.abs(average.vectors - expected.vectors).max() > 1e-3

    nearest = np.asarray(start.vectors)[indices]
    made = jax.jit(coder.network.apply, static_argnames="method")(
        {"params": state.params["vqvae"]}, nearest.reshape(-1, *PLACES, 3), method="decode"
    )
    error = np.square(made - images.to_float(batch["image"])).mean()
    distance = np.square(nearest - z).mean()
    np.testing.assert_allclose(metrics["squared_error"], error, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], error + 0.25 * distance, rtol=1e-4)
    np.testing.assert_allclose(metrics["perplexity"], perplexity_by_hand(indices), rtol=1e-4)


def retrained(algorithm, **changes):
    return dataclasses.replace(algorithm, training=dataclasses.replace(algorithm.training, **changes))


def perplexity_by_hand(indices):
    shares = np.bincount(indices) / len(indices)
    return np.exp(-sum(p * np.log(p) for p in shares if p))


def test_codes_reconstructions_and_panels_agree(coder, coder_state):
    @jax.jit
    def made_of(state, batch):
        codes, indices = coder.encode(state, batch), coder.indices(state, batch["image"])
        made = coder.decode(state, codes, {}), coder.decode_indices(state, indices)
        return codes, indices, made, coder.panel(state, batch, None), coder.eval_step(state, batch, None)

    batch = some_batch(4)
    codes, indices, (of_codes, of_indices), panel, metrics = made_of(coder_state, batch)
    assert codes.shape == (4, *coder.latent_shape) == (4, 3, 2, 3)
    assert indices.shape == (4, *PLACES) and indices.dtype == jnp.int32 and len(np.unique(indices)) > 1
    np.testing.assert_allclose(of_codes, of_indices, atol=1e-6)
    np.testing.assert_allclose(panel, np.stack([images.to_float(batch["image"]), of_indices], 1), atol=1e-6)
    error = np.square(panel[:, 0] - panel[:, 1]).mean((1, 2, 3))
    assert (error <= metrics["squared_error"] + 1e-6).all()  # which is of what the decoder makes before it is clipped


def train(algorithm, devices, steps=4):
    """The state after a few steps on so many devices."""
    mesh = sharding.make_mesh(devices, devices=jax.devices()[:devices])
    state = jax.jit(algorithm.init, out_shardings=sharding.replicated(mesh))(jax.random.key(0))
    step = jax.jit(algorithm.train_step)
    for i in range(steps):
        batch = sharding.put_batch(mesh, some_batch(seed=i))
        state, _ = step(state, batch, jax.device_put(jax.random.key(i), sharding.replicated(mesh)))
    return jax.device_get(state)


@pytest.mark.recipes
def test_codebook_is_the_same_on_one_device_and_on_eight_in_pieces():
    """With every vector that an even share of use does not keep restarted, in each step."""
    keys = {"vqvae.restart": 0.9, "vqvae.decay": 0.5, "optimizer.eps": 1e-2}
    whole, pieces = (
        run.build_algorithm(vqvae_config(**keys, **{"optimizer.accumulate": n}), images.Spec(SHAPE)) for n in (1, 2)
    )
    one, eight = train(whole, 1), train(pieces, 8)
    chex.assert_trees_all_close((eight.params, eight.extra), (one.params, one.extra), atol=1e-5, rtol=1e-4)


# The transformer.


@pytest.fixture(scope="module")
def network():
    """(module, variables) with 7 codes at 6 places, 2 classes."""
    module = transformer.Transformer(codes=7, length=6, width=8, layers=2, heads=2, starts=2)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 6), jnp.int32))
    return module, randomised(variables)


def whole_pass(network, codes, label):
    module, variables = network
    return jax.jit(module.apply)(variables, module.inputs(codes, {"label": label}))[0]


def test_position_by_position_is_as_all_at_once(network):
    module, variables = network
    codes = np.random.default_rng(0).integers(0, 7, (3, 6)).astype(np.int32)
    label = np.array([0, 1, 1], np.int32)
    expected = whole_pass(network, codes, label)
    assert np.std(expected) > 0.1
    inputs, cache = module.inputs(codes, {"label": label}), module.empty_cache(3, 6)
    step = jax.jit(lambda before, cache, position: module.apply(variables, before, cache, position))
    for position in range(6):
        logits, cache = step(inputs[:, position, None], cache, position)
        np.testing.assert_allclose(logits[:, 0], expected[:, position], atol=1e-5)


def test_a_code_changes_what_follows_it_and_nothing_before(network):
    rng = np.random.default_rng(0)
    codes, label = rng.integers(0, 7, (1, 6)).astype(np.int32), np.zeros(1, np.int32)
    before = whole_pass(network, codes, label)
    for j in range(6):
        changed = codes.copy()
        changed[0, j] = (codes[0, j] + 3) % 7
        moved = np.abs(whole_pass(network, changed, label) - before).max((0, 2))
        assert (moved[: j + 1] == 0).all() and (moved[j + 1 :] > 1e-4).all()
    assert (np.abs(whole_pass(network, codes, label + 1) - before).max((0, 2)) > 1e-4).all()


# The prior.


def test_at_first_every_code_is_as_likely_as_any_other(conditional_prior, prior_state):
    metrics = jax.jit(conditional_prior.eval_step)(prior_state, some_batch(4), jax.random.key(0))
    np.testing.assert_allclose(metrics["log_prob"], -3 * 2 * np.log(CODES), rtol=1e-3)
    np.testing.assert_allclose(metrics["bits_per_code"], np.log2(CODES), rtol=1e-3)
    np.testing.assert_allclose(metrics["loss"], np.log(CODES), rtol=1e-3)


def test_training_lowers_the_loss_and_leaves_the_vqvae_alone(conditional_prior, prior_state):
    state, step, batch = prior_state, jax.jit(conditional_prior.train_step), some_batch(8)
    before = jax.device_get(state.extra)
    losses = []
    for i in range(30):
        state, metrics = step(state, batch, jax.random.key(i))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    chex.assert_trees_all_equal(jax.device_get(state.extra), before)


def test_the_vqvae_is_adopted_as_it_encodes_and_decodes(conditional_prior, prior_state, coder, coder_state):
    state = conditional_prior.with_first_stage(prior_state, coder_state)
    assert jax.tree.structure(state) == jax.tree.structure(prior_state)
    kept = state.extra["first_stage"]
    assert kept.extra.keys() == {"codebook"}
    chex.assert_trees_all_equal((kept.params, kept.extra["codebook"]), (coder_state.params, coder_state.extra["codebook"]))
    assert conditional_prior.first_stage.network == coder.network


def test_image_depends_on_key_index_label_and_temperature_alone(conditional_prior, prior_state, coder_state):
    prior = conditional_prior
    state = prior.with_first_stage(prior_state.replace(params=randomised(prior_state.params)), coder_state)
    sample = jax.jit(prior.sample, static_argnums=3)

    def draw(devices, index, label, temperature=None):
        mesh = sharding.make_mesh(devices, devices=jax.devices()[:devices])
        index, label = (sharding.put_rows(mesh, np.array(x, np.int32)) for x in (index, label))
        placed, key = jax.device_put((state, jax.random.key(3)), sharding.replicated(mesh))
        return np.asarray(sample(placed, rng.per_index(key, index), {"label": label}, prior.Request(temperature)))

    labels = np.arange(8) % 3
    whole = draw(8, range(8), labels)
    assert whole.shape == (8, *SHAPE) and np.abs(whole).max() <= 1
    assert len({image.tobytes() for image in whole}) == 8
    np.testing.assert_allclose(draw(1, (2, 3, 7), (2, 0, 1)), whole[[2, 3, 7]], atol=1e-5)
    for other in (draw(8, range(8), (labels + 1) % 3), draw(8, range(8), labels, 0.2)):
        assert np.abs(other - whole).max() > 0.1


def test_bfloat16():
    config = recipe("vqvae_prior", **{"network.dtype": "bfloat16"})
    with config.unlocked():
        config.first_stage.run = vqvae_config(**{"network.dtype": "bfloat16"})
    prior = run.build_algorithm(config, images.Spec(SHAPE))
    state = jax.eval_shape(prior.init, jax.random.key(0))
    drawn = jax.eval_shape(
        lambda state, keys: prior.sample(state, keys, {}, prior.Request()), state, jax.random.split(jax.random.key(0))
    )
    stepped, metrics = jax.eval_shape(prior.train_step, state, some_batch(2), jax.random.key(0))
    assert jax.tree.map(lambda x: x.dtype, stepped) == jax.tree.map(lambda x: x.dtype, state)
    assert drawn.dtype == metrics["loss"].dtype == jnp.float32


def test_requests_that_cannot_be(conditional_prior, coder):
    for temperature in ("0", "0.5,0.5"):
        with pytest.raises(errors.UserError, match="--temperature"):
            requests.typed({"temperature": temperature}, conditional_prior, {})
    assert requests.typed({"temperature": "0.5"}, conditional_prior, {}) == {"temperature": 0.5}
    with pytest.raises(errors.UserError, match=r"--eta"):
        requests.typed({"eta": "0.5"}, conditional_prior, {})
    with pytest.raises(errors.UserError, match=r"vqvae_prior"):
        latents.check_draws(coder)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "config.first_stage.workdir is missing"),
        ({"prior.conditional": True}, "config.prior.conditional needs labels"),
        ({"network.heads": 3}, "config.network.heads is 3"),
    ],
)
def test_priors_that_cannot_be(keys, words):
    config = recipe("vqvae_prior", **keys)
    with config.unlocked():
        config.first_stage.run = vqvae_config() if keys else config_dict.ConfigDict()
    with pytest.raises(errors.UserError, match=words):
        run.build_algorithm(config_lib.check(config), images.Spec(SHAPE))


# The run of one, standing on the run of the other.


def test_first_stages_that_cannot_be(tmp_path):
    specs = images.Spec(SHAPE)
    run.save_config(tmp_path / "ddpm", recipe("ddpm"), specs)
    run.save_config(tmp_path / "other", vqvae_config(), images.Spec((32, 32, 3)))
    run.save_config(tmp_path / "good", vqvae_config(), images.Spec(SHAPE, images.unnamed(4)))

    def fill(workdir):
        config = config_lib.typed(recipe("vqvae_prior", **{"first_stage.workdir": workdir}))
        return first_stage.filled_in(tmp_path / "run", config, specs)

    for workdir, words in (
        ("", "config.first_stage.workdir is missing"),
        (str(tmp_path), "is not the folder of a run"),
        (str(tmp_path / "ddpm"), "is a run of diffusion, and code_prior stands on one that tokenizes"),
        (str(tmp_path / "other"), "of 32x32x3 images, and those of config.data are 5x4x1"),
    ):
        with pytest.raises(errors.UserError, match=words) as caught:
            fill(workdir)
        assert "\n" not in str(caught.value)
    assert fill(str(tmp_path / "good")).first_stage.run["vqvae"]["codes"] == CODES
    config = config_lib.typed(recipe("ddpm"))
    assert first_stage.filled_in(tmp_path / "run", config, specs) is config


def train_run(*flags):
    """(exit code, stderr)."""
    command = [sys.executable, "-m", "experiments.main", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stderr


@pytest.mark.recipes
def test_a_priors_run_needs_the_vqvaes_run_only_to_begin(tmp_path):
    brief = ("--config.sample.num=8", "--config.eval.num=32", "--config.log.every=1")
    tiny = ("--config.network.widths=(4,4,4)", "--config.network.groups=4", "--config.vqvae.codes=8")
    base_run, prior_run = tmp_path / "vqvae", tmp_path / "prior"
    flags = ("--config=configs/vqvae.py:smoke", f"--workdir={base_run}", "--config.duration=4", *tiny, *brief)
    code, error = train_run(*flags)
    assert code == 0, error[-2000:]
    assert (base_run / "panels" / "4.png").exists()

    train = ("--config=configs/vqvae_prior.py:smoke", f"--workdir={prior_run}", *brief)
    code, error = train_run(*train, "--config.duration=3", f"--config.first_stage.workdir={base_run}")
    assert code == 0, error[-2000:]

    trained = run.load(base_run).state
    shutil.rmtree(base_run)
    loaded = run.load(prior_run)
    prior, state = loaded.algorithm, loaded.state
    kept = state.extra["first_stage"]
    assert kept.params.keys() == {"vqvae"} and int(kept.step) == 4
    chex.assert_trees_all_equal((kept.params, kept.extra["codebook"]), (trained.params, trained.extra["codebook"]))
    assert prior.network.length == 16

    code, error = train_run(*train, "--config.duration=5")
    assert code == 0 and "continuing from step 3" in error, error[-2000:]
    losses = [json.loads(line) for line in (prior_run / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in losses if "bits_per_code" in row) == 5
    assert (prior_run / "samples" / "5.png").exists()
