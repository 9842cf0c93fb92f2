"""CycleGAN against the reference's sizes, its rule for the image pool, and its update written out step by step."""

import functools

import jax
from jax import numpy as jnp
import jax.test_util
import numpy as np
import optax
import pytest

from configs import cyclegan as recipe
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.algorithms import cyclegan
from imagegen_jax.generation import latents
from imagegen_jax.networks import blocks
from imagegen_jax.networks import cyclegan_nets
from imagegen_jax.training import run


def shapes(module, shape):
    """(number of parameters, output shape)."""
    out, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), jnp.zeros(shape))
    return sum(leaf.size for leaf in jax.tree.leaves(variables)), out.shape


@pytest.mark.parametrize(
    ("module", "millions", "out"),
    [
        (cyclegan_nets.ResNetGenerator(3), 11.378, (1, 256, 256, 3)),
        (cyclegan_nets.ResNetGenerator(3, upsampling="resize"), 11.378, (1, 256, 256, 3)),
        (cyclegan_nets.PatchDiscriminator(), 2.765, (1, 30, 30, 1)),
    ],
)
def test_networks_have_the_published_sizes(module, millions, out):
    """11.378 M and 2.765 M are what the reference prints at 256 pixels and three channels."""
    size, shape = shapes(module, (1, 256, 256, 3))
    assert round(size / 1e6, 3) == millions and shape == out


def test_other_networks_keep_the_image_size():
    assert shapes(cyclegan_nets.UNetGenerator(1, channels=8, levels=4), (2, 32, 48, 3))[1] == (2, 32, 48, 1)
    assert shapes(cyclegan_nets.PixelDiscriminator(8), (2, 20, 24, 3))[1] == (2, 20, 24, 1)
    # Layer by layer, w in, k wide: kernel k^2 c_in c_out and a bias.
    expected = (3 * 8 + 8) + (8 * 16 + 16) + (16 + 1)
    assert shapes(cyclegan_nets.PixelDiscriminator(8), (2, 20, 24, 3))[0] == expected


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_logit_sees_its_patch_alone(layers):
    """The patch of 3 layers is 70 pixels wide: found by which pixels a logit's gradient reaches, without normalisation's."""
    width = {1: 16, 2: 34, 3: 70}[layers]
    side = 96
    module = cyclegan_nets.PatchDiscriminator(channels=2, layers=layers)
    # A constant image has zero gradient through instance statistics only where nothing else contributes; so they are removed.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cyclegan_nets.blocks, "instance_norm", lambda x: x)
        params = module.init(jax.random.key(0), jnp.zeros((1, side, side, 1)))
        params = jax.tree.map(jnp.ones_like, params)

        def logit(x):
            out = module.apply(params, x)
            return out[0, out.shape[1] // 2, out.shape[2] // 2, 0]

        reached = np.flatnonzero(np.abs(jax.grad(logit)(jnp.ones((1, side, side, 1)))[0, ..., 0]).sum(0))
    assert len(reached) == reached[-1] - reached[0] + 1 == width


@pytest.mark.parametrize("k", [3, 4])
def test_transposed_convolution_scatters_the_kernel(k):
    """By its definition: each pixel adds its multiple of the kernel, two pixels on; one pixel is cut at the border."""
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 5, 7, 3)), rng.standard_normal((k, k, 4, 3))
    scattered = np.zeros((2, 12, 16, 4))
    for i, j in np.ndindex(5, 7):
        scattered[:, 2 * i : 2 * i + k, 2 * j : 2 * j + k] += np.einsum("nb,klab->nkla", x[:, i, j], kernel)
    args = [jnp.asarray(y, jnp.float32) for y in (x, kernel)]
    np.testing.assert_allclose(blocks.transposed_conv(*args), scattered[:, 1:11, 1:15], atol=1e-5)
    jax.test_util.check_grads(blocks.transposed_conv, args, 2, ["rev"], atol=0.01, rtol=0.01)


def reference_pool(size, steps, batch, seed):
    """The rule of the reference's util/image_pool.py on numbered images: [(returned, offered)] of every image."""
    rng = np.random.default_rng(seed)
    pool, seen = [], []
    for number in range(steps * batch):
        if len(pool) < size:
            pool.append(number)
            seen.append(number)
        elif rng.random() > 0.5:
            place = rng.integers(size)
            seen.append(pool[place])
            pool[place] = number
        else:
            seen.append(number)
    return np.array(seen)


def test_pool_returns_what_the_reference_returns():
    size, steps, batch = 10, 4000, 3

    @jax.jit
    def run_pool(rng):
        def step(pool, i):
            offered = (i * batch + jnp.arange(batch, dtype=jnp.float32)).reshape(batch, 1, 1, 1)
            pool, returned = pool.query(jax.random.fold_in(rng, i), offered)
            return pool, returned.reshape(batch)

        return jax.lax.scan(step, cyclegan.ImagePool.empty(size, (1, 1, 1)), jnp.arange(steps))

    pool, seen = run_pool(jax.random.key(0))
    seen = np.asarray(seen).ravel().astype(int)
    assert int(pool.count) == size
    np.testing.assert_array_equal(seen[:size], np.arange(size))  # the first fill it
    offered = np.arange(steps * batch)
    theirs = reference_pool(size, steps, batch, 0)
    for ours, expected in ((seen, theirs),):
        fresh = (ours == offered)[size:].mean(), (expected == offered)[size:].mean()
        age = (offered - ours)[size:].mean(), (offered - expected)[size:].mean()
        assert abs(fresh[0] - 0.5) < 0.02 and abs(fresh[1] - 0.5) < 0.02
        # A stored image is swapped with probability 1 / (2 size): half the images are older by 2 size on average.
        assert abs(age[0] - size) < 0.06 * size and abs(age[1] - size) < 0.06 * size
    returned, times = np.unique(seen, return_counts=True)
    stored = set(np.asarray(pool.images).ravel().astype(int))
    # Nothing is lost, and only those that filled the pool, which were returned and stored, come twice.
    assert set(returned) | stored == set(offered) and times[returned >= size].max() == 1


def build(shape=(16, 16, 1), **changes):
    config = recipe.get_config("smoke")
    lambdas = {"cyclegan.lambda_a": 7.0, "cyclegan.lambda_b": 13.0}  # so that one in the other's place is seen
    config.update_from_flattened_dict({"network.channels": 4, "discriminator.channels": 4} | lambdas | changes)
    return run.build_algorithm(config, {name: images.Spec(shape) for name in "ab"})


def batch_of(a, b):
    return {name: {"image": image, "index": jnp.arange(len(image))} for name, image in (("a", a), ("b", b))}


@pytest.fixture(scope="module")
def algorithm():
    return build()


@pytest.mark.recipes
def test_a_step_is_the_reference_update_written_out(algorithm):
    """cycle_gan_model.py: forward; backward_G, the G step; then, on pooled images, backward_D_A, backward_D_B, the D step.

    The pools are full of other images.
    """
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (2, 16, 16, 1), np.uint8) for _ in range(2))
    state = jax.jit(algorithm.init)(jax.random.key(3))
    stored = jnp.asarray(rng.uniform(-1, 1, state.extra["pool"]["a"].images.shape), jnp.float32)
    pools = {name: cyclegan.ImagePool(sign * stored, jnp.int32(len(stored))) for name, sign in (("a", 1), ("b", -1))}
    state = state.replace(extra={"pool": pools})
    new, metrics = jax.jit(algorithm.train_step)(state, batch_of(a, b), jax.random.key(0))
    real_a, real_b = (jnp.asarray(x, jnp.float32) / 127.5 - 1 for x in (a, b))
    g_ab, g_ba, d = algorithm.generators["ab"], algorithm.generators["ba"], algorithm.discriminator

    def fakes(g):
        return g_ab.apply({"params": g["ab"]}, real_a), g_ba.apply({"params": g["ba"]}, real_b)

    def loss_g(g, discriminators):
        fake_b, fake_a = fakes(g)
        idt_a, idt_b = g_ab.apply({"params": g["ab"]}, real_b), g_ba.apply({"params": g["ba"]}, real_a)
        rec_a, rec_b = g_ba.apply({"params": g["ba"]}, fake_b), g_ab.apply({"params": g["ab"]}, fake_a)
        logits_b = d.apply({"params": discriminators["b"]}, fake_b)
        logits_a = d.apply({"params": discriminators["a"]}, fake_a)
        gan = ((logits_b - 1) ** 2).mean() + ((logits_a - 1) ** 2).mean()
        cycle = 7 * jnp.abs(rec_a - real_a).mean() + 13 * jnp.abs(rec_b - real_b).mean()
        identity = 13 * 0.5 * jnp.abs(idt_a - real_b).mean() + 7 * 0.5 * jnp.abs(idt_b - real_a).mean()
        return gan + cycle + identity

    def loss_d(discriminators, fake_b, fake_a):
        total = 0.0
        for name, real, fake in (("b", real_b, fake_b), ("a", real_a, fake_a)):
            on_real, on_fake = (d.apply({"params": discriminators[name]}, x) for x in (real, fake))
            total += (((on_real - 1) ** 2).mean() + (on_fake**2).mean()) * 0.5
        return total

    @functools.partial(jax.jit, static_argnums=0)
    def updated(loss, params, opt_state, *args):
        value, grads = jax.value_and_grad(loss)(params, *args)
        updates, _ = algorithm.training.optimizer.update(grads, opt_state, params)
        return value, optax.apply_updates(params, updates)

    players = state.params["generator"], state.params["discriminator"]
    value, generator = updated(loss_g, players[0], state.opt_state["generator"], players[1])
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    offered = dict(zip(("b", "a"), fakes(players[0])))
    queried = {name: pools[name].query(key, offered[name]) for name, key in zip("ab", jax.random.split(jax.random.key(0)))}
    assert any((queried[name][1] != offered[name]).any() for name in "ab")  # some images come from the pool
    shown = queried["b"][1], queried["a"][1]
    d_value, discriminator = updated(loss_d, players[1], state.opt_state["discriminator"], *shown)
    np.testing.assert_allclose(metrics["discriminator_a"] + metrics["discriminator_b"], d_value, rtol=1e-5)
    # Adam's first step is the rate times the sign of the gradient, and that of a gradient that is zero is noise.
    for ours, theirs in ((new.params["generator"], generator), (new.params["discriminator"], discriminator)):
        differences = jnp.concatenate([jnp.abs(x - y).ravel() for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs))])
        assert jnp.quantile(differences, 0.95) < 1e-6
    assert int(new.step) == 1
    for name in "ab":
        np.testing.assert_allclose(new.extra["pool"][name].images, queried[name][0].images, atol=1e-5)


def test_without_a_pool_there_is_none(algorithm):
    without = build(**{"cyclegan.pool": 0})
    states = [jax.eval_shape(one.init, jax.random.key(0)) for one in (algorithm, without)]
    assert [len(state.extra["pool"]) for state in states] == [2, 0]
    batch = batch_of(*np.zeros((2, 2, 16, 16, 1), np.uint8))
    assert jax.eval_shape(without.train_step, states[1], batch, jax.random.key(0))[0] == states[1]


@pytest.mark.recipes
def test_remat_changes_memory_alone(algorithm):
    state = jax.jit(algorithm.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = batch_of(*(rng.integers(0, 256, (2, 16, 16, 1), np.uint8) for _ in range(2)))
    both = algorithm, build(**{"network.remat": True})
    steps = [jax.jit(one.train_step).lower(state, batch, jax.random.key(0)).compile() for one in both]
    plain, saving = (step(state, batch, jax.random.key(0))[1] for step in steps)
    for name in plain:
        np.testing.assert_allclose(saving[name], plain[name], rtol=1e-5, err_msg=name)
    needs = [step.memory_analysis().temp_size_in_bytes for step in steps]
    assert needs[1] < 0.8 * needs[0]


def test_eval_and_panel_agree_on_the_translations(algorithm):
    rng = np.random.default_rng(1)
    batch = batch_of(*(rng.integers(0, 256, (3, 16, 16, 1), np.uint8) for _ in range(2)))
    state = jax.jit(algorithm.init)(jax.random.key(0))
    panel = jax.jit(algorithm.panel)(state, batch, jax.random.key(0))
    metrics = jax.jit(algorithm.eval_step)(state, batch, jax.random.key(0))
    assert panel.shape == (3, len(algorithm.columns), 16, 16, 1) and len(algorithm.columns) == 8
    column = dict(zip(algorithm.columns, jnp.moveaxis(panel, 1, 0)))
    np.testing.assert_allclose(
        metrics["cycle_a"], 0.5 * jnp.abs(column["G_ba(G_ab(a))"] - column["a"]).mean((1, 2, 3)), rtol=1e-4
    )
    np.testing.assert_allclose(metrics["l1_ba"], 0.5 * jnp.abs(column["G_ba(b)"] - column["a"]).mean((1, 2, 3)), rtol=1e-4)
    translated = algorithm.translate(state, "ab", images.to_float(batch["a"]["image"]))
    np.testing.assert_allclose(column["G_ab(a)"], translated, atol=1e-5)


def test_grey_and_colour_go_together_without_identity():
    with pytest.raises(errors.UserError, match="cyclegan.identity=0"):
        config = recipe.get_config("smoke")
        run.build_algorithm(config, {"a": images.Spec((16, 16, 1)), "b": images.Spec((16, 16, 3))})
    config.cyclegan.identity = 0.0
    config.network.channels = 4
    algorithm = run.build_algorithm(config, {"a": images.Spec((16, 16, 1)), "b": images.Spec((16, 16, 3))})
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    batch = batch_of(np.zeros((2, 16, 16, 1), np.uint8), np.zeros((2, 16, 16, 3), np.uint8))
    assert jax.eval_shape(algorithm.train_step, state, batch, jax.random.key(0))[0] == state
    assert jax.eval_shape(algorithm.panel, state, batch, jax.random.key(0)).shape == (2, 6, 16, 16, 3)


@pytest.mark.parametrize(
    ("shape_a", "shape_b", "changes", "words"),
    [
        ((18, 16, 1), (18, 16, 1), {}, "multiple of 4"),
        ((16, 16, 1), (32, 32, 1), {}, "config.data.image_size"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(shape_a, shape_b, changes, words):
    config = recipe.get_config("smoke")
    config.update_from_flattened_dict(changes)
    with pytest.raises(errors.UserError, match=words):
        run.build_algorithm(config, {"a": images.Spec(shape_a), "b": images.Spec(shape_b)})


def test_a_request_for_samples_is_refused(algorithm):
    with pytest.raises(errors.UserError, match="experiments.edit translate"):
        latents.check_draws(algorithm)


def squares(rng, n):
    """(n, 16, 16, 1) uint8: four shaded squares on black."""
    out = np.zeros((n, 16, 16, 1), np.uint8)
    for image in out:
        for y, x in rng.integers(0, 11, (4, 2)):
            shaded = np.linspace(40, 255, 6).astype(np.uint8)[:, None, None]
            image[y : y + 6, x : x + 6] = np.maximum(image[y : y + 6, x : x + 6], shaded)
    return out


@pytest.mark.recipes
def test_an_affine_map_is_found_in_both_directions():
    """b = 60 + 0.6 a, from unpaired images; then measured on pairs, beside no change at all and the best constant image."""
    changes = {"network.channels": 8, "discriminator.layers": 1, "discriminator.channels": 16, "cyclegan.identity": 0.1}
    algorithm = build(**changes, **{"optimizer.lr": 2e-3, "duration": "300 steps", "optimizer.hold": "200 steps"})
    rng = np.random.default_rng(0)

    def affine(a):
        return (60 + 0.6 * a).astype(np.uint8)

    # Elsewhere the tests wait for the compiler, here for what it compiled.
    step = jax.jit(algorithm.train_step, donate_argnums=0, compiler_options={"xla_backend_optimization_level": 3})
    state = jax.jit(algorithm.init)(jax.random.key(0))
    for i in range(300):
        state, _ = step(state, batch_of(squares(rng, 8), affine(squares(rng, 8))), jax.random.key(i))
    a = squares(rng, 16)
    b = affine(a)
    scores = jax.jit(algorithm.eval_step)(state, batch_of(a, b), jax.random.key(0))
    unchanged = np.abs(a / 255 - b / 255).mean()
    for direction, truth in (("ab", b), ("ba", a)):
        constant = np.abs(truth - np.median(truth, 0)).mean() / 255
        assert scores[f"l1_{direction}"].mean() < 0.6 * min(unchanged, constant)
