"""pix2pix against the published size, and its update written out; what its dropout and its sizes are."""

import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

from configs import pix2pix as recipe
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.algorithms import capabilities
from imagegen_jax.networks import cyclegan_nets
from imagegen_jax.training import run


def build(shape=(16, 18, 1), other=None, **changes):
    config = recipe.get_config("smoke")
    small = {"network.channels": 4, "discriminator.channels": 4, "discriminator.layers": 1}
    config.update_from_flattened_dict(small | changes)
    return run.build_algorithm(config, {"a": images.Spec(shape), "b": images.Spec(other or shape)})


@pytest.fixture(scope="module")
def algorithm():
    return build(other=(16, 18, 3))


@pytest.fixture(scope="module")
def state(algorithm):
    return jax.jit(algorithm.init)(jax.random.key(0))


def pair(n=2):
    drawn = np.random.default_rng(0)
    a, b = (drawn.integers(0, 256, (n, 16, 18, channels), np.uint8) for channels in (1, 3))
    return {name: {"image": image, "index": np.arange(n)} for name, image in (("a", a), ("b", b))}


def test_the_generator_has_the_published_size():
    """54.414 M is what the authors' code prints of unet_256 with batch normalisation."""
    module = cyclegan_nets.UNetGenerator(3, affine=True, dropout=0.5)
    out, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), jnp.zeros((1, 256, 256, 3)))
    assert round(sum(leaf.size for leaf in jax.tree.leaves(variables)) / 1e6, 3) == 54.414 and out.shape == (1, 256, 256, 3)
    config = recipe.get_config("facades")
    assert config.network.levels == 8 and config.network.dropout == 0.5 and config.network.affine


@pytest.mark.recipes
def test_a_step_is_the_authors_update_written_out(algorithm, state):
    """pix2pix_model.py: forward; backward_D and the D step; backward_G, by the D of after it, and the G step."""
    batch, key = pair(), jax.random.key(1)
    new, metrics = jax.jit(algorithm.train_step)(state, batch, key)
    real_a, real_b = (jnp.asarray(batch[name]["image"], jnp.float32) / 127.5 - 1 for name in "ab")

    def g(params):
        return algorithm.generator.apply({"params": params}, real_a, train=True, rngs={"dropout": key})

    def cross_entropy(logits, is_real):
        return optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, is_real)).mean()

    def d(params, b):
        return algorithm.discriminator.apply({"params": params}, jnp.concatenate([real_a, b], -1))

    def loss_d(params, fake):
        return (cross_entropy(d(params, fake), 0.0) + cross_entropy(d(params, real_b), 1.0)) * 0.5

    def loss_g(params, discriminator):
        fake = g(params)
        return cross_entropy(d(discriminator, fake), 1.0) + 100 * jnp.abs(fake - real_b).mean()

    def moved(name, grads):
        updates, _ = algorithm.training.optimizer.update(grads, state.opt_state[name], state.params[name])
        return optax.apply_updates(state.params[name], updates)

    @jax.jit
    def written_out(params):
        d_value, d_grads = jax.value_and_grad(loss_d)(params["discriminator"], g(params["generator"]))
        discriminator = moved("discriminator", d_grads)
        value, grads = jax.value_and_grad(loss_g)(params["generator"], discriminator)
        return d_value, value, {"discriminator": discriminator, "generator": moved("generator", grads)}

    d_value, value, params = written_out(state.params)
    np.testing.assert_allclose(metrics["discriminator"], d_value, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    # Adam's first step is the rate times the sign of the gradient, and that of a gradient that is zero is noise.
    for name in ("generator", "discriminator"):
        leaves = zip(jax.tree.leaves(new.params[name]), jax.tree.leaves(params[name]), strict=True)
        apart = jnp.concatenate([jnp.abs(x - y).ravel() for x, y in leaves])
        assert jnp.quantile(apart, 0.9) < 1e-6
    assert int(new.step) == 1


def test_dropout_is_of_training_alone(algorithm, state):
    a = images.to_float(pair()["a"]["image"])
    apply, params = algorithm.generator.apply, {"params": state.params["generator"]}
    drawn = [apply(params, a, train=True, rngs={"dropout": jax.random.key(i)}) for i in (0, 1)]
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-3
    assert isinstance(algorithm, capabilities.Translates) and algorithm.directions == {"ab": ("a", "b")}
    batch = pair()
    panel, metrics = jax.jit(lambda *given: (algorithm.panel(*given), algorithm.eval_step(*given)))(
        state, batch, jax.random.key(0)
    )
    column = dict(zip(algorithm.columns, jnp.moveaxis(panel, 1, 0)))
    np.testing.assert_allclose(column["G(a)"], algorithm.translate(state, "ab", a), atol=1e-5)
    np.testing.assert_allclose(metrics["l1_ab"], 0.5 * jnp.abs(column["G(a)"] - column["b"]).mean((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], 200 * metrics["l1_ab"], rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "other", "changes", "words"),
    [
        ((16, 16, 1), (32, 32, 1), {}, "config.data.image_size"),
        ((16, 16, 1), (16, 16, 1), {"discriminator.layers": 3}, "the discriminator takes no images of .* 24 or more"),
        ((16, 16, 1), (16, 16, 1), {"network.levels": 5}, "config.network.levels is 5: of .* one is left before that"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(shape, other, changes, words):
    with pytest.raises(errors.UserError, match=words) as caught:
        build(shape, other, **changes)
    assert "\n" not in str(caught.value)
