"""Drawing codes, one after the other and many at once, and training masked ones, against definitions and enumerations."""

import functools
import importlib
import itertools

import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from imagegen_jax import conditions
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import rng
from imagegen_jax.algorithms import code_prior
from imagegen_jax.generation import requests
from imagegen_jax.training import run

CODES, CLASSES = 3, 2
TEXT = conditions.Text(3)
OF_TEXTS = (("prior.conditional", False), ("prior.text", True), ("text_encoder.width", 8), ("text_encoder.heads", 2))


def config_of(order, **keys):
    config = importlib.import_module("configs.vqvae_prior").get_config("smoke")
    own = {"network.width": 8, "prior.order": order, "prior.conditional": True, "prior.condition_dropout": 0.5} | keys
    config.update_from_flattened_dict(own)
    first = importlib.import_module("configs.vqvae").get_config("smoke")
    tiny = {"network.widths": (4,), "vqvae.codes": CODES, "vqvae.dimensions": 2, "network.groups": 4}
    first.update_from_flattened_dict(tiny)
    with config.unlocked():
        config.first_stage.run = first
    return config


@functools.cache
def built(order, length, **keys):
    """(prior of so many codes, a state whose parameters are far from those of the start)."""
    spec = images.Spec((2, 2 * length, 1), images.unnamed(CLASSES), TEXT.length)
    prior = run.build_algorithm(config_lib.check(config_of(order, **keys)), spec)
    drawn = np.random.default_rng(0)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(prior.init, jax.random.key(0)))
    params = jax.tree.map(lambda x: np.float32(drawn.standard_normal(x.shape)), state.params)
    params["transformer"]["logits"] = jax.tree.map(lambda x: 0.3 * x, params["transformer"]["logits"])  # not too sure of any
    return prior, state.replace(params=params)


def labels(n, label=None):
    return {"label": np.arange(n, dtype=np.int32) % CLASSES if label is None else np.full(n, label, np.int32)}


def told(prior, n, label=None):
    """Labels, or texts of another length each in turn."""
    return {"text": TEXT.tokens([("ab", "", "cde")[i % 3] for i in range(n)])} if prior.text else labels(n, label)


def draw(prior, state, n, label=None, **options):
    keys = rng.per_index(jax.random.key(0), jnp.arange(n))
    sample = jax.jit(prior.sample_codes, static_argnums=3)
    return np.asarray(sample(state, keys, told(prior, n, label), prior.Request(**options)))


@functools.cache
def compiled_logits(order, length, **keys):
    prior, state = built(order, length, **keys)
    return jax.jit(lambda codes, condition, masked: prior._logits(state.params["transformer"], codes, condition, masked))


def logits_of(order, length, codes, condition, masked=None, scale=1.0, **keys):
    """Of whole sequences at once; guided by their definition."""
    network = compiled_logits(order, length, **keys)
    towards = np.asarray(network(codes, condition, masked))
    if scale == 1:
        return towards
    null = {"label": np.full(len(codes), CLASSES, np.int32), "text": TEXT.tokens([""] * len(codes))}
    away = np.asarray(network(codes, {name: null[name] for name in condition}, masked))
    return away + np.float32(scale) * (towards - away)


def log_probability(logits, codes):
    """Of each code; of (..., K) logits."""
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return np.log(np.take_along_axis(p, codes[..., None], -1)[..., 0])


# In raster order.


@pytest.mark.parametrize(("scale", "keys"), [(1.0, {}), (2.0, {}), (2.0, dict(OF_TEXTS))], ids=["labels", "guided", "texts"])
def test_drawing_with_a_cache_is_drawing_without(monkeypatch, scale, keys):
    """Each code is what its key draws of the logits of the whole sequence, in segments of the cache that end anywhere."""
    monkeypatch.setattr(code_prior, "_SEGMENT", 2)
    monkeypatch.setattr(code_prior, "_SEGMENTS", 3)
    prior, state = built("raster", 7, **keys)
    codes = draw(prior, state, 40, guidance_scale=scale)
    logits = logits_of("raster", 7, codes, told(prior, 40), scale=scale, **keys)
    assert np.std(logits) > 0.1 and len(np.unique(codes, axis=0)) > 30
    rows = rng.per_index(jax.random.key(0), jnp.arange(40))
    at = jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(7)))(rows)
    np.testing.assert_array_equal(jax.vmap(jax.vmap(jax.random.categorical))(at, jnp.asarray(logits)), codes)


def by_definition(logits, temperature=1.0, top_k=0, top_p=1.0):
    """(K,) probabilities of one code."""
    p = np.exp(logits / temperature - (logits / temperature).max())
    order = np.argsort(-p)
    p[order[top_k or len(p) :]] = 0
    p /= p.sum()
    least = np.searchsorted(np.cumsum(p[order]), top_p) + 1
    p[order[least:]] = 0
    return p / p.sum()


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.5, "top_k": 2}, {"top_k": 1}, {"guidance_scale": 1.5, "top_p": 0.9}],
    ids=str,
)
def test_draws_have_the_probabilities_of_all_sequences(options):
    sequences = np.array(list(itertools.product(range(CODES), repeat=2)), np.int32)
    given = {name: value for name, value in options.items() if name != "guidance_scale"}
    logits = logits_of("raster", 2, sequences, labels(9, 1), scale=options.get("guidance_scale", 1.0)).astype(np.float64)
    expected = np.array(
        [np.prod([by_definition(row, **given)[code] for row, code in zip(rows, c)]) for rows, c in zip(logits, sequences)]
    )
    np.testing.assert_allclose(expected.sum(), 1.0, rtol=1e-5)
    n = 4000
    drawn = draw(*built("raster", 2), n, label=1, **options)
    counts = (drawn[:, None] == sequences).all(-1).sum(0)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    if options == {"top_k": 1}:
        assert possible.sum() == 1 and counts.max() == n  # greedy
    else:
        assert stats.chisquare(counts[possible], n * expected[possible] / expected.sum()).pvalue > 1e-3


def test_probabilities_of_all_sequences_add_up_to_one():
    prior, state = built("raster", 2)
    sequences = np.array(list(itertools.product(range(CODES), repeat=2)), np.int32)
    bits = jax.jit(prior._errors)(state.params["transformer"], sequences, labels(9, 0))[1]["bits_per_code"]
    np.testing.assert_allclose((2.0 ** (-2 * bits)).sum(), 1.0, rtol=1e-5)


# Masked.


def test_masked_codes_are_predicted_from_all_others_in_whatever_order():
    """Of codes that change places together with what the network adds at each, the predictions change places."""
    prior, state = built("masked", 5)
    codes = np.random.default_rng(0).integers(0, CODES, (4, 5)).astype(np.int32)
    masked = np.array([[True, False, True, False, False]] * 4)
    before = logits_of("masked", 5, codes, labels(4), masked)
    for j in (1, 3, 4):
        changed = codes.copy()
        changed[:, j] = (codes[:, j] + 1) % CODES
        moved = np.abs(logits_of("masked", 5, changed, labels(4), masked) - before).max((0, 2))
        assert (moved > 1e-4).all()
    changed = np.where(masked, (codes + 1) % CODES, codes)  # what is masked is not seen
    np.testing.assert_array_equal(logits_of("masked", 5, changed, labels(4), masked), before)

    order = np.array([3, 0, 4, 2, 1])
    params = state.params["transformer"]
    places = params["places"][np.r_[0, 1 + order]]
    found = jax.jit(prior._logits)(params | {"places": places}, codes[:, order], labels(4), masked[:, order])
    np.testing.assert_allclose(found, before[:, order], atol=1e-3)


@pytest.mark.parametrize(("steps", "scale"), [(3, 2.0), (5, 1.0)])
def test_decoding_is_the_papers_algorithm(steps, scale):
    """Of the likeliest codes, without noise: each step settles those of the highest probability."""
    codes, masked = np.zeros((6, 5), np.int32), np.ones((6, 5), bool)
    for t in range(1, steps + 1):
        logits = logits_of("masked", 5, codes, labels(6), masked, scale).astype(np.float64)
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        codes = np.where(masked, p.argmax(-1), codes).astype(np.int32)
        left = max(1, min(masked[0].sum() - 1, int(5 * np.cos(np.pi / 2 * t / steps)))) if t < steps else 0
        # With top_k=1 all codes are certain, and so are those that stay: the first ones.
        for row in masked:
            row[np.flatnonzero(row)[left:]] = False
    found = draw(*built("masked", 5), 6, steps=steps, choice_temperature=0.0, top_k=1, guidance_scale=scale)
    assert ((found >= 0) & (found < CODES)).all()
    np.testing.assert_array_equal(found, codes)


def test_the_surest_codes_stay():
    steps, temperature = 5, 0.7
    prior, state = built("masked", 5)
    keys = rng.per_index(jax.random.key(0), jnp.arange(6))
    codes, masked = np.zeros((6, 5), np.int32), np.ones((6, 5), bool)
    for step in range(steps):
        logits = logits_of("masked", 5, codes, labels(6), masked) / temperature
        code_keys = jax.vmap(lambda key, step=step: jax.random.split(jax.random.fold_in(key, step))[0])(keys)
        drawn = np.asarray(jax.vmap(jax.random.categorical)(code_keys, jnp.asarray(logits)))
        codes = np.where(masked, drawn, codes).astype(np.int32)
        log_p = log_probability(logits, drawn)
        surest = np.where(masked, log_p, -np.inf).argmax(-1)
        masked[np.arange(6), surest] = False
    options = {"steps": 5, "temperature": temperature}
    np.testing.assert_array_equal(draw(prior, state, 6, **options, choice_temperature=0.0), codes)
    assert (draw(prior, state, 6, **options) != codes).any()  # with noise in the choice


def test_masked_training_minimises_the_cross_entropy_of_masked_codes_with_smoothed_labels():
    prior, state = built("masked", 5, **{"prior.label_smoothing": 0.1})
    codes = np.random.default_rng(0).integers(0, CODES, (4, 5)).astype(np.int32)
    masked = np.random.default_rng(1).random((4, 5)) < 0.6
    loss, metrics = jax.jit(prior._errors)(state.params["transformer"], codes, labels(4), masked)
    logits = logits_of("masked", 5, codes, labels(4), masked)
    log_p = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    target = 0.9 * np.eye(CODES)[codes] + 0.1 / CODES
    np.testing.assert_allclose(loss, -((target * log_p).sum(-1) * masked).sum(1) / 5, rtol=1e-4)
    bits = -(log_probability(logits, codes) * masked).sum(1) / masked.sum(1) / np.log(2)
    np.testing.assert_allclose(metrics["bits_per_masked_code"], bits, rtol=1e-4)


def test_as_many_are_masked_in_training_as_the_cosine_of_a_uniform_ratio():
    prior, _ = built("masked", 5)
    counts = np.asarray(prior._masked(jax.random.split(jax.random.key(0), 2000))).sum(1)
    # ceil(5 cos(pi r / 2)) <= k where r >= 2 arccos(k / 5) / pi
    expected = np.diff([0, *(1 - 2 * np.arccos(np.arange(1, 6) / 5) / np.pi)])
    assert stats.chisquare(np.bincount(counts, minlength=6)[1:], 2000 * expected).pvalue > 1e-3


def test_the_bound_is_the_mean_over_all_orders_and_bounds_a_distribution():
    prior, state = built("masked", 3)
    sequences = np.array(list(itertools.product(range(CODES), repeat=3)), np.int32)
    by_mask = {}
    for masked in itertools.product([False, True], repeat=3):
        logits = logits_of("masked", 3, sequences, labels(27, 1), np.tile(masked, (27, 1)))
        by_mask[masked] = log_probability(logits, sequences)
    log_p = []
    for order in itertools.permutations(range(3)):  # log probability of each sequence, drawn in this order
        hidden = [tuple(place in order[i:] for place in range(3)) for i in range(3)]
        log_p.append(sum(by_mask[hidden[i]][:, order[i]] for i in range(3)))
    np.testing.assert_allclose(np.exp(log_p).mean(0).sum(), 1.0, rtol=1e-4)
    n = 3000  # times the same image, of whose codes, whatever they are, the bound is drawn
    batch = {"image": np.zeros((n, 2, 6, 1), np.uint8), "condition": labels(n, 1), "index": np.arange(n, dtype=np.int32)}
    measured = jax.jit(prior.eval_step)(state, batch, jax.random.key(0))
    bound = np.asarray(measured["bits_per_code_bound"])
    codes = np.asarray(prior._codes(state, {"image": batch["image"][:1]}))
    expected = -np.mean(log_p, 0)[(sequences == codes).all(1)] / 3 / np.log(2)
    assert abs(bound.mean() - expected) < 4 * bound.std() / np.sqrt(n)
    assert set(measured) == {"loss", "bits_per_masked_code", "bits_per_code_bound"}


# What is told.


@pytest.mark.recipes
@pytest.mark.parametrize("order", ["raster", "masked"])
def test_codes_depend_on_each_word_and_on_nothing_behind_the_end(order):
    """Where there are words, the learned tokens for what is behind the end have no part."""
    prior, state = built(order, 3, **dict(OF_TEXTS))
    codes = np.array([[0, 1, 2]] * 3, np.int32)
    masked = None if order == "raster" else np.array([[True, False, True]] * 3)
    logits = compiled_logits(order, 3, **dict(OF_TEXTS))
    found = np.asarray(logits(codes, {"text": TEXT.tokens(["ab", "ba", "ab"])}, masked))
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(found[0] - found[1]).max() > 1e-2
    params = state.params["transformer"]
    padding = params["padding"] + np.float32([[1]] * 3 + [[0]])  # the places of the start and of two bytes
    other = state.replace(params={"transformer": params | {"padding": padding}})
    again = jax.jit(prior._logits)(other.params["transformer"], codes, {"text": TEXT.tokens(["ab", "ba", "ab"])}, masked)
    np.testing.assert_allclose(again, found, atol=1e-6)


@pytest.mark.recipes
def test_labels_are_left_out_in_their_share_of_images():
    prior, state = built("masked", 5)  # half of them
    assert prior.network.starts == CLASSES + 1
    image = np.random.default_rng(0).integers(0, 256, (64, 2, 10, 1), np.uint8)
    batch = {"image": image, "condition": labels(64, 0), "index": np.arange(64, dtype=np.int32)}
    moved = jax.jit(prior.train_step)(state, batch, jax.random.key(1))[0].opt_state
    gradient = np.asarray(optax.tree.get(moved["transformer"], "mu")["tokens"]["embedding"])
    used = np.abs(gradient).max(1) > 0
    np.testing.assert_array_equal(used[CODES:], [True, False, True, True])  # the label's, the other's, the null one, the mask


def check(prior, **options):
    typed = requests.typed(options, prior, images.Spec((2, 4, 1), images.unnamed(CLASSES)))
    prior.check_request(prior.Request(**typed))


@pytest.mark.parametrize(
    ("order", "keys", "options", "words"),
    [
        ("raster", {}, {"steps": "2"}, "--steps=2 is of priors with config.prior.order=masked"),
        ("raster", {}, {"choice_temperature": "2"}, "--choice_temperature=2.0 is of priors"),
        ("masked", {}, {"steps": "3"}, "--steps=3: an image has 2 codes, choose 1 to 2"),
        ("masked", {"prior.condition_dropout": 0.0}, {"guidance_scale": "2"}, "has seen no images without a condition"),
        (
            "raster",
            {"prior.condition_dropout": 0.0, "prior.conditional": False},
            {"guidance_scale": "2"},
            "told neither labels nor texts",
        ),
        ("raster", {}, {"top_k": "-1"}, "--top_k=-1: it must be at least 0"),
        ("raster", {}, {"top_p": "0"}, "--top_p=0: it must be more than 0"),
    ],
)
def test_requests_that_cannot_be(order, keys, options, words):
    with pytest.raises(errors.UserError, match=words) as caught:
        check(built(order, 2, **keys)[0], **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"prior.conditional": False}, "config.prior.condition_dropout is 0.5: it needs config.prior.conditional=True"),
        ({"prior.condition_dropout": 0.0, "sampler.guidance_scale": 2.0}, "config.sampler.guidance_scale is 2.0: it needs"),
        ({"prior.order": "spiral"}, "choose one of raster, masked"),
    ],
)
def test_configs_that_cannot_be(keys, words):
    with pytest.raises(errors.UserError, match=words):
        config_lib.check(config_of("raster", **keys))


def test_a_protocol_names_what_drawing_depends_on():
    for order, options, expected in (
        ("raster", {}, {}),
        ("raster", {"top_k": 2, "temperature": 1.0}, {"top_k": 2}),
        ("masked", {"guidance_scale": 2.0}, {"guidance_scale": 2.0, "steps": 2, "choice_temperature": 4.5}),
    ):
        prior, _ = built(order, 2)
        assert prior.about_request(prior.Request(**options)) == expected
