"""VAEs against closed forms: probabilistic principal components, Gaussian algebra, and what a bound must be."""

import dataclasses
import functools
import math

import chex
from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special
from scipy import stats

from imagegen_jax import config as config_lib
from imagegen_jax import distributions
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import rng
from imagegen_jax.generation import requests
from imagegen_jax.networks import blocks
from imagegen_jax.networks import ladder
from imagegen_jax.training import run

SHAPE = (4, 4, 1)
WIDTH = 2 / 255


@functools.cache
def build(family="vae", shape=SHAPE, classes=0, **changes):
    """The algorithm of a recipe that compiles fast; `changes` are keys with '.' written '__'."""
    config = config_lib.default("vae", network=ladder.Config()) if family == "hvae" else config_lib.default(family)
    config.network.widths = (4, 4)
    config.network.groups = 2
    if family == "hvae":
        config.network.latents = (1, 2, 3)
    else:
        config.network.name = "dense"
        config.network.latent = 3
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    config_lib.check(config)
    return run.build_algorithm(config, images.Spec(shape, images.unnamed(classes)))


def retrained(algorithm, **changes):
    return dataclasses.replace(algorithm, training=dataclasses.replace(algorithm.training, **changes))


def told(batch):
    return batch["condition"]


@functools.cache
def compiled(algorithm, method):
    """A method of an algorithm under jax.jit, the same for all tests."""
    return jax.jit(getattr(algorithm, method))


def random_state(algorithm, seed=0, size=0.3):
    """The first state with every parameter moved, so that priors, posteriors and labels all matter."""
    state = compiled(algorithm, "init")(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: np.asarray(x + size * rng.standard_normal(x.shape), np.float32), state.params)
    return state.replace(params=params)


def random_batch(n, shape=SHAPE, classes=1, seed=0):
    drawn = np.random.default_rng(seed)
    return {
        "image": drawn.integers(0, 256, (n, *shape), np.uint8),
        "condition": {"label": (np.arange(n) % classes).astype(np.int32)},
        "index": np.arange(10, 10 + n, dtype=np.int32),
    }


def rows(batch, chosen):
    return jax.tree.map(lambda value: value[chosen], batch)


LEVELS = pytest.mark.parametrize("family", ["vae", "hvae"])
KEY = jax.random.key(3)

# --------------------------------------------------------------- a linear VAE is probabilistic PCA (Tipping & Bishop 1999)

SIDE, LATENT, NOISE = 4, 3, 0.05
PIXELS = SIDE * SIDE


def low_rank_images(n):
    """(n, 4, 4, 1) uint8 of a Gaussian with three strong directions; a level is an eighth of the noise's deviation."""
    drawn = np.random.default_rng(0)
    basis, _ = np.linalg.qr(drawn.normal(size=(PIXELS, LATENT)))
    mean = drawn.uniform(-0.2, 0.2, PIXELS)
    z = drawn.normal(size=(n, LATENT)) * (0.4, 0.3, 0.2)
    x = mean + z @ basis.T + NOISE * drawn.normal(size=(n, PIXELS))
    assert np.abs(x).max() < 1
    return np.asarray(images.to_uint8(x)).reshape(n, SIDE, SIDE, 1)


def principal_components(image):
    """(mean over images of log p at the optimum of probabilistic PCA, in nats; its sigma^2): equations 4, 7 and 8."""
    x = np.asarray(images.to_float(image), np.float64).reshape(len(image), -1)
    covariance = np.cov(x.T, bias=True) + WIDTH**2 / 12 * np.eye(PIXELS)  # that of uniform noise over a value
    eigenvalues = np.linalg.eigvalsh(covariance)[::-1]
    rest = eigenvalues[LATENT:].mean()
    log_det = np.log(eigenvalues[:LATENT]).sum() + (PIXELS - LATENT) * np.log(rest)
    greatest = -0.5 * (PIXELS * np.log(2 * np.pi) + log_det + PIXELS) + PIXELS * np.log(WIDTH)
    return greatest, rest


def decoder_of(state):
    """((latent, pixels) matrix, sigma) of a linear VAE."""
    params = jax.device_get(state.params["vae"])
    kernel = params["network"]["decoder"]["Dense_0"]["kernel"]
    return kernel.astype(np.float64), float(np.exp(params["likelihood"]["log_scale"]))


def log_likelihood(algorithm, state, batch, rng):
    """(n,) log p of what is observed of each image, in closed form: a Gaussian of covariance W W^T + sigma^2 I."""
    decoder, sigma = decoder_of(state)
    covariance = decoder.T @ decoder + sigma**2 * np.eye(PIXELS)
    mean = state.params["vae"]["network"]["decoder"]["Dense_0"]["bias"]
    x, _ = algorithm._observed(batch, rng, 0)
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    return stats.multivariate_normal.logpdf(x, mean, covariance) + PIXELS * np.log(WIDTH)


@pytest.fixture(scope="module")
def linear():
    """(algorithm, trained state, batch of all its images)."""
    steps = 3000
    algorithm = build(
        shape=(SIDE, SIDE, 1),
        network__name="linear",
        likelihood__name="gaussian",
        likelihood__scale="shared",
        optimizer__lr=3e-2,
        optimizer__schedule="cosine",
        optimizer__clip_norm=0.0,
        duration=f"{steps} steps",
    )
    image = low_rank_images(1024)
    batch = {
        "image": image,
        "condition": {"label": np.zeros(len(image), np.int32)},
        "index": np.arange(len(image), dtype=np.int32),
    }
    everything = jax.tree.map(jnp.asarray, batch)

    def step(state, i):
        key = jax.random.fold_in(jax.random.key(1), i)
        chosen = jax.random.randint(key, (128,), 0, len(image))
        return algorithm.train_step(state, rows(everything, chosen), key)[0], None

    state = jax.jit(lambda rng: jax.lax.scan(step, algorithm.init(rng), jnp.arange(steps))[0])(jax.random.key(0))
    return algorithm, state, batch


def test_linear_vae_reaches_probabilistic_pca(linear):
    """Within 0.2 %; without the weakest of the three directions it would be 2 %."""
    algorithm, state, batch = linear
    elbo = -compiled(algorithm, "eval_step")(state, batch, KEY)["loss"].mean()
    exact = log_likelihood(algorithm, state, batch, KEY).mean()
    greatest, variance = principal_components(batch["image"])
    assert exact - 0.1 < elbo < exact + 0.02  # one sample of z for each image has an error of its own
    assert greatest - 0.1 < exact < greatest + 0.02  # and so have the images' dequantising noise
    assert decoder_of(state)[1] ** 2 == pytest.approx(variance, rel=0.05)


def test_importance_weighted_bound_rises_to_the_log_likelihood(linear):
    """Burda et al. 2016, theorem 1. The posterior, exact by now, is moved, so that there is something to rise to."""
    algorithm, state, batch = linear
    params = jax.device_get(state.params["vae"])
    moved = params["network"]["posterior"]["bias"] + np.repeat(np.float32([0.15, 0.3]), LATENT)  # means, log deviations
    params["network"]["posterior"]["bias"] = moved
    state = state.replace(params={"vae": params})
    batch = rows(batch, slice(256))
    samples = 256
    draw = jax.jit(lambda sample: algorithm.log_importance_weights(state, batch, KEY, sample))
    log_weights = np.asarray(jax.lax.map(draw, jnp.arange(samples)), np.float64)  # (samples, images)
    exact = log_likelihood(algorithm, state, batch, KEY)
    gaps = []
    for k in (1, 4, 16, 64, 256):
        bound = special.logsumexp(log_weights.reshape(samples // k, k, -1), 1) - math.log(k)
        gaps.append((exact - bound.mean(0)).mean())
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 1 and -0.005 < gaps[-1] < 0.05
    rngs = jax.random.split(KEY, 64)
    elbo = -jax.jit(jax.vmap(lambda rng: algorithm.eval_step(state, batch, rng)["loss"]))(rngs).mean()
    assert elbo == pytest.approx(log_weights.mean(), abs=0.1)


# ------------------------------------------------------------------------------------------------------------- the objective


@functools.cache
def gradient_of(family, accumulate=1):
    """(state, batch, beta, free_bits, warmup) -> (the gradient of one step, its metrics)."""
    algorithm = retrained(build(family), optimizer=optax.sgd(1.0), accumulate=accumulate)

    def step(state, batch, **weights):
        (name,) = state.params
        state = state.replace(opt_state={name: algorithm.training.optimizer.init(state.params[name])})
        after, metrics = dataclasses.replace(algorithm, **weights).train_step(state, batch, KEY)
        return jax.tree.map(jnp.subtract, state.params[name], after.params[name]), metrics

    compiled_step = jax.jit(step, static_argnames="warmup")
    return lambda *args, **weights: jax.device_get(compiled_step(*args, **weights))


@LEVELS
def test_free_bits_cost_nothing(family):
    """With none free, the loss is distortion + KL; with all, the KL has no gradient, as if beta were 0."""
    step, algorithm = gradient_of(family), build(family)
    state, batch = random_state(algorithm), random_batch(6)
    priced, metrics = step(state, batch, beta=1.0, free_bits=0.0, warmup=1)
    assert metrics["loss"] == pytest.approx(metrics["distortion"] + metrics["kl"], rel=1e-5)
    bits = math.log(2) * math.prod(SHAPE)
    assert metrics["bits_per_dim"] == pytest.approx(metrics["loss"] / bits, rel=1e-5)
    free, of_free = step(state, batch, beta=1.0, free_bits=1e3, warmup=1)
    without, of_without = step(state, batch, beta=0.0, free_bits=0.0, warmup=1)
    chex.assert_trees_all_close(free, without, rtol=1e-5)
    assert max(jax.tree.leaves(jax.tree.map(lambda x, y: np.abs(x - y).max(), priced, free))) > 0.1
    channels = sum(shape[-1] for shape in algorithm.network.latent_shapes)
    assert of_free["loss"] == pytest.approx(of_without["loss"] + 1e3 * channels, rel=1e-5)
    if family == "hvae":
        assert sum(metrics[f"kl_level_{i}"] for i in range(3)) == pytest.approx(metrics["kl"], rel=1e-5)
    for name in ("kl", "distortion", "bits_per_dim"):
        assert of_free[name] == pytest.approx(metrics[name]) and of_without[name] == pytest.approx(metrics[name])


def test_free_bits_are_those_of_a_channel():
    step, state, batch = gradient_of("vae"), random_state(build()), random_batch(6)
    _, metrics = step(state, batch, beta=1.0, free_bits=0.0, warmup=1)
    kl = np.array([metrics[f"kl_dimension/{i:02d}"] for i in range(3)])
    assert kl.sum() == pytest.approx(metrics["kl"], rel=1e-5)
    limit = np.sort(kl)[:2].mean()
    _, metrics = step(state, batch, beta=0.5, free_bits=limit, warmup=1)
    assert metrics["loss"] == pytest.approx(metrics["distortion"] + 0.5 * np.maximum(kl, limit).sum(), rel=1e-5)


def test_beta_rises_to_its_value():
    step, state, batch = gradient_of("vae"), random_state(build()), random_batch(6)
    seen = []
    for number in (0, 1, 3, 4, 100):
        _, metrics = step(state.replace(step=jnp.int32(number)), batch, beta=0.8, free_bits=0.0, warmup=4)
        seen.append(float(metrics["beta"]))
        assert metrics["loss"] == pytest.approx(metrics["distortion"] + metrics["beta"] * metrics["kl"], rel=1e-5)
    assert seen == pytest.approx([0.2, 0.4, 0.8, 0.8, 0.8])


@pytest.mark.parametrize("family", ["vae", "autoencoder"])
def test_gradients_do_not_depend_on_the_pieces(family):
    state, batch = random_state(build(family)), random_batch(6)
    weights = {} if family == "autoencoder" else dict(beta=1.0, free_bits=0.0, warmup=1)
    (whole, metrics), (pieces, of_pieces) = (gradient_of(family, k)(state, batch, **weights) for k in (1, 2))
    largest = max(np.abs(x).max() for x in jax.tree.leaves(whole))
    chex.assert_trees_all_close(pieces, whole, rtol=1e-4, atol=1e-6 * largest)
    assert of_pieces["loss"] == pytest.approx(metrics["loss"], rel=1e-5)
    assert of_pieces.get("active_units") == metrics.get("active_units")


@LEVELS
def test_elbo_is_the_mean_log_weight(family):
    """log p(x|z) + log p(z) - log q(z|x) in expectation: the KL terms of eval_step are those of the same samples' densities."""
    algorithm = build(family)
    state, batch = random_state(algorithm), random_batch(4)

    @jax.jit
    def excess(rng):
        return algorithm.log_importance_weights(state, batch, rng, 0) + algorithm.eval_step(state, batch, rng)["loss"]

    samples = 1000
    drawn = np.asarray(jax.lax.map(excess, jax.random.split(KEY, samples)))
    assert drawn.std(0).min() > 0.1
    assert (np.abs(drawn.mean(0)) < 4 * drawn.std(0) / math.sqrt(samples)).all()


@LEVELS
def test_metrics_of_an_image_are_parts_of_one_bound(family):
    algorithm = build(family)
    state, batch = random_state(algorithm), random_batch(5)
    metrics = compiled(algorithm, "eval_step")(state, batch, KEY)
    np.testing.assert_allclose(metrics["loss"], metrics["distortion"] + metrics["kl"], rtol=1e-5)
    np.testing.assert_allclose(metrics["bits_per_dim"], metrics["loss"] / math.log(2) / 16, rtol=1e-5)
    levels = [value for name, value in metrics.items() if name.startswith("kl_level_")]
    assert len(levels) == (3 if family == "hvae" else 0)
    if levels:
        assert np.min(levels) > 0.01
        np.testing.assert_allclose(sum(levels), metrics["kl"], rtol=1e-5)


# -------------------------------------------------------------------------------------- what depends on what, and what does not


@pytest.mark.parametrize(("family", "likelihood"), [("vae", "gaussian"), ("hvae", "logistic")])
def test_an_image_is_measured_by_itself(family, likelihood):
    """Whatever the order and the size of its batch: by its index, also where pixels or noise are drawn."""
    algorithm = build(family, likelihood__name=likelihood)
    state, batch = random_state(algorithm), random_batch(6)
    batch["image"][1] = batch["image"][0]

    @jax.jit
    def measure(batch):
        codes = algorithm.encode(state, batch, KEY)
        return algorithm.eval_step(state, batch, KEY), codes, algorithm.log_importance_weights(state, batch, KEY, 3)

    whole, chosen = measure(batch), np.array([5, 2, 0])
    part = measure(rows(batch, chosen))
    chex.assert_trees_all_close(part, jax.tree.map(lambda x: x[chosen], whole), rtol=1e-4, atol=1e-5)
    metrics, codes, log_weights = whole
    for drawn in (metrics["loss"], codes, log_weights):
        assert np.all(drawn[0] != drawn[1])


@LEVELS
def test_image_depends_on_its_index_alone(family):
    algorithm = build(family)
    state = random_state(algorithm)
    draw = jax.jit(lambda index: algorithm.sample(state, rng.per_index(KEY, index), {}, algorithm.Request()))
    whole = draw(jnp.arange(6))
    assert whole.shape == (6, *SHAPE) and len({image.tobytes() for image in np.asarray(whole)}) == 6
    part = draw(jnp.array([4, 1]))
    np.testing.assert_allclose(part, whole[jnp.array([4, 1])], atol=1e-5)


@LEVELS
def test_temperature(family):
    algorithm = build(family)
    state, levels = random_state(algorithm), len(algorithm.network.latent_shapes)

    @jax.jit
    def drawn(key, temperatures):  # traced, though a request holds numbers: one program for all
        return algorithm.sample(state, rng.per_index(key, jnp.arange(3)), {}, algorithm.Request(temperatures))

    def draw(*temperatures, seed=0):
        algorithm.check_request(algorithm.Request(temperatures or None))
        return np.asarray(drawn(jax.random.key(seed), temperatures or None))

    cold = draw(*[0.0] * levels)
    np.testing.assert_array_equal(cold, draw(*[0.0] * levels, seed=1))
    np.testing.assert_allclose(cold, np.broadcast_to(cold[:1], cold.shape), atol=1e-6)
    np.testing.assert_allclose(draw(*[1.0] * levels), draw(), atol=1e-6)
    np.testing.assert_allclose(draw(*[0.7] * levels), draw(0.7), atol=1e-6)
    if family == "vae":
        means = compiled(algorithm, "decode")(state, np.zeros((3, 3), np.float32), {})
    else:

        @jax.jit
        def along_the_means(params):
            _, output = algorithm.network.apply({"params": params}, None, None, 3, lambda level, prior, posterior: prior.mean)
            return algorithm.likelihood.mean(output)

        means = along_the_means(state.params["vae"]["network"])
        only_top, only_finest = draw(1.0, 0.0, 0.0), draw(0.0, 0.0, 1.0)
        assert np.abs(only_top - cold).max() > 0.01 and np.abs(only_finest - cold).max() > 0.01
    np.testing.assert_allclose(cold, means, atol=1e-5)


@LEVELS
def test_codes_make_the_reconstruction(family):
    """Codes of all levels in one row; what they decode to is what the way through the image comes to."""
    algorithm = build(family, classes=3, vae__conditional=True)
    state, batch = random_state(algorithm), random_batch(4, classes=3)
    codes = compiled(algorithm, "encode")(state, batch)
    assert codes.shape == (4, sum(math.prod(shape) for shape in algorithm.network.latent_shapes))
    x = algorithm.likelihood.observe(batch["image"], 0.5)
    noise = [jnp.zeros((4, *shape)) for shape in algorithm.network.latent_shapes]
    variables = {"params": state.params["vae"]["network"]}
    infer = jax.jit(functools.partial(algorithm.network.apply, method="infer"))
    _, output = infer(variables, x, told(batch), noise)
    decoded = compiled(algorithm, "decode")(state, codes, told(batch))
    np.testing.assert_allclose(decoded, algorithm.likelihood.mean(output), atol=1e-5)
    panel = compiled(algorithm, "panel")(state, batch, KEY)
    assert panel.shape == (4, len(algorithm.columns), *SHAPE)
    np.testing.assert_allclose(panel[:, 0], images.to_float(batch["image"]), atol=1e-6)
    np.testing.assert_allclose(panel[:, 1], decoded, atol=1e-5)


@LEVELS
def test_labels_change_what_is_made_and_what_is_inferred(family):
    algorithm = build(family, classes=3, vae__conditional=True)
    assert algorithm.classes == 3
    state, batch = random_state(algorithm), random_batch(3, classes=3)
    other = batch | {"condition": {"label": (told(batch)["label"] + 1) % 3}}
    encode, evaluate, decode = (compiled(algorithm, method) for method in ("encode", "eval_step", "decode"))
    codes = encode(state, batch)
    assert (np.abs(codes - encode(state, other)) > 1e-3).any(-1).all()
    assert (np.abs(evaluate(state, batch, KEY)["distortion"] - evaluate(state, other, KEY)["distortion"]) > 1e-3).all()
    assert np.abs(decode(state, codes, told(batch)) - decode(state, codes, told(other))).max() > 1e-2


def test_conditional_prior_has_a_mean_and_a_deviation_for_each_label():
    algorithm = build(classes=3, vae__conditional=True, vae__conditional_prior=True)
    assert not np.any(
        compiled(algorithm, "init")(KEY).params["vae"]["network"]["prior"]["kernel"]
    )  # first, the standard normal
    state, batch = random_state(algorithm), random_batch(3, classes=3)
    means, log_stds = np.split(state.params["vae"]["network"]["prior"]["kernel"], 2, -1)
    label = jnp.arange(3)
    drawn = algorithm.sample(state, jax.random.split(KEY, 3), {"label": label}, algorithm.Request(temperature=(0.0,)))
    np.testing.assert_allclose(drawn, compiled(algorithm, "decode")(state, means, {"label": label}), atol=1e-5)

    codes = compiled(algorithm, "encode")(state, batch)
    x = images.to_float(batch["image"])
    _, posterior, _ = algorithm.network.apply(
        {"params": state.params["vae"]["network"]}, x, {"label": label}, [jnp.zeros((3, 3))], method="infer"
    )[0][0]
    np.testing.assert_allclose(posterior.mean, codes, rtol=1e-5)
    wanted = posterior.kl(distributions.Gaussian(means, log_stds)).sum(-1)
    np.testing.assert_allclose(compiled(algorithm, "eval_step")(state, batch, KEY)["kl"], wanted, rtol=1e-5)


def test_first_ladder_infers_nothing():
    """Prior and posterior begin as the standard normal distribution, at all levels."""
    algorithm = build("hvae")
    metrics = compiled(algorithm, "eval_step")(compiled(algorithm, "init")(KEY), random_batch(3), KEY)
    np.testing.assert_allclose(metrics["kl"], 0, atol=1e-6)


@LEVELS
def test_odd_sides_and_absent_levels(family):
    changes = dict(network__latents=(2, 0, 0)) if family == "hvae" else dict(network__name="conv")
    algorithm = build(family, shape=(7, 5, 3), **changes)
    state, batch = random_state(algorithm), random_batch(2, shape=(7, 5, 3))
    assert algorithm.network.latent_shapes == (((7, 5, 2),) if family == "hvae" else ((3,),))
    loss = compiled(algorithm, "eval_step")(state, batch, KEY)["loss"]
    assert loss.shape == (2,) and np.isfinite(loss).all()


# -------------------------------------------------------------------------------------------------------- pythae's networks


@pytest.mark.parametrize("side", [2, 3, 7, 8])
@pytest.mark.parametrize("size", [3, 4])
def test_conv_of_small_maps_is_the_convolution(size, side):
    drawn = np.random.default_rng(0)
    x, kernel = (drawn.normal(size=shape).astype(np.float32) for shape in ((2, side, side + 1, 3), (size, size, 3, 5)))

    def run(conv):
        made, slopes = jax.vjp(lambda x, kernel: conv(x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=layout), x, kernel)
        return made, slopes(jnp.cos(made))

    layout = ("NHWC", "HWIO", "NHWC")
    chex.assert_trees_all_close(run(blocks.conv_of_small_maps), run(jax.lax.conv_general_dilated), atol=1e-4)


@pytest.mark.parametrize("family", ["vae", "autoencoder"])
def test_batch_statistics_move_in_training_and_are_used_afterwards(family):
    algorithm = build(family, shape=(28, 28, 1), network__name="pythae", batch_size=4)
    algorithm = retrained(algorithm, optimizer=optax.sgd(1e-6), ema_decay=lambda step: 0.99)
    batch = random_batch(4, shape=(28, 28, 1))
    first = compiled(algorithm, "init")(KEY)
    state, metrics = compiled(algorithm, "train_step")(first, batch, KEY)
    assert np.isfinite(metrics["loss"])
    before, after = (s.extra[f"{family}_stats"] for s in (first, state))
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.any(old != new)
    # With the averages go statistics that move a tenth as far to those of the batch, since theirs is a hundredth, not a tenth.
    averaged = jax.tree.map(lambda old, new: old + 0.1 * (new - old), before, after)
    chex.assert_trees_all_close(state.with_ema().extra[f"{family}_stats"], averaged, rtol=1e-4, atol=1e-6)

    x = images.to_float(batch["image"])
    params = first.params[family]
    conv = params.get("network", params)["encoder"]["Conv_0"]
    made = nn.Conv(128, (4, 4), 2, padding=1).apply({"params": conv}, x)
    moved = after["encoder"]["BatchNorm_0"]
    np.testing.assert_allclose(moved["mean"], 0.1 * made.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * made.var((0, 1, 2)), rtol=1e-3)

    evaluate = compiled(algorithm, "eval_step")
    loss = evaluate(state, batch, KEY)["loss"]
    np.testing.assert_allclose(evaluate(state, rows(batch, slice(1)), KEY)["loss"], loss[:1], rtol=1e-4)  # not the batch's
    assert np.abs(loss - evaluate(state.replace(extra=first.extra), batch, KEY)["loss"]).min() > 1e-5


# -------------------------------------------------------------------------------------------------------------- one-line errors


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("vae", dict(vae__conditional=True), "vae.conditional needs labels"),
        ("vae", dict(vae__conditional_prior=True), "conditional_prior is True: it needs config.vae.conditional"),
        ("vae", dict(network__name="pythae", shape=(32, 32, 1)), "28x28 pixels, and the images are 32x32"),
        ("autoencoder", dict(network__name="pythae", shape=(32, 32, 1)), "28x28 pixels, and the images are 32x32"),
        ("hvae", dict(network__latents=(1, 2)), "network.latents"),
        ("hvae", dict(network__latents=(0, 0, 0)), "network.latents"),
    ],
)
def test_what_cannot_be_is_an_error(family, changes, words):
    with pytest.raises(errors.UserError, match=words):
        build(family, **changes)


@LEVELS
def test_wrong_temperatures_are_an_error(family):
    levels = {"vae": 1, "hvae": 3}[family]
    for temperature in ((1.0, 1.0), (1.0,) * 4):
        with pytest.raises(errors.UserError, match=f"--temperature=.*one number for all levels, or {levels}"):
            build(family).check_request(build(family).Request(temperature))
    with pytest.raises(errors.UserError, match="--temperature=-0.1: each must be at least 0"):
        requests.typed({"temperature": "-0.1"}, build(family), {})
