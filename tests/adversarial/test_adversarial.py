"""What keeps a discriminator honest: penalties, spectral normalisation, smoothed labels, augmentation of what it sees."""

import functools

from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from imagegen_jax.adversarial import augmentation
from imagegen_jax.adversarial import losses
from imagegen_jax.adversarial import penalties
from imagegen_jax.adversarial import spectral_norm

SHAPE = (4, 6, 2)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# Of a discriminator <w, x>, whose gradient is w at any image: the penalty and its gradient by w.
OF_A_LINEAR_ONE = {
    "wgan_gp": (lambda w: (np.linalg.norm(w) - 1) ** 2, lambda w: 2 * (1 - 1 / np.linalg.norm(w)) * w),
    "dragan": (lambda w: (np.linalg.norm(w) - 1) ** 2, lambda w: 2 * (1 - 1 / np.linalg.norm(w)) * w),
    "r1": (lambda w: np.sum(w**2) / 2, lambda w: w),
    "r2": (lambda w: np.sum(w**2) / 2, lambda w: w),
}


@functools.partial(jax.jit, static_argnums=0)
def of_a_linear_one(name, w, real, fake):
    """((n,) penalties, gradient of their mean by w)."""

    def penalise(w):
        def discriminator(x):
            return jnp.einsum("nhwc,hwc->n", x, w)

        value = penalties.PENALTIES[name](discriminator, real, fake, jax.random.key(0))
        return value.mean(), value

    (_, value), gradient = jax.value_and_grad(penalise, has_aux=True)(w)
    return value, gradient


def test_every_penalty_is_tested():
    assert OF_A_LINEAR_ONE.keys() == penalties.PENALTIES.keys()


@pytest.mark.parametrize("name", OF_A_LINEAR_ONE)
def test_penalty_of_a_linear_discriminator_is_that_of_its_weights(name):
    real, fake = normal(0, 5, *SHAPE), normal(1, 5, *SHAPE)
    of, gradient_of = OF_A_LINEAR_ONE[name]
    for scale in (0.05, 1.0):  # on either side of a gradient of 1
        w = scale * normal(2, *SHAPE)
        value, gradient = of_a_linear_one(name, w, real, fake)
        np.testing.assert_allclose(value, np.full(5, of(w)), rtol=1e-5)
        np.testing.assert_allclose(gradient, gradient_of(w), rtol=1e-4, atol=1e-6)
    value, gradient = of_a_linear_one(name, np.zeros(SHAPE, np.float32), real, fake)
    np.testing.assert_allclose(value, np.full(5, 1.0 if name in ("wgan_gp", "dragan") else 0.0), atol=1e-5)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("name", "where"), [("r1", 0), ("r2", 1)])
def test_penalty_of_a_curved_discriminator_is_that_at_its_images(name, where):
    """D(x) = sum a x^2 / 2: the gradient is a x, half its square sum a^2 x^2 / 2, and the gradient of that by a is a x^2."""
    at = normal(0, 3, *SHAPE), normal(1, 3, *SHAPE)
    a = normal(2, *SHAPE)

    def penalise(a):
        value = penalties.PENALTIES[name](lambda x: (a * x**2).sum((1, 2, 3)) / 2, *at, jax.random.key(0))
        return value.mean(), value

    (_, value), gradient = jax.jit(jax.value_and_grad(penalise, has_aux=True))(a)
    np.testing.assert_allclose(value, (a**2 * at[where] ** 2).sum((1, 2, 3)) / 2, rtol=1e-5)
    np.testing.assert_allclose(gradient, (a * at[where] ** 2).mean(0), rtol=1e-4, atol=1e-6)


def looked_at(name, real, fake):
    """The images of more than 1 that a penalty of (|grad D| - 1)^2 takes the gradient at: of x_k^2 / 2, the gradient is x_k."""
    numbers = jnp.arange(np.prod(SHAPE))

    def pixel(k):
        def discriminator(x):
            return x.reshape(len(x), -1)[:, k] ** 2 / 2

        return 1 + jnp.sqrt(penalties.PENALTIES[name](discriminator, real, fake, jax.random.key(3)))

    return np.asarray(jax.jit(jax.vmap(pixel))(numbers)).T.reshape(real.shape)


def test_wgan_gp_looks_between_a_real_and_a_generated_image_at_a_place_of_its_own():
    rng = np.random.default_rng(0)
    real = rng.uniform(2, 3, (64, *SHAPE)).astype(np.float32)
    fake = rng.uniform(4, 6, (64, *SHAPE)).astype(np.float32)
    share = (looked_at("wgan_gp", real, fake) - fake) / (real - fake)
    of_image = share.mean((1, 2, 3))
    np.testing.assert_allclose(share, np.broadcast_to(of_image[:, None, None, None], share.shape), atol=1e-5)
    assert of_image.min() > 0 and of_image.max() < 1 and len(np.unique(of_image.round(4))) > 60
    assert abs(of_image.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 64)  # uniform


def test_dragan_looks_beside_a_real_image():
    """Up to half a standard deviation of all of them above it, each pixel by itself, as in the authors' code."""
    real = np.random.default_rng(0).uniform(2, 9, (64, *SHAPE)).astype(np.float32)
    away = (looked_at("dragan", real, np.zeros_like(real)) - real) / (0.5 * real.std())
    assert away.min() > -1e-5 and away.max() < 1
    assert (away.std((1, 2, 3)) > 0.01).sum() > 55
    farthest = away.max((1, 2, 3))  # nearly the image's share
    assert farthest.min() < 0.1 and farthest.max() > 0.9
    assert abs(away.mean() - 0.25) < 4 * np.sqrt(1 / 12 / 64) / 2  # of two uniform ones' product


def network_like():
    """Parameters with kernels of convolutions and dense layers, an embedding, biases and a scalar."""
    shapes = {
        "conv": {"kernel": (3, 3, 4, 8), "bias": (8,)},
        "narrow": {"kernel": (4, 4, 6, 2), "bias": (2,)},
        "dense": {"kernel": (12, 5), "bias": (5,)},
        "embed": {"embedding": (10, 16)},
        "gain": (),
    }
    leaves, treedef = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    return treedef.unflatten([jnp.asarray(normal(i, *shape)) for i, shape in enumerate(leaves)])


MATRICES = ("conv/kernel", "narrow/kernel", "dense/kernel", "embed/embedding")


def leaf(tree, path):
    return functools.reduce(lambda tree, key: tree[key], path.split("/"), tree)


def largest(array):
    """The largest singular value of (inputs, outputs), the last axis being the outputs."""
    array = np.asarray(array, np.float64)
    return np.linalg.svd(array.reshape(-1, array.shape[-1]), compute_uv=False)[0]


start = jax.jit(spectral_norm.start)
once = jax.jit(spectral_norm.normalise)
twice = jax.jit(functools.partial(spectral_norm.normalise, iterations=2))


def brought(params, vectors, iterations):
    """The vectors after so many iterations."""
    for _ in range(iterations):
        _, vectors = once(params, vectors)
    return vectors


def test_a_unit_vector_is_remembered_for_each_matrix_alone():
    vectors = start(jax.random.key(0), network_like())
    assert sorted(vectors) == sorted(MATRICES)
    for path, vector in vectors.items():
        assert vector.shape == leaf(network_like(), path).shape[-1:]
        np.testing.assert_allclose(np.linalg.norm(vector), 1.0, rtol=1e-6)


def test_weights_come_to_be_divided_by_their_largest_singular_value():
    params = network_like()
    vectors = brought(params, start(jax.random.key(0), params), 150)
    normalised, _ = once(params, vectors)
    for path in MATRICES:
        np.testing.assert_allclose(leaf(normalised, path), leaf(params, path) / largest(leaf(params, path)), rtol=1e-3)
    for layer in ("conv", "narrow", "dense"):
        np.testing.assert_array_equal(normalised[layer]["bias"], params[layer]["bias"])
    assert normalised["gain"] == params["gain"]


def test_one_iteration_a_step_follows_weights_that_move_slowly():
    params = network_like()
    # A fifth of other weights is added in all, from vectors that know the first ones.
    other = jax.tree.map(lambda x: jnp.asarray(normal(99, *x.shape)), params)
    vectors = brought(params, start(jax.random.key(0), params), 150)
    before = {path: largest(leaf(params, path)) for path in MATRICES}
    for step in range(1, 51):
        moved = jax.tree.map(lambda x, y, step=step: x + 0.004 * step * y, params, other)
        normalised, vectors = once(moved, vectors)
    for path in MATRICES:
        assert abs(largest(leaf(normalised, path)) - 1) < 1e-3
        assert abs(largest(leaf(moved, path)) / before[path] - 1) > 1e-3  # there was something to follow


def test_two_iterations_at_once_are_one_after_the_other():
    params = network_like()
    vectors = start(jax.random.key(0), params)
    last, expected = once(params, brought(params, vectors, 1))
    normalised, found = twice(params, vectors)
    for ours, theirs in zip(jax.tree.leaves((normalised, found)), jax.tree.leaves((last, expected))):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_gradient_takes_the_vectors_for_constants():
    """Equation 12: of <C, W / sigma>, it is (C - <C, W / sigma> v u^T) / sigma; here far from converged."""
    params = {"kernel": jnp.asarray(normal(0, 3, 3, 2, 5)), "bias": jnp.asarray(normal(1, 5))}
    weights = jax.tree.map(lambda x: normal(7, *x.shape), params)
    vectors = start(jax.random.key(0), params)

    def value(params):
        normalised, _ = spectral_norm.normalise(params, vectors)
        return sum((weights[name] * normalised[name]).sum() for name in params)

    gradients = jax.jit(jax.grad(value))(params)
    matrix, c = (np.asarray(x["kernel"], np.float64).reshape(-1, 5) for x in (params, weights))
    v = matrix @ np.asarray(vectors["kernel"], np.float64)
    v /= np.linalg.norm(v)
    u = v @ matrix
    u /= np.linalg.norm(u)
    sigma = v @ matrix @ u
    assert sigma < 0.999 * largest(matrix)
    expected = (c - (c * matrix).sum() / sigma * np.outer(v, u)) / sigma
    np.testing.assert_allclose(np.reshape(gradients["kernel"], (-1, 5)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(gradients["bias"], weights["bias"])


def test_a_normalised_chain_stretches_nothing():
    """Its Lipschitz constant is at most the product of the layers', each 1, and each layer attains its own."""
    chain = nn.Sequential([nn.Dense(9), nn.relu, nn.Dense(7), nn.relu, nn.Dense(1)])
    shapes = jax.eval_shape(chain.init, jax.random.key(0), jnp.zeros((1, 6)))["params"]
    params = jax.tree.map(lambda x: jnp.asarray(normal(0, *x.shape)), shapes)
    vectors = brought(params, start(jax.random.key(1), params), 60)
    normalised, _ = once(params, vectors)
    for layer in normalised.values():
        assert abs(largest(layer["kernel"]) - 1) < 1e-3
    x, y = normal(0, 500, 6), normal(1, 500, 6)
    apart = np.linalg.norm(x - y, axis=1)

    def stretch(params):
        made = chain.apply({"params": params}, np.concatenate([x, y]))
        return (np.linalg.norm(made[:500] - made[500:], axis=1) / apart).max()

    assert stretch(normalised) < 1.001 < stretch(params)


def test_without_vectors_parameters_are_left_as_they_are():
    params = network_like()
    normalised, vectors = spectral_norm.normalise(params, {})
    assert vectors == {}
    jax.tree.map(np.testing.assert_array_equal, normalised, params)


LOGITS = np.array([-80.0, -3.0, -0.5, 0.0, 0.5, 3.0, 80.0])


def softplus(x):
    return np.logaddexp(0.0, x)


def logistic(x):
    return np.exp(-softplus(-x))


# Amount a and logits r -> the discriminator's loss on real images, and its gradient.
SMOOTHED = {
    "minimax": (lambda a, r: (1 - a) * softplus(-r) + a * softplus(r), lambda a, r: a * logistic(r) - (1 - a) * logistic(-r)),
    "non_saturating": (
        lambda a, r: (1 - a) * softplus(-r) + a * softplus(r),
        lambda a, r: a * logistic(r) - (1 - a) * logistic(-r),
    ),
    "least_squares": (lambda a, r: (r - 1 + a) ** 2, lambda a, r: 2 * (r - 1 + a)),
}


def test_every_loss_with_targets_can_be_smoothed():
    assert set(SMOOTHED) == set(losses.SMOOTHED)


@pytest.mark.parametrize("name", SMOOTHED)
def test_smoothed_labels_change_what_is_asked_on_real_images_alone(name):
    at = jnp.asarray(LOGITS, jnp.float32)
    formula, gradient = SMOOTHED[name]
    for amount in (0.1, 0.3):
        terms = losses.adversarial(name, amount)
        np.testing.assert_allclose(terms.real(at), formula(amount, LOGITS), rtol=1e-5)
        np.testing.assert_allclose(jax.grad(lambda r: terms.real(r).sum())(at), gradient(amount, LOGITS), rtol=1e-5, atol=1e-6)  # noqa: B023
        assert terms.fake is losses.ADVERSARIAL[name].fake and terms.generator is losses.ADVERSARIAL[name].generator


@pytest.mark.parametrize("name", losses.ADVERSARIAL)
def test_labels_that_are_not_smoothed_change_nothing(name):
    assert losses.adversarial(name) == losses.adversarial(name, 0.0) == losses.ADVERSARIAL[name]


EVERYTHING = tuple(augmentation.TRANSFORMATIONS)
NUM, HEIGHT, WIDTH = 256, 16, 24
SHOWN = np.random.default_rng(0).uniform(0.1, 1.0, (NUM, HEIGHT, WIDTH, 3)).astype(np.float32)

augment = jax.jit(augmentation.augment, static_argnums=2)


@functools.cache
def transformed(name):
    """SHOWN, each image by one transformation."""
    return np.asarray(augment(jax.random.key(1), SHOWN, (name,), 1.0))


def test_every_transformation_is_tested():
    assert set(EVERYTHING) == {"brightness", "saturation", "contrast", "translation", "cutout", "flip"}


def test_probability_0_is_the_identity():
    np.testing.assert_array_equal(augment(jax.random.key(0), SHOWN[:8], EVERYTHING, 0.0), SHOWN[:8])


def test_no_transformations_are_the_identity():
    np.testing.assert_array_equal(augmentation.augment(jax.random.key(0), SHOWN[:8], (), 1.0), SHOWN[:8])


def test_probability_is_the_share_of_images_that_are_transformed():
    for probability in (0.25, 0.75, 1.0):
        changed = (augment(jax.random.key(1), SHOWN, ("brightness",), probability) != SHOWN).any((1, 2, 3)).mean()
        assert abs(changed - probability) <= 4 * np.sqrt(probability * (1 - probability) / NUM)


def test_brightness_adds_a_constant():
    added = transformed("brightness") - SHOWN
    of_image = added.mean((1, 2, 3))
    np.testing.assert_allclose(added, np.broadcast_to(of_image[:, None, None, None], added.shape), atol=1e-6)
    assert -0.5 <= of_image.min() < -0.45 and 0.45 < of_image.max() <= 0.5


@pytest.mark.parametrize(("name", "axes", "least", "most"), [("contrast", (1, 2, 3), 0.5, 1.5), ("saturation", (3,), 0.0, 2.0)])
def test_distances_from_a_mean_that_stays_are_stretched(name, axes, least, most):
    """Of the image (contrast), or of each pixel's channels (saturation)."""
    made = transformed(name)
    means = [x.mean(axes, keepdims=True) for x in (SHOWN, made)]
    np.testing.assert_allclose(means[1], means[0], atol=1e-5)
    before, after = SHOWN - means[0], made - means[1]
    factor = (before * after).sum((1, 2, 3)) / (before**2).sum((1, 2, 3))
    np.testing.assert_allclose(after, factor[:, None, None, None] * before, atol=1e-5)
    margin = 0.05 * (most - least)
    assert least <= factor.min() < least + margin and most - margin < factor.max() <= most


def test_translation_moves_by_whole_pixels_and_brings_in_grey():
    def moved(image, down, right):
        image = np.roll(image, (down, right), (0, 1))
        rows, columns = np.arange(HEIGHT)[:, None] - down, np.arange(WIDTH) - right
        stayed = (rows >= 0) & (rows < HEIGHT) & (columns >= 0) & (columns < WIDTH)
        return np.where(stayed[..., None], image, 0.0)

    moves = [(down, right) for down in range(-2, 3) for right in range(-3, 4)]  # an eighth of 16 and of 24
    seen = []
    for before, after in zip(SHOWN, transformed("translation")):
        fitting = [move for move in moves if np.array_equal(moved(before, *move), after)]
        assert len(fitting) == 1
        seen += fitting
    assert set(seen) == set(moves)


def test_cutout_covers_a_square_of_half_the_sides_around_a_pixel():
    made = transformed("cutout")
    covered = (made == 0).all(-1)
    np.testing.assert_array_equal(made, np.where(covered[..., None], 0.0, SHOWN))

    def around(centre, side):
        places = np.arange(side)
        return (places >= centre - side // 4) & (places < centre + side // 4)

    for axis, side in enumerate((HEIGHT, WIDTH)):
        possible = {tuple(around(centre, side)) for centre in range(side)}
        assert {tuple(line) for line in covered.any(2 - axis)} == possible  # nothing else, and each of them
    rows, columns = covered.any(2), covered.any(1)
    np.testing.assert_array_equal(covered, rows[:, :, None] & columns[:, None])


def test_flip_mirrors_half_of_the_images():
    mirrored = np.array([np.array_equal(x[:, ::-1], y) for x, y in zip(SHOWN, transformed("flip"))])
    kept = np.array([np.array_equal(x, y) for x, y in zip(SHOWN, transformed("flip"))])
    assert (mirrored ^ kept).all() and abs(mirrored.mean() - 0.5) < 4 * np.sqrt(0.25 / NUM)


def test_augmentation_is_affine_in_the_image_and_its_gradient_says_how():
    """By the same keys T(x + h) - T(x) is linear in h, so that it is the gradient's product with h, at any distance."""
    x, h, c = SHOWN[:8], normal(1, 8, HEIGHT, WIDTH, 3), normal(2, 8, HEIGHT, WIDTH, 3)

    @jax.jit
    def value_and_gradient(x):
        return jax.value_and_grad(lambda x: (c * augmentation.augment(jax.random.key(2), x, EVERYTHING, 0.8)).sum())(x)

    (start, gradient), (end, _) = value_and_gradient(x), value_and_gradient(x + h)
    np.testing.assert_allclose(end - start, (gradient * h).sum(), rtol=1e-3)
    assert (np.abs(gradient).sum((1, 2, 3)) > 0).all()


def test_an_image_is_transformed_by_its_own_key_whatever_the_others_show():
    first = augment(jax.random.key(0), SHOWN[:8], EVERYTHING, 0.8)
    other = np.concatenate([SHOWN[8:9], SHOWN[1:8]])
    np.testing.assert_array_equal(augment(jax.random.key(0), other, EVERYTHING, 0.8)[1:], first[1:])
    assert (np.asarray(augment(jax.random.key(1), SHOWN[:8], EVERYTHING, 0.8)) != first).any((1, 2, 3)).all()
    same = np.broadcast_to(SHOWN[:1], (8, HEIGHT, WIDTH, 3))
    assert len(np.unique(augment(jax.random.key(0), same, EVERYTHING, 1.0), axis=0)) == 8


def test_probability_follows_how_sure_the_discriminator_is():
    """n images move it by n / span: up where the mean sign of their logits is above the target, down where below."""
    sure, unsure = np.full(10, 3.0), np.array([9.0] * 6 + [-0.1] * 4)  # mean signs of 1 and .2
    at = jnp.float32(0.5)
    np.testing.assert_allclose(augmentation.adapted(at, sure, 0.6, 1000.0), 0.51, rtol=1e-6)
    np.testing.assert_allclose(augmentation.adapted(at, unsure, 0.6, 1000.0), 0.49, rtol=1e-6)
    assert augmentation.adapted(jnp.float32(0.995), sure, 0.6, 1000.0) == 1
    assert augmentation.adapted(jnp.float32(0.005), unsure, 0.6, 1000.0) == 0


def test_probability_settles_where_the_target_is_met():
    """A discriminator whose mean sign is 1 - p meets .6 at p = .4."""

    @jax.jit
    def settled(start):
        def step(p, _):
            logits = jnp.where(jnp.arange(100) < 100 - 50 * p, 1.0, -1.0)
            return augmentation.adapted(p, logits, 0.6, 1e4), None

        return jax.lax.scan(step, start, length=200)[0]

    for start in (0.0, 1.0):
        assert abs(settled(jnp.float32(start)) - 0.4) < 0.05
