"""Optimisers against their formulas."""

import functools

import chex
import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

from configs import cgan
from imagegen_jax import averages
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import keys
from imagegen_jax import optimisers
from imagegen_jax.algorithms import base
from imagegen_jax.training import run


def section(**changes):
    return optimisers.Config(**changes)


def test_learning_rate_at_its_corners():
    rate = {
        name: optimisers.learning_rate(section(lr=1.0, schedule=name), [(0, 100)], 20)
        for name in ("constant", "linear", "cosine")
    }
    for name, f in rate.items():
        np.testing.assert_allclose([f(0), f(9), f(19), f(20)], [1 / 20, 10 / 20, 1, 1], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose([rate["constant"](60), rate["constant"](100)], [1, 1])
    np.testing.assert_allclose([rate["linear"](60), rate["linear"](100)], [0.5, 0], atol=1e-6)
    np.testing.assert_allclose([rate["cosine"](40), rate["cosine"](100)], [(1 + np.cos(np.pi / 4)) / 2, 0], atol=1e-6)
    assert optimisers.learning_rate(section(lr=0.5), [(0, 100)], 0)(0) == 0.5


def test_a_held_rate_decays_late():
    """CycleGAN's: constant for 100 epochs, then linear to 0 over 100 more (Zhu et al. 2017, section 4)."""
    rate = optimisers.learning_rate(section(lr=1.0, schedule="linear"), [(0, 200)], 0, 100)
    np.testing.assert_allclose([rate(0), rate(99), rate(100), rate(150), rate(200)], [1, 1, 1, 0.5, 0], atol=1e-6)
    warm = optimisers.learning_rate(section(lr=1.0, schedule="linear"), [(0, 200)], 10, 100)
    np.testing.assert_allclose([warm(0), warm(9), warm(60), warm(150)], [0.1, 1, 1, 0.5], atol=1e-6)


def one_update(config, grads, params):
    optimizer = optimisers.make(config, [(0, 10)])
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    return jax.tree.map(np.asarray, updates)


def test_first_update_of_each_rule():
    """Where both moments are unbiased, Adam's first step is -lr g / (|g| + eps); Lion's is -lr (sign g + wd p)."""
    g, p = jnp.array([[0.3, -0.01]]), jnp.array([[1.0, -2.0]])
    adam = one_update(section(name="adam", lr=0.1, clip_norm=0.0), g, p)
    np.testing.assert_allclose(adam, -0.1 * np.sign(g), rtol=1e-4)
    adamw = one_update(section(name="adamw", lr=0.1, weight_decay=0.5, clip_norm=0.0), g, p)
    np.testing.assert_allclose(adamw, -0.1 * (np.sign(g) + 0.5 * np.asarray(p)), rtol=1e-4)
    lion = one_update(section(name="lion", lr=0.1, weight_decay=0.5, clip_norm=0.0), g, p)
    np.testing.assert_allclose(lion, -0.1 * (np.sign(g) + 0.5 * np.asarray(p)), rtol=1e-4)


def test_muon_turns_the_momentum_of_kernels_into_orthogonal_matrices():
    """With the gradient's singular vectors, and singular values near 1; of a mean square that is Adam's, of .2 of its rate.

    Jordan et al. 2024: their iteration takes singular values to some .7 to 1.2. What is no kernel follows Adam.
    """
    keys_ = jax.random.split(jax.random.key(0), 5)
    gradient = {
        "conv": {"kernel": jax.random.normal(keys_[0], (3, 3, 4, 8)), "bias": jnp.array([0.3, -0.01])},
        "dense": {"kernel": jax.random.normal(keys_[1], (6, 20))},
        "query_key_value": {"kernel": jax.random.normal(keys_[2], (12, 3, 2, 4))},
        "flat": {"query_key_value": {"kernel": jax.random.normal(keys_[4], (6, 15))}},
        "tokens": {"embedding": jax.random.normal(keys_[3], (5, 4))},
    }
    config = section(name="muon", lr=0.1, clip_norm=0.0)
    updates = one_update(config, gradient, gradient)
    matrices = {
        "conv": lambda x: [x.reshape(36, 8)],
        "dense": lambda x: [x],
        "query_key_value": lambda x: list(np.moveaxis(x, 1, 0).reshape(3, 12, 8)),
        "flat": lambda x: np.split(x, 3, axis=1),
    }
    for name, parts in matrices.items():
        of_gradient, of_updates = (tree[name].get("query_key_value", tree[name])["kernel"] for tree in (gradient, updates))
        for g, update in zip(parts(np.asarray(of_gradient)), parts(of_updates)):
            u, _, vt = np.linalg.svd(g, full_matrices=False)
            in_its_basis = -(u.T @ update @ vt.T) / (0.1 * 0.2 * max(g.shape) ** 0.5)
            values = np.diag(in_its_basis)
            assert 0.6 < values.min() <= values.max() < 1.25, (name, values)
            np.testing.assert_allclose(in_its_basis, np.diag(values), atol=1e-4, err_msg=name)
            np.testing.assert_allclose(np.linalg.norm(update), 0.1 * 0.2 * np.linalg.norm(np.ones_like(g)), rtol=0.3)
    for path in ("conv", "bias"), ("tokens", "embedding"):
        u, g = updates[path[0]][path[1]], np.asarray(gradient[path[0]][path[1]])
        np.testing.assert_allclose(u / u.ravel()[0], np.sign(g) / np.sign(g.ravel()[0]), rtol=1e-4)


def test_muon_leaves_the_precision_of_other_products_alone():
    kernel = {"kernel": jnp.ones((4, 3))}
    one_update(section(name="muon"), kernel, kernel)
    assert jax.config.jax_default_matmul_precision is None


def test_muon_leaves_the_chosen_kernels_to_adam():
    kernel = jax.random.normal(jax.random.key(0), (4, 6))
    gradient = {"block": {"time": {"kernel": kernel}, "conv": {"kernel": kernel}}, "lifetime": {"kernel": kernel}}
    config = section(name="muon", lr=0.1, clip_norm=0.0, adam_regex="/time")
    updates = one_update(config, gradient, gradient)
    np.testing.assert_allclose(updates["block"]["time"]["kernel"], -0.1 * np.sign(kernel), rtol=1e-4)
    by_muon = one_update(section(name="muon", lr=0.1, clip_norm=0.0), gradient, gradient)
    for path in ("block", "conv"), ("lifetime",):
        chex.assert_trees_all_equal(*(functools.reduce(dict.__getitem__, path, tree) for tree in (updates, by_muon)))
    (objection,) = keys.objections(section(adam_regex="("), "config.optimizer.")
    assert objection.startswith("config.optimizer.adam_regex is '(': it is no regular expression")


@pytest.mark.parametrize("shape", [(3, 3, 64, 32), (128, 512)])
def test_muon_of_a_gradient_of_one_direction_goes_in_that_one(shape):
    """As that of a layer whose bias alone it is: what is 0 but for rounding does not become a direction of its own."""
    left, right = jax.random.normal(jax.random.key(0), (np.prod(shape[:-1]), 1)), jnp.ones((1, shape[-1]))
    kernel = {"kernel": (left @ right).reshape(shape)}
    update = one_update(section(name="muon", lr=1.0, clip_norm=0.0), kernel, kernel)["kernel"].reshape(-1, shape[-1])
    u, values, vt = np.linalg.svd(update)
    assert 0.6 < values[0] / (0.2 * max(update.shape) ** 0.5) < 1.25 and values[1] < 1e-2 * values[0]
    direction = np.asarray(left)[:, 0] / np.linalg.norm(left)
    np.testing.assert_allclose(abs(u[:, 0] @ direction), 1, atol=1e-3)
    np.testing.assert_allclose(abs(vt[0].sum()) / shape[-1] ** 0.5, 1, atol=1e-3)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_kernels_and_embeddings_decay_and_nothing_else_does(name):
    """Without a gradient an update is -lr wd p, or 0."""
    one, two = jnp.ones(4), jnp.ones((3, 4))
    params = {
        "conv": {"kernel": two, "bias": one},
        "attention": {"query_key_value": {"kernel": jnp.ones((2, 3, 1, 2)), "bias": two}},  # a bias for each head
        "norm": {"scale": one, "bias": one},
        "norm_of_a_class": {"scale": {"embedding": two}, "bias": {"embedding": two}},
        "tokens": {"embedding": two},
        "places": two,
        "gain": jnp.ones(()),
    }
    config = section(name=name, lr=0.5, weight_decay=0.1, clip_norm=0.0)
    updates = one_update(config, jax.tree.map(jnp.zeros_like, params), params)
    decayed = {jax.tree_util.keystr(path) for path, u in jax.tree_util.tree_leaves_with_path(updates) if np.any(u)}
    kernels = {"['conv']['kernel']", "['attention']['query_key_value']['kernel']"}
    assert decayed == kernels | {"['tokens']['embedding']", "['places']"}
    np.testing.assert_allclose(updates["conv"]["kernel"], -0.05 * two, rtol=1e-6)


@pytest.mark.parametrize(("name", "rule"), [("adamw", optax.scale_by_adam), ("lion", optax.scale_by_lion)])
def test_the_state_is_that_of_optax_where_all_decays(name, rule):
    """As in checkpoints from before biases and norms were left out."""
    params = {"conv": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}
    config = section(name=name, lr=0.5, weight_decay=0.1, clip_norm=0.0)
    for_all = optax.chain(optax.chain(rule(), optax.add_decayed_weights(0.1)), optax.scale_by_schedule(lambda count: 1.0))
    state = optimisers.make(config, [(0, 10)]).init(params)
    assert jax.tree.structure(state) == jax.tree.structure(for_all.init(params))


def test_each_schedule_is_a_whole_one_and_its_last_rate_stays():
    cosine = section(lr=1.0, schedule="cosine", lr_end=0.1)
    once, twice = (optimisers.learning_rate(cosine, spans, 20) for spans in ([(0, 100)], [(0, 100), (70, 170)]))
    np.testing.assert_allclose([once(99), once(100), once(150)], [0.1, 0.1, 0.1], atol=1e-3)
    steps = np.arange(100)
    np.testing.assert_array_equal(twice(steps[:70]), once(steps[:70]))
    np.testing.assert_array_equal(twice(steps + 70), once(steps))


_FIRST = ((0, 100),)
_SECOND = ((0, 100), (60, 200))


@pytest.mark.parametrize(
    ("changes", "schedules", "step", "end", "expected", "words"),
    [
        ({}, _FIRST, 60, 100, _FIRST, ""),  # the same end
        ({"schedule": "constant"}, _FIRST, 60, 200, ((0, 200),), ""),
        ({}, _FIRST, 30, 200, ((0, 200),), ""),  # the decay has not begun
        ({}, _SECOND, 90, 300, ((0, 100), (60, 300)), ""),
        ({"on_new_duration": "continue"}, _FIRST, 60, 200, _FIRST, "the last is 0"),
        ({"on_new_duration": "continue"}, _FIRST, 60, 80, _FIRST, "the last is 0.3"),
        ({"on_new_duration": "restart"}, _FIRST, 60, 200, _SECOND, "from step 60 to step 200"),
        ({"on_new_duration": "restart"}, _SECOND, 150, 200, _SECOND, ""),  # killed and started again
        ({}, _SECOND, 150, 200, _SECOND, ""),
    ],
)
def test_schedules_of_a_resumed_run(changes, schedules, step, end, expected, words):
    """Where they are extended without a word, the rates so far are those of a run that had this end from the beginning."""
    config = section(**{"lr": 1.0, "schedule": "linear"} | changes)
    found, told = optimisers.resumed(config, schedules, step, end, 10, 30)
    assert found == expected and words in told and bool(words) == bool(told)
    before, after = (optimisers.learning_rate(config, spans, 10, 30)(np.arange(step)) for spans in (schedules, found))
    np.testing.assert_array_equal(before, after)


def test_another_end_of_a_decay_that_has_begun_is_asked_about():
    config = section(lr=1.0, schedule="linear")
    with pytest.raises(
        errors.UserError, match=r"continue \(the same schedule; the last rate is 0\).* from step 60 to step 200"
    ):
        optimisers.resumed(config, _FIRST, 60, 200, 0)
    with pytest.raises(errors.UserError, match="the last rate is 0.21"):
        optimisers.resumed(config, _FIRST, 60, 80, 0)


def test_schedules_are_in_steps_also_for_a_network_with_two_updates_a_step():
    """Lion's update is the rate itself."""
    config = cgan.get_config("smoke")
    config.optimizer.update(name="lion", lr=1.0, schedule="linear", warmup="0")
    config.gan.d_steps = 2
    config.discriminator.lr_ratio = 1.0
    gan = run.build_algorithm(config, images.Spec((8, 8, 1), images.unnamed(3)), 100, ((0, 2), (2, 4)))
    for optimizer, expected in ((gan.optimizer, [1, 0.5] * 2), (gan.d_optimizer, [1, 0.75, 0.5, 0.25] * 2)):
        state, rates = optimizer.init(jnp.ones(())), []
        for _ in expected:
            update, state = optimizer.update(jnp.ones(()), state, jnp.ones(()))
            rates.append(-update)
        np.testing.assert_allclose(rates, expected)


def test_gradient_is_clipped_by_its_global_norm_before_the_rule():
    """With a large eps Adam's step is near -lr g / eps, so that the clipping shows."""
    g = jnp.array([3.0, 4.0])
    step = one_update(section(lr=1.0, eps=1e6, clip_norm=1.0), g, g)
    np.testing.assert_allclose(step, -np.asarray(g) / 5 / 1e6, rtol=1e-3)


def test_a_pretrained_network_within_another_stays_as_it_is():
    """Whatever its gradient and its size, which has no part in the clipping; and the state knows nothing of it."""
    tx = optimisers.make(optimisers.Config(name="adamw", lr=0.5, weight_decay=0.1, clip_norm=1.0), [(0, 9)])
    ours = {"dense": {"kernel": jnp.ones((2, 2))}, "text": {"bias": jnp.ones(3)}}
    pretrained = {"block": {"kernel": jnp.full((2, 3), 5.0)}}
    params = ours | {"text": ours["text"] | {optimisers.FROZEN: pretrained}}
    gradient = jax.tree.map(lambda x: 1e3 * x, params)
    state, alone = tx.init(params), tx.init(ours)
    assert jax.tree.structure(state) == jax.tree.structure(alone)
    updates, _ = jax.jit(tx.update)(gradient, state, params)
    expected, _ = tx.update(jax.tree.map(lambda x: 1e3 * x, ours), alone, ours)
    np.testing.assert_array_equal(updates["text"].pop(optimisers.FROZEN)["block"]["kernel"], 0)
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)


def test_unknown_names_are_one_line_errors():
    for key in ("name", "schedule"):
        (objection,) = keys.objections(section(**{key: "sgdd"}), "config.optimizer.")
        assert objection.startswith(f"config.optimizer.{key} is 'sgdd': choose one of ")


def test_ema_is_the_weighted_sum_of_the_past():
    decay = averages.decay_schedule(averages.Config(0.9, warmup=False))
    optimizer = optax.sgd(1.0)
    params = jnp.array(5.0)
    state = base.TrainState(jnp.zeros((), jnp.int32), {"n": params}, {"n": optimizer.init(params)}, {"n": params})
    history = [5.0]
    for step in range(20):
        state = base.update(state, "n", jnp.array(float(step)), optimizer, decay).replace(step=state.step + 1)
        history.append(float(state.params["n"]))
    expected = 0.9**20 * history[0] + sum(0.1 * 0.9 ** (20 - i) * history[i] for i in range(1, 21))
    np.testing.assert_allclose(state.ema_params["n"], expected, rtol=1e-5)
    assert state.with_ema().params["n"] == state.ema_params["n"]


def test_ema_warm_up():
    decay = averages.decay_schedule(averages.Config(0.999, warmup=True))
    np.testing.assert_allclose([decay(0), decay(90), decay(10**6)], [0.1, 0.91, 0.999], rtol=1e-6)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_gradient_is_that_of_the_whole_batch(accumulate):
    x = jax.random.normal(jax.random.key(0), (8, 3))
    params = jnp.array([1.0, -2.0, 0.5])

    def loss(params, x, rng):
        value = jnp.mean((x @ params) ** 2)
        return value, {"value": value}

    whole = base.value_and_grad(loss, params, x, jax.random.key(1), 1)
    pieces = jax.jit(base.value_and_grad, static_argnums=(0, 4))(loss, params, x, jax.random.key(1), accumulate)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, pieces)


def test_each_accumulated_piece_draws_its_own_noise():
    def loss(params, x, rng):
        noise = jax.random.normal(rng, ())
        return params * noise, {"noise": noise, "square": noise**2}

    (_, metrics), _ = base.value_and_grad(loss, jnp.ones(()), jnp.zeros(4), jax.random.key(0), 4)
    assert metrics["square"] > metrics["noise"] ** 2 + 1e-3  # equal only if all pieces drew the same
