"""Diffusions: the loss and a step against their definitions, conditions, guidance, and what is refused."""

from collections.abc import Callable
import itertools
import types

from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

from configs import ddpm_conditional
from imagegen_jax import conditions
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import capabilities
from imagegen_jax.algorithms import diffusion
from imagegen_jax.algorithms import diffusion_config
from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import samplers
from imagegen_jax.diffusion import schedules


class Constant(nn.Module):
    """Predicts one learned number everywhere."""

    @nn.compact
    def __call__(self, x, t, condition=None, train=False):
        return jnp.broadcast_to(self.param("value", nn.initializers.ones, ()), x.shape)


DISCRETE = processes.Discrete(schedules.DISCRETE["cosine"](100))


def constant(process, optimizer=None, **objective):
    """A diffusion with that network."""
    training = base.Training(optimizer=optimizer, ema_decay=lambda step: 0.5)
    return diffusion.Diffusion(
        Constant(), (2, 2, 1), process, diffusion_config.Objective(**objective), samplers.Sampler("ddim", 10), training
    )


def test_loss_is_the_weighted_error_of_the_target():
    """For a network that predicts the constant c, E|c - eps|^2 = c^2 + 1 by hand; v and x0 of a black image likewise."""
    n = 4000
    batch = {"image": np.zeros((n, 2, 2, 1), np.uint8), "condition": {}, "index": np.arange(n, dtype=np.int32)}  # x0 = -1
    for name, expected in (("eps", 2.0), ("x0", 4.0), ("v", None)):
        algorithm = constant(DISCRETE, prediction_type=name)
        state = base.TrainState(0, {"unet": {"value": jnp.ones(())}}, {}, {})
        loss = algorithm.eval_step(state, batch, jax.random.key(0))["loss"]
        assert loss.shape == (n,)
        if name == "v":  # v = a eps + s, so E|1 - v|^2 = (1 - s)^2 + a^2, averaged over t
            s = np.sqrt(1 - DISCRETE.alphas_cumprod)
            expected = np.mean((1 - s) ** 2 + DISCRETE.alphas_cumprod)
        np.testing.assert_allclose(np.mean(loss), expected, rtol=0.05)


class Affine(nn.Module):
    """Predicts w x + v t, and shows what it is given in training."""

    show: Callable

    @nn.compact
    def __call__(self, x, t, condition=None, train=False):
        if train:
            self.make_rng("dropout")
            jax.debug.callback(self.show, x, t)
        w, v = (self.param(name, nn.initializers.ones, ()) for name in "wv")
        return w * x + v * t[:, None, None, None]


ABAR = np.linspace(0.9, 0.1, 8)
SD = 0.5
# {process: (time of what the network is told, its alpha, sigma, and minus its d log SNR / dt times the range of times)}
BY_HAND = {
    "ddpm": (
        lambda told: told,
        lambda t: np.sqrt(ABAR[t.astype(int)]),
        lambda t: np.sqrt(1 - ABAR[t.astype(int)]),
        lambda t: -np.gradient(np.log(ABAR / (1 - ABAR)))[t.astype(int)] * 7,
    ),
    "vp": (
        lambda told: told / 1000,
        lambda t: np.cos(np.pi / 2 * t),
        lambda t: np.sin(np.pi / 2 * t),
        lambda t: 2 * np.pi / np.sin(np.pi * t) * 2 / np.pi * (np.arctan(1000) - np.arctan(0.002)),
    ),
    "ve": (lambda told: np.exp(4 * told), np.ones_like, lambda t: t, lambda t: 2 / t * 79.998),
    "flow": (
        lambda told: told / 1000,
        lambda t: 1 - t,
        lambda t: t,
        lambda t: 2 / (t * (1 - t)) * (1000 / 1001 - 0.002 / 1.002),
    ),
}
PREDICTIONS = {  # {prediction type: it, of x0, eps, alpha and sigma}
    "eps": lambda x0, eps, a, s: eps,
    "x0": lambda x0, eps, a, s: x0,
    "v": lambda x0, eps, a, s: (a * eps - s * x0) / np.sqrt(a**2 + s**2),
    "velocity": lambda x0, eps, a, s: eps - x0,
    # (D - c_skip x) / c_out of Karras et al. 2022 for x = x0 + (s / a) eps
    "edm": lambda x0, eps, a, s: (
        (x0 - SD**2 / ((s / a) ** 2 + SD**2) * (x0 + s / a * eps)) / (s / a * SD / np.sqrt((s / a) ** 2 + SD**2))
    ),
}
ON_X0 = {  # {weighting: it, of the SNR and minus d log SNR / dt times the range, for the error of x0}
    "snr": lambda snr, rate: snr,
    "min_snr": lambda snr, rate: np.minimum(snr, 0.7),
    "edm": lambda snr, rate: snr + 1 / SD**2,
    "velocity": lambda snr, rate: 1 / np.maximum(1 / (1 + np.sqrt(snr)), 0.05) ** 2,
    "sigmoid": lambda snr, rate: snr / (1 + snr * np.exp(-2)) * rate,
}
OF_X0 = {  # {prediction type: |x0 error|^2 / |its error|^2}
    "eps": lambda snr: 1 / snr,
    "x0": np.ones_like,
    "v": lambda snr: 1 / (1 + snr),
    "velocity": lambda snr: 1 / (1 + np.sqrt(snr)) ** 2,
    "edm": lambda snr: 1 / (snr + 1 / SD**2),
}


STEPS = {
    *itertools.product(PREDICTIONS, BY_HAND, ("simple",)),
    *itertools.product(PREDICTIONS, ("ddpm",), ON_X0),
    *(("v", process, "sigmoid") for process in BY_HAND),
}


@pytest.mark.parametrize(("prediction_type", "process", "weighting"), sorted(STEPS))
def test_a_step_is_the_gradient_of_the_weighted_error(prediction_type, process, weighting):
    """By hand for w x_t + v t, with the x_t and t that the network was given, by the negative gradient as the update."""
    n, shown = 64, []
    network = Affine(lambda *given: shown.append(map(np.asarray, given)))
    sampler, sgd = samplers.Sampler("ddim", 4), optax.sgd(1.0)
    objective = diffusion_config.Objective(process, "cosine", prediction_type=prediction_type, weighting=weighting, gamma=0.7)
    of_config = processes.Discrete(ABAR) if process == "ddpm" else processes.PROCESSES[process](objective)
    training = base.Training(optimizer=sgd, ema_decay=lambda step: 0.5 + 0.1 * step)
    algorithm = diffusion.Diffusion(network, (2, 2, 1), of_config, objective, sampler, training)
    image = np.random.default_rng(0).integers(0, 256, (n, 2, 2, 1), np.uint8)
    w, v, average = 0.3, -0.2, {"w": 1.0, "v": 2.0}
    params = {"w": jnp.float32(w), "v": jnp.float32(v)}
    before = base.TrainState(jnp.int32(3), {"unet": params}, {"unet": sgd.init(params)}, {"unet": average})
    after, metrics = algorithm.train_step(before, {"image": image, "condition": {}}, jax.random.key(0))
    jax.effects_barrier()
    ((seen, told),) = shown

    told = told.astype(np.float64)[:, None, None, None]
    time, alpha, sigma, rate = BY_HAND[process]
    t = time(told)
    a, s = alpha(t), sigma(t)
    x_t = seen * np.sqrt(s**2 + SD**2) if process == "ve" else seen
    x0 = image / 127.5 - 1
    eps = (x_t - a * x0) / s
    assert len(np.unique(t)) == (8 if process == "ddpm" else n) and len(np.unique(eps)) == eps.size
    assert abs(eps.mean()) < 4 / np.sqrt(eps.size) and abs(eps.std() - 1) < 4 / np.sqrt(2 * eps.size)

    error = w * seen + v * told - PREDICTIONS[prediction_type](x0, eps, a, s)
    snr = a**2 / s**2
    weight = ON_X0[weighting](snr, rate(t)) * OF_X0[prediction_type](snr) if weighting != "simple" else 1.0
    gradient = {"w": (2 * weight * error * seen).mean(), "v": (2 * weight * error * told).mean()}
    assert float(metrics["loss"]) == pytest.approx((weight * error**2).mean(), rel=2e-3)
    assert float(metrics["grad_norm"]) == pytest.approx(np.hypot(gradient["w"], gradient["v"]), rel=2e-3)
    assert float(metrics["param_norm"]) == pytest.approx(np.hypot(w, v), rel=1e-5)
    assert after.step == 4
    for name, value in (("w", w), ("v", v)):
        moved = value - gradient[name]
        assert float(after.params["unet"][name]) == pytest.approx(moved, rel=2e-3, abs=1e-4)
        assert float(after.ema_params["unet"][name]) == pytest.approx(0.8 * average[name] + 0.2 * moved, rel=2e-3)


def test_learned_uncertainty_is_the_likelihood_of_a_gaussian_of_the_error():
    """Karras et al. 2024, equation 14: error / exp(u) + u, the least for u = log E error, with errors of 4 here."""
    algorithm = constant(DISCRETE, prediction_type="x0", uncertainty=True, optimizer=optax.sgd(0.05))
    batch = {"image": np.zeros((64, 2, 2, 1), np.uint8), "condition": {}}  # x0 = -1, and 1 is predicted
    state, step = algorithm.init(jax.random.key(0)), jax.jit(algorithm.train_step)
    _, metrics = step(state, batch, jax.random.key(0))
    assert float(metrics["loss"]) == pytest.approx(4.0, rel=1e-5)  # u is 0 at first
    held = state.params["unet"]["value"]
    for i in range(200):
        state, metrics = step(state, batch, jax.random.key(i))
        state = state.replace(params={"unet": state.params["unet"] | {"value": held}})
    assert float(metrics["loss"]) == pytest.approx(1 + np.log(4), abs=0.02)


class TwoNumbers(nn.Module):
    """Predicts one learned number everywhere, and another as the variance."""

    @nn.compact
    def __call__(self, x, t, condition=None, train=False):
        mean, spread = (self.param(name, nn.initializers.ones, ()) for name in ("mean", "spread"))
        return jnp.concatenate([jnp.full_like(x, mean), jnp.full_like(x, spread)], -1)


def learned_variance(**objective):
    """A diffusion with that network, whose steps are its gradient."""
    training = base.Training(optimizer=optax.sgd(1.0), ema_decay=lambda step: 0.5)
    aim = diffusion_config.Objective(learn_variance=True, **objective)
    return diffusion.Diffusion(TwoNumbers(), (2, 2, 1), DISCRETE, aim, samplers.Sampler("ddpm", variance="learned"), training)


def test_a_learned_variance_moves_by_the_bound_and_the_prediction_does_not():
    """L_hybrid of Nichol & Dhariwal 2021, section 3.1: the other gradients are those of L_simple alone, bit for bit."""
    batch = {"image": np.random.default_rng(0).integers(0, 256, (64, 2, 2, 1), np.uint8), "condition": {}}
    hybrid, simple = learned_variance(), constant(DISCRETE, optax.sgd(1.0))
    at = {"mean": jnp.float32(0.3), "spread": jnp.float32(0.5)}
    state = hybrid.init(jax.random.key(0)).replace(params={"unet": at})
    after, metrics = jax.jit(hybrid.train_step)(state, batch, jax.random.key(1))
    alone = simple.init(jax.random.key(0)).replace(params={"unet": {"value": at["mean"]}})
    plain, expected = jax.jit(simple.train_step)(alone, batch, jax.random.key(1))
    assert after.params["unet"]["mean"] == plain.params["unet"]["value"]
    assert abs(after.params["unet"]["spread"] - at["spread"]) > 1e-5
    assert float(metrics["loss"]) == pytest.approx(float(expected["loss"]) + 0.001 * float(metrics["vlb"]), rel=1e-5)


def test_the_bound_in_training_is_that_of_all_steps():
    """Its mean over the steps of many images is the bound of each, in bits/dim, but for L_T; limits are of drawing alone."""
    n = 4000
    algorithm = learned_variance(prediction_type="x0")
    batch = {"image": np.full((n, 2, 2, 1), 150, np.uint8), "index": np.arange(n, dtype=np.int32), "condition": {}}
    state = base.TrainState(0, {"unet": {"mean": jnp.float32(0.3), "spread": jnp.float32(0.4)}}, {}, {})
    vlb = np.asarray(jax.jit(algorithm.eval_step)(state, batch, jax.random.key(0))["vlb"], np.float64)
    few, find = jax.tree.map(lambda rows: rows[:3], batch), jax.jit(algorithm.likelihood_costs, static_argnums=(3, 4))
    costs = find(state, few, jax.random.key(0), "bound", 100)
    whole = float(costs["diffusion"][0] + costs["reconstruction"][0]) / 4 / np.log(2)
    assert np.mean(vlb) == pytest.approx(whole, abs=4 * np.std(vlb) / np.sqrt(n))


@pytest.mark.parametrize("kind", ["bound", "ode"])
def test_a_likelihood_depends_on_the_image_and_its_index_alone(kind):
    algorithm = constant(processes.RectifiedFlow(), prediction_type="x0")
    state = base.TrainState(0, {"unet": {"value": jnp.float32(0.1)}}, {}, {})
    image = np.random.default_rng(0).integers(0, 256, (6, 2, 2, 1), np.uint8)
    batch = {"image": image, "index": np.arange(6, dtype=np.int32), "condition": {}}
    find = jax.jit(lambda batch: sum(algorithm.likelihood_costs(state, batch, jax.random.key(0), kind, 2).values()))
    found, others = find(batch), find(jax.tree.map(lambda rows: rows[[3, 1, 0, 5, 5, 4]], batch))
    np.testing.assert_allclose(others, found[np.array([3, 1, 0, 5, 5, 4])], rtol=1e-4)
    assert len(np.unique(found)) == 6


def test_a_variance_is_learned_of_ddpm_alone_and_before_it_is_drawn_with():
    config = ddpm_conditional.get_config("smoke")
    config.sampler.update(name="ddpm", variance="learned")
    with pytest.raises(errors.UserError, match="config.sampler.variance is 'learned': it needs .*learn_variance=True"):
        config_lib.check(config)
    config.diffusion.update(learn_variance=True, times="uniform")
    config_lib.check(config)
    for key, value in (("process", "vp"), ("time_shift", 2.0), ("times", "log_normal")):
        wrong = config.copy_and_resolve_references()
        wrong.diffusion[key] = value
        with pytest.raises(errors.UserError, match="config.diffusion.learn_variance is True: it needs .*process=ddpm"):
            config_lib.check(wrong)
    never = constant(DISCRETE)
    with pytest.raises(errors.UserError, match="--variance=learned: this run has learned none"):
        never.check_request(never.Request(sampler="ddpm", variance="learned"))


def test_optimal_coupling_shortens_the_ways_from_images_to_noise():
    shown = {"independent": [], "optimal": []}
    image = np.random.default_rng(0).integers(0, 256, (64, 2, 2, 1), np.uint8)
    for coupling, seen in shown.items():
        objective = diffusion_config.Objective("flow", prediction_type="velocity", coupling=coupling)
        network = Affine(lambda *given, seen=seen: seen.append(map(np.asarray, given)))
        training = base.Training(optimizer=optax.sgd(0.0), ema_decay=lambda step: 0.0)
        algorithm = diffusion.Diffusion(network, (2, 2, 1), processes.RectifiedFlow(), objective, samplers.Sampler(), training)
        algorithm.train_step(algorithm.init(jax.random.key(0)), {"image": image, "condition": {}}, jax.random.key(0))
    jax.effects_barrier()
    noises = {}
    for coupling, ((x_t, told),) in shown.items():
        t = told[:, None, None, None] / 1000
        noises[coupling] = (x_t - (1 - t) * (image / 127.5 - 1)) / t
    lengths = {coupling: np.square(eps - (image / 127.5 - 1)).sum() for coupling, eps in noises.items()}
    assert lengths["optimal"] < 0.7 * lengths["independent"]
    np.testing.assert_allclose(*(np.sort(eps.sum((1, 2, 3))) for eps in noises.values()), atol=1e-2)  # the same noises


def test_eval_depends_on_the_image_and_its_index_alone():
    algorithm = constant(DISCRETE, prediction_type="v", weighting="min_snr")
    state = base.TrainState(0, {"unet": {"value": jnp.ones(())}}, {}, {})
    image = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 1), np.uint8)
    index = np.arange(8, dtype=np.int32)
    whole = algorithm.eval_step(state, {"image": image, "condition": {}, "index": index}, jax.random.key(0))["loss"]
    part = algorithm.eval_step(state, {"image": image[5:7], "condition": {}, "index": index[5:7]}, jax.random.key(0))["loss"]
    np.testing.assert_allclose(part, whole[5:7], rtol=1e-6)


def test_images_scale_to_the_range_of_the_models():
    np.testing.assert_allclose(images.to_float(jnp.array([0, 255], jnp.uint8)), [-1, 1])


# ------------------------------------------------------------------------------------------------------------------ conditions


class OfLabel(nn.Module):
    """Predicts one number for each label, the last for the null condition."""

    @nn.compact
    def __call__(self, x, t, condition, train=False):
        values = self.param("values", lambda rng: jnp.array([0.2, -0.25, 0.1]))
        return jnp.broadcast_to(values[condition["label"]][:, None, None, None], x.shape)


def of_label(**objective):
    """A conditional diffusion with that network, on two classes; each step of its gradient has the rate 1."""
    game = diffusion_config.Objective(conditional=True, prediction_type="x0", **objective), samplers.Sampler("ddim", 5)
    training = base.Training(optimizer=optax.sgd(1.0), ema_decay=lambda step: 0.5)
    told = {"label": conditions.Label(2)}
    return diffusion.Diffusion(OfLabel(), (2, 2, 1), DISCRETE, *game, training, conditions=told)


def drawn(algorithm, label, **options):
    state = algorithm.init(jax.random.key(0))
    draw = jax.jit(algorithm.sample, static_argnums=3)
    return draw(state, jax.random.split(jax.random.key(1), 3), {"label": jnp.full(3, label)}, algorithm.Request(**options))


def test_guidance_goes_along_the_line_from_the_null_condition_to_the_label():
    """The last step ends at the predicted image: .1 without the label, .2 with it, .1 + 3 (.2 - .1) at three times the way."""
    algorithm = of_label()
    for label, options, expected in (
        (0, {}, 0.2),
        (0, {"guidance_scale": 1.0}, 0.2),
        (0, {"guidance_scale": 3.0}, 0.4),
        (1, {"guidance_scale": 0.5}, -0.075),
        (1, {"guidance_scale": 0.0}, 0.1),
        (2, {}, 0.1),  # the null condition itself
    ):
        np.testing.assert_allclose(drawn(algorithm, label, **options), expected, atol=1e-6)
    assert algorithm.about_request(algorithm.Request(guidance_scale=3.0))["guidance_scale"] == 3.0


def test_guidance_by_a_checkpoint_tells_both_the_label():
    """The weaker one makes 0 of label 0 and .35 of label 1, this one .2 and -.25."""
    algorithm = of_label(condition_dropout=0.0)
    request = algorithm.Request(guidance_checkpoint=300, guidance_scale=3.0)
    algorithm.check_request(request)
    (option, companion), *_ = algorithm.companions(request).items()
    assert (option, companion.workdir, companion.checkpoint) == ("guidance_checkpoint", None, 300)
    state = algorithm.init(jax.random.key(0))
    weaker = state.replace(params={"unet": {"values": jnp.array([0.0, 0.35, 9.0])}})
    guided, both = algorithm.accompanied(state, {option: types.SimpleNamespace(algorithm=algorithm, state=weaker)})
    draw = jax.jit(guided.sample, static_argnums=3)
    for label, expected in ((0, 0.6), (1, 0.35 - 3 * 0.6)):
        found = draw(both, jax.random.split(jax.random.key(1), 3), {"label": jnp.full(3, label)}, request)
        np.testing.assert_allclose(found, np.clip(expected, -1, 1), atol=1e-6)


class OfTwo(nn.Module):
    """The best estimate of images that are all .5 or all -.5, alike often, in the flow process."""

    @nn.compact
    def __call__(self, x, t, condition, train=False):
        assert not condition
        t = t[:, None, None, None] / 1000
        return 0.5 * jnp.tanh(0.5 * (1 - t) / t**2 * x.sum((1, 2, 3), keepdims=True)) * jnp.ones_like(x)


class TellsTwo:
    """The posterior of which of them it is."""

    classes = 2

    def log_prob(self, state, x_t, level, label):
        return jax.nn.log_sigmoid((2 * label - 1) * level.alpha / level.sigma**2 * x_t.sum((1, 2, 3)))


@pytest.mark.parametrize("sampler", [samplers.Sampler("ddim", 8), samplers.Sampler("ode")], ids=lambda one: one.name)
def test_a_classifier_guides_a_diffusion_that_is_told_no_labels(sampler):
    """By Bayes' rule each estimate is the image of the label; with a scale of 0 either image comes as often."""
    objective = diffusion_config.Objective("flow", prediction_type="x0")
    algorithm = diffusion.Diffusion(OfTwo(), (2, 2, 1), processes.RectifiedFlow(), objective, sampler, base.Training())
    state, keys = base.TrainState(0, {"unet": {}}, {}, {}), jax.random.split(jax.random.key(1), 8)
    classifier = types.SimpleNamespace(algorithm=TellsTwo(), state=base.TrainState(0, {}, {}, {}))
    guided, both = algorithm.accompanied(state, {"classifier": classifier})
    assert guided.classes == 2 and isinstance(guided, capabilities.TakesCompanions) and algorithm.classes == 0
    label = jnp.arange(8) % 2

    def drawn(scale):
        request = algorithm.Request(classifier="runs/classifier", classifier_scale=scale)
        assert guided.about_request(request)["classifier_scale"] == (1.0 if scale is None else scale)
        return jax.jit(guided.sample, static_argnums=3)(both, keys, {"label": label}, request)

    np.testing.assert_allclose(drawn(None), jnp.broadcast_to((label - 0.5)[:, None, None, None], (8, 2, 2, 1)), atol=1e-3)
    unguided = jax.jit(algorithm.sample, static_argnums=3)(state, keys, {}, algorithm.Request())
    np.testing.assert_array_equal(drawn(0.0), unguided)
    assert set(np.sign(unguided).ravel().tolist()) == {-1, 1}


@pytest.mark.parametrize(("dropout", "moved"), [(0.0, [True, True, False]), (1.0, [False, False, True]), (0.5, [True] * 3)])
def test_a_share_of_the_conditions_is_left_out_in_training_and_none_in_evaluation(dropout, moved):
    algorithm = of_label(condition_dropout=dropout)
    state = algorithm.init(jax.random.key(0))
    batch = {
        "image": np.zeros((64, 2, 2, 1), np.uint8),
        "condition": {"label": np.arange(64, dtype=np.int32) % 2},
        "index": np.arange(64, dtype=np.int32),
    }
    after, _ = jax.jit(algorithm.train_step)(state, batch, jax.random.key(2))
    changes = after.params["unet"]["values"] - state.params["unet"]["values"]
    assert (np.abs(changes) > 0).tolist() == moved
    far = state.replace(params={"unet": {"values": jnp.array([0.2, -0.25, 1e3])}})
    for one in (state, far):
        assert algorithm.eval_step(one, batch, jax.random.key(3))["loss"].max() < 100


def test_guidance_without_labels_is_refused():
    never = constant(DISCRETE)
    with pytest.raises(
        errors.UserError, match=r"--guidance_scale=2.0: this run is told neither labels nor texts; .*conditional=True"
    ):
        never.check_request(never.Request(guidance_scale=2.0))


def test_guidance_needs_images_without_a_label_in_training():
    config = ddpm_conditional.get_config("smoke")
    config.guidance.scale = 2.0
    config_lib.check(config)
    for key, value in (("condition_dropout", 0.0), ("conditional", False)):
        wrong = config.copy_and_resolve_references()
        wrong.diffusion[key] = value
        with pytest.raises(errors.UserError, match=f"config.guidance.scale is 2.0: it needs .*config.diffusion.{key}"):
            config_lib.check(wrong)
    never = of_label(condition_dropout=0.0)
    never.check_request(never.Request(guidance_scale=1.0))
    with pytest.raises(errors.UserError, match="--guidance_scale=2.0: this run has seen no images without a condition"):
        never.check_request(never.Request(guidance_scale=2.0))
