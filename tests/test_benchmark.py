"""The benchmark's report is whole, and the twins that a recipe is compared with are such. No timing is asserted."""

import importlib.util
import json
import math

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from configs import cyclegan
from configs import gan
from experiments import benchmark
from experiments.twins import cyclegan as cyclegan_twin
from experiments.twins import gan as gan_twin
from experiments.twins import inception as inception_twin
from experiments.twins import timing
from experiments.twins import unet as unet_twin
from experiments.twins import vae as vae_twin
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import machine
from imagegen_jax.networks import cyclegan_nets
from imagegen_jax.networks import dcgan
from imagegen_jax.networks import unet
from imagegen_jax.training import run
from imagegen_jax.training import sharding

KEYS = {
    "parameters", "compile_seconds", "step_images", "step_ms", "images_per_second", "step_flops", "flops_per_second",
    "matmul_peak_flops_per_second", "fraction_of_peak", "step_temporary_bytes", "peak_memory_bytes", "peak_memory_of",
}  # fmt: skip

# (kernel side, channels in, channels out) of each layer, as the appendix of Zhu et al. 2017 lists them.
GENERATOR = [
    (7, 3, 64), (3, 64, 128), (3, 128, 256), *[(3, 256, 256)] * 18, (3, 256, 128), (3, 128, 64), (7, 64, 3),
]  # fmt: skip
# Keras counts 21,802,784 without the last layer, of which 34,432 are means and variances; it has no scales.
INCEPTION = 21_802_784 - 34_432 // 2 + 2048 * 1008
REAL = np.random.default_rng(3).integers(0, 256, (8, 28, 28, 1), np.uint8)  # a batch
DISCRIMINATOR = [(4, 3, 64), (4, 64, 128), (4, 128, 256), (4, 256, 512), (4, 512, 1)]


@pytest.fixture
def cyclegan_config():
    """A CycleGAN that compiles in seconds, on random crops of 24 pixels."""
    config = cyclegan.get_config("smoke")
    config.data.load_size = 28
    config.data.image_size = 24
    config.network.channels = 4
    config.discriminator.channels = 4
    config.sample.batch_size = 8
    return config


@pytest.fixture
def gan_config():
    """A DCGAN that compiles in seconds, with a penalty at every other update."""
    config = gan.get_config("smoke")
    config.batch_size = 8
    config.sample.batch_size = 8
    config.gan.penalty_every = 2
    return config


def specs(config):
    shape = (config.data.image_size or 28,) * 2
    return {
        name: images.Spec((*shape, 1), images.unnamed(10)) for name in (("a", "b") if config.algorithm == "cyclegan" else ("",))
    }


def one_device():
    return jax.sharding.Mesh(jax.devices()[:1], "data")


def numbers(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if not isinstance(leaf, str)]


@pytest.mark.parametrize(
    ("recipe", "against", "rate"),
    [
        ("tiny_config", None, "sampling"),
        ("cyclegan_config", None, "translation"),
        pytest.param("tiny_config", "diffusers", "sampling", marks=pytest.mark.parity),
        pytest.param("cyclegan_config", "torch", "translation", marks=pytest.mark.parity),
    ],
)
def test_report_has_every_number(request, monkeypatch, tmp_path, recipe, against, rate):
    monkeypatch.setattr(benchmark, "_MATMUL_SIZES", (64,))
    monkeypatch.setattr(benchmark, "_PIPELINE_SECONDS", 0.05)
    config = request.getfixturevalue(recipe)
    results = benchmark.measure(config, 2, against)
    out = tmp_path / "new" / "speed.json"
    benchmark.check_out(out)
    report = dict(recipe="tiny", machine=machine.facts(), config=json.loads(config.to_json()), results=results)
    benchmark.write(out, report)

    read = json.loads(out.read_text())
    assert read["results"].keys() == KEYS | {f"{name}_images_per_second" for name in ("pipeline", rate)} | (
        {"against"} if against else set()
    )
    assert all(math.isfinite(x) and x > 0 for x in numbers(read["results"]))
    assert read["machine"]["platform"] == "cpu" and read["machine"]["device_count"] == 8
    table = benchmark.table(read)
    assert f"{rate}, images/s" in table
    if against:
        peer = read["results"]["against"]
        assert peer["name"] == against and peer["parameters"] == read["results"]["parameters"]
        assert peer["step_ms"].keys() == peer["forward_ms"].keys() == {"ours", "theirs", "ratio"}
        assert "forward pass, theirs / ours" in table and f"{against} {peer[f'{against}_version']}" in table


@pytest.mark.parametrize("against", [None, pytest.param("torch", marks=pytest.mark.parity)])
def test_report_of_features_has_every_number(monkeypatch, against):
    """One small image, once."""
    monkeypatch.setattr(sharding, "make_mesh", lambda batch_size: one_device())
    monkeypatch.setattr(benchmark, "_MATMUL_SIZES", (64,))
    monkeypatch.setattr(benchmark, "_EXTRACTED", (1, 8, 8, 3))
    monkeypatch.setattr(timing, "WARM_UP", 0)
    results = benchmark.measure_features(1, against)
    assert results.keys() == KEYS | ({"against"} if against else set())
    assert all(math.isfinite(x) and x > 0 for x in numbers(results))
    assert results["step_images"] == 1 and results["parameters"] == INCEPTION
    table = benchmark.table(dict(features="inception", machine=machine.facts(), results=results))
    assert "batch of 1, ms" in table and "extraction, images/s" in table
    if against:
        assert results["against"]["parameters"] == INCEPTION
        assert "batch, theirs / ours" in table and f"torch {results['against']['torch_version']}" in table


@pytest.mark.parity
@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        (dict(channels=16, multipliers=(1, 2), blocks=1, attention_levels=(), patch_size=2, out_channels=1), (28, 28, 1)),
        (dict(channels=16, multipliers=(1, 2, 4), blocks=2, attention_levels=(1, 2), heads=4), (16, 24, 3)),
    ],
)
def test_unet_twin_has_as_many_parameters_and_the_same_shape(changes, shape):
    import torch

    network = unet.UNet(groups=8, **changes)
    x = np.zeros((2, *shape), np.float32)
    ours = jax.eval_shape(network.init, jax.random.key(0), x, np.zeros(2))
    twin = unet_twin.build_twin(network, shape)
    assert sum(leaf.size for leaf in jax.tree.leaves(ours)) == sum(p.numel() for p in twin.parameters())
    unet_twin.twin_forward(network, twin, x)()
    patches = torch.nn.functional.pixel_unshuffle(torch.tensor(x).permute(0, 3, 1, 2), network.patch_size)
    assert twin(patches, torch.zeros(2)).sample.shape == patches.shape


@pytest.mark.parity
@pytest.mark.parametrize(
    ("network", "layers", "millions"), [("generator", GENERATOR, 11.378), ("discriminator", DISCRIMINATOR, 2.765)]
)
def test_cyclegan_twin_has_the_published_number_of_parameters(network, layers, millions):
    import torch

    from experiments.twins import cyclegan_model

    with torch.device("meta"):
        if network == "generator":
            ours, twin = cyclegan_nets.ResNetGenerator(3), cyclegan_model.ResNetGenerator(3, 3, 64, 9)
        else:
            ours, twin = cyclegan_nets.PatchDiscriminator(), cyclegan_model.PatchDiscriminator(3, 64, 3)
    expected = sum(kernel**2 * inputs * outputs + outputs for kernel, inputs, outputs in layers)
    assert round(expected / 1e6, 3) == millions
    params = jax.eval_shape(ours.init, jax.random.key(0), np.zeros((1, 64, 64, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
    assert sum(p.numel() for p in twin.parameters()) == expected


def random_params(params, seed):
    """Parameters of the same shapes, biases too, large enough for every layer to matter."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), params)


def copy_weights(params, twin):
    """Flax parameters of a generator or discriminator into its twin."""
    import torch

    def numbered(kind):
        return [params[f"{kind}{i}"] for i in range(sum(name.startswith(kind) for name in params))]

    convs = numbered("Conv_")
    blocks = [layer for block in numbered("block") for layer in (block["Conv_0"], block["Conv_1"])]
    ours = [*convs[:-1], *blocks, *numbered("TransposedConv_"), convs[-1]]
    theirs = [m for m in twin.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    assert len(ours) == len(theirs)
    for source, target in zip(ours, theirs):
        with torch.no_grad():
            # (h, w, in, out) to (out, in, h, w); both take a transposed convolution's kernel for that of the convolution.
            target.weight.copy_(torch.tensor(np.array(source["kernel"])).permute(3, 2, 0, 1))
            target.bias.copy_(torch.tensor(np.array(source["bias"])))


@pytest.mark.parity
@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_cyclegan_twin_computes_the_same(network):
    import torch

    from experiments.twins import cyclegan_model

    if network == "generator":
        ours, twin = cyclegan_nets.ResNetGenerator(2, 4, 2), cyclegan_model.ResNetGenerator(3, 2, 4, 2)
    else:
        ours, twin = cyclegan_nets.PatchDiscriminator(4, 3), cyclegan_model.PatchDiscriminator(3, 4, 3)
    image = np.random.default_rng(0).uniform(-1, 1, (2, 32, 28, 3)).astype(np.float32)
    params = random_params(ours.init(jax.random.key(0), image)["params"], 1)
    copy_weights(params, twin)
    made = twin(torch.tensor(image).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
    wanted = np.asarray(ours.apply({"params": params}, image))
    assert wanted.std() > 0.1
    np.testing.assert_allclose(made, wanted, atol=1e-4)


@pytest.fixture
def vae_config():
    """pythae's VAE."""
    config = config_lib.vae()
    config.batch_size = 8
    config.network.name = "pythae"
    config.network.latent = 16
    config.likelihood.name = "bernoulli"
    config.optimizer.lr = 1e-4
    config.sample.batch_size = 8
    return config


class IdleTraining:
    """Steps in no time, which the benchmark's own would take long to compile."""

    def __init__(self, state):
        self.state = state

    def __call__(self):
        pass

    def parameters(self):
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))


def check_times(times, state):
    """What `compare` returns, where 8 images are drawn, is whole."""
    assert times["name"] == "torch" and times["forward_images"] == 8
    assert times["parameters"] == IdleTraining(state).parameters()
    assert times["step_ms"].keys() == times["forward_ms"].keys() == {"ours", "theirs", "ratio"}
    assert all(math.isfinite(x) and x > 0 for x in numbers((times["step_ms"], times["forward_ms"])))


def copy_vae(params, model):
    """Flax parameters of a VAE of pythae's networks into its twin."""
    import torch

    def convolution(source):
        return source["kernel"].transpose(3, 2, 0, 1), source["bias"]

    encoder, decoder = params["encoder"], params["decoder"]
    pairs = []
    for i in range(4):
        pairs += [(convolution(encoder[f"Conv_{i}"]), model.encoder.layers[3 * i])]
        pairs += [((encoder[f"BatchNorm_{i}"]["scale"], encoder[f"BatchNorm_{i}"]["bias"]), model.encoder.layers[3 * i + 1])]
    kernel, bias = (np.split(params["posterior"][name], 2, -1) for name in ("kernel", "bias"))
    pairs += [((kernel[0].T, bias[0]), model.encoder.embedding)]
    pairs += [((2 * kernel[1].T, 2 * bias[1]), model.encoder.log_var)]  # of the log deviation and of the log variance
    dense = decoder["Dense_0"]
    channels_first = (dense["kernel"].reshape(-1, 4, 4, 1024).transpose(3, 1, 2, 0), dense["bias"].reshape(4, 4, 1024))
    pairs += [((channels_first[0].reshape(16384, -1), channels_first[1].transpose(2, 0, 1).reshape(-1)), model.decoder[0])]
    for i, place in enumerate((2, 5, 8)):
        pairs += [(convolution(decoder[f"TransposedConv_{i}"]), model.decoder[place])]
    for i, place in enumerate((3, 6)):
        pairs += [((decoder[f"BatchNorm_{i}"]["scale"], decoder[f"BatchNorm_{i}"]["bias"]), model.decoder[place])]
    with torch.no_grad():
        for (weight, bias), layer in pairs:
            layer.weight.copy_(torch.tensor(np.array(weight)))
            layer.bias.copy_(torch.tensor(np.array(bias)))
    assert 2 * len(pairs) == len(list(model.parameters()))


@pytest.mark.parity
def test_vae_twin_trains_the_same(vae_config, monkeypatch):
    """Its first step has our losses, and the second our distortion, but for rounding that Adam magnifies.

    The KL goes its own way from there: Adam moves a log variance as far as ours moves a log deviation.
    """
    import torch

    from experiments.twins import vae_model

    algorithm = run.build_algorithm(vae_config, specs(vae_config))
    state = jax.jit(algorithm.init)(jax.random.key(0))
    model = vae_model.Training(vae_config, algorithm, torch.device("cpu"))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == sum(p.numel() for p in model.network.parameters())
    copy_vae(jax.device_get(state.params["vae"]["network"]), model.network)

    key = jax.random.key(4)
    noise = jax.random.normal(jax.random.fold_in(jax.random.split(key)[1], 0), (8, 16))
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.tensor(np.array(noise)))
    image = 255 * np.random.default_rng(3).integers(0, 2, (8, 28, 28, 1), np.uint8)  # which no draw of black or white changes
    pixels = torch.tensor(image).permute(0, 3, 1, 2).float() / 255
    step = jax.jit(algorithm.train_step)
    seen = []
    for tolerance, names in ((1e-4, ("loss", "distortion", "kl")), (5e-3, ("distortion",))):
        state, metrics = step(state, {"image": image, "label": np.zeros(8, np.int32)}, key)
        losses = {name: loss.item() for name, loss in model.optimize_parameters(pixels).items()}
        for name in names:
            assert losses[name] == pytest.approx(float(metrics[name]), rel=tolerance)
        seen.append(losses["distortion"])
    assert abs(seen[1] / seen[0] - 1) > 0.02  # what an update left out would be

    monkeypatch.undo()
    check_times(vae_twin.compare(vae_config, algorithm, one_device(), IdleTraining(state), {"image": image}, 1), state)


def copy_gan(params, networks, image_shape):
    """Flax parameters of a DCGAN into its twin."""
    import torch

    def convolution(source):
        return source["kernel"].transpose(3, 2, 0, 1), source["bias"]

    def norm(source):
        return source["scale"], source["bias"]

    g, d = params["generator"], params["discriminator"]
    layers = {name: [m for m in network if list(m.parameters())] for name, network in networks.items()}
    levels = len(layers["generator"]) // 2
    height, width = (dcgan.sides(side, levels)[0] for side in image_shape[:2])
    kernel = g["Dense_0"]["kernel"].reshape(-1, height, width, g["BatchNorm_0"]["BatchNorm_0"]["bias"].size)
    bias = g["Dense_0"]["bias"].reshape(kernel.shape[1:])
    sources = [(kernel.transpose(3, 1, 2, 0).reshape(bias.size, -1), bias.transpose(2, 0, 1).reshape(-1))]
    for i in range(levels):
        sources += [norm(g[f"BatchNorm_{i}"]["BatchNorm_0"]), convolution(g[f"TransposedConv_{i}"])]
    sources += [convolution(d[f"StridedConv_{i}"]) for i in range(len(layers["discriminator"]) - 1)]
    features = d[f"StridedConv_{len(layers['discriminator']) - 2}"]["bias"].size
    kernel = d["Head_0"]["logit"]["kernel"].reshape(-1, features).T  # of places and channels
    sources += [(kernel.reshape(1, -1), d["Head_0"]["logit"]["bias"])]
    targets = [*layers["generator"], *layers["discriminator"]]
    assert len(sources) == len(targets)
    with torch.no_grad():
        for (weight, bias), layer in zip(sources, targets):
            layer.weight.copy_(torch.tensor(np.array(weight)))
            layer.bias.copy_(torch.tensor(np.array(bias)))


def gan_and_twin(config):
    """(algorithm, state, gan_model.Training) with the same random parameters."""
    import torch

    from experiments.twins import gan_model

    algorithm = run.build_algorithm(config, specs(config))
    state = jax.jit(algorithm.init)(jax.random.key(0))
    state = state.replace(params=random_params(state.params, 2))
    model = gan_model.Training(config, algorithm, torch.device("cpu"))
    copy_gan(state.params, model.networks, algorithm.image_shape)
    return algorithm, state, model


@pytest.mark.parity
def test_gan_twin_computes_the_same(gan_config):
    """The generator with the same running statistics, and the discriminator's logits, of images that are no squares."""
    import torch

    from experiments.twins import gan_model

    rng = np.random.default_rng(0)
    shape, z = (10, 16, 3), rng.normal(0, 3, (5, 6)).astype(np.float32)
    generator, discriminator = dcgan.Generator(shape, (12, 8)), dcgan.Discriminator((4, 8, 12))
    variables = generator.init(jax.random.key(0), z, None)
    image = rng.uniform(-1, 1, (5, *shape)).astype(np.float32)
    params = {"generator": variables["params"], "discriminator": discriminator.init(jax.random.key(1), image, None)["params"]}
    params = random_params(params, 1)
    stats = jax.tree.map(lambda x: rng.uniform(0.1, 2, x.shape).astype(np.float32), variables["batch_stats"])
    twins = {"generator": gan_model.Generator(shape, 6, (12, 8)), "discriminator": gan_model.Discriminator(shape, (4, 8, 12))}
    copy_gan(params, twins, shape)
    norms = [m for m in twins["generator"] if isinstance(m, torch.nn.BatchNorm2d)]
    for i, norm in enumerate(norms):
        ours = stats[f"BatchNorm_{i}"]["BatchNorm_0"]
        norm.running_mean.copy_(torch.tensor(ours["mean"]))
        norm.running_var.copy_(torch.tensor(ours["var"]))
    with torch.no_grad():
        made = twins["generator"].eval()(torch.tensor(z)).permute(0, 2, 3, 1).numpy()
        logits = twins["discriminator"](torch.tensor(image).permute(0, 3, 1, 2))[:, 0].numpy()
    wanted = np.asarray(generator.apply({"params": params["generator"], "batch_stats": stats}, z, None))
    wanted_logits = np.asarray(discriminator.apply({"params": params["discriminator"]}, image, None).logits)
    assert wanted.std() > 0.01 and wanted_logits.std() > 0.01
    np.testing.assert_allclose(made, wanted, atol=1e-5)
    np.testing.assert_allclose(logits, wanted_logits, atol=1e-5)


@pytest.fixture
def gan_step(gan_config, monkeypatch):
    """(learning rate of the discriminator, as a multiple) -> (algorithm, state, twin, () -> our metrics and its losses).

    Both take the same images and noise each time, and move all images by two pixels.
    """
    import torch

    def made(ratio):
        gan_config.optimizer.lr = 1e-2
        gan_config.discriminator.lr_ratio = ratio
        gan_config.gan.label_smoothing = 0.1
        algorithm, state, model = gan_and_twin(gan_config)
        key = jax.random.key(4)
        z = jax.random.normal(jax.random.split(jax.random.split(key, 1)[0])[0], (8, algorithm.latent))
        monkeypatch.setattr(torch, "randn", lambda *shape, **_: torch.tensor(np.array(z)).reshape(shape))
        monkeypatch.setattr(jax.random, "randint", lambda key, shape, low, high: jnp.full(shape, 2))
        monkeypatch.setattr(torch, "randint", lambda low, high, shape, **_: torch.full(shape, 2))
        batch = {"image": REAL, "label": np.zeros(8, np.int32)}
        real = torch.tensor(REAL).permute(0, 3, 1, 2).float() / 127.5 - 1
        train_step = jax.jit(algorithm.train_step)

        def step(state):
            state, metrics = train_step(state, batch, key)
            return state, metrics, {name: loss.item() for name, loss in model.optimize_parameters(real).items()}

        return algorithm, state, model, step

    return made


@pytest.mark.parity
def test_gan_twin_trains_the_same(gan_step):
    """Its steps have our losses: with a discriminator that stays, where it does not matter which one the generator meets."""
    _, state, _, step = gan_step(0.0)
    generator_losses = []
    for tolerance, due in ((1e-4, True), (5e-3, False), (5e-3, True)):
        state, metrics, losses = step(state)
        assert losses.keys() == {"loss", "discriminator"} | ({"penalty"} if due else set())
        assert losses == pytest.approx({name: float(metrics[name]) for name in losses}, rel=tolerance)
        generator_losses.append(losses["loss"])
    assert abs(generator_losses[1] / generator_losses[0] - 1) > 0.02  # what an update left out would be


@pytest.mark.parity
def test_the_discriminator_of_the_gan_twin_learns_the_same(gan_step):
    """Its first update is ours. The generator's differs: the twin's meets the discriminator after that update."""
    import torch

    algorithm, before, model, step = gan_step(1.0)
    after, metrics, losses = step(before)
    assert losses["discriminator"] == pytest.approx(float(metrics["discriminator"]), rel=1e-4)
    assert losses["loss"] != pytest.approx(float(metrics["loss"]), rel=1e-2)
    image = images.to_float(REAL)
    old, ours = (
        algorithm.discriminator.apply({"params": s.params["discriminator"]}, image, None).logits for s in (before, after)
    )
    with torch.no_grad():
        theirs = model.networks["discriminator"](torch.tensor(np.array(image)).permute(0, 3, 1, 2))[:, 0].numpy()
    moved = np.abs(ours - old).max()
    assert moved > 0.1
    np.testing.assert_allclose(theirs, ours, atol=1e-2 * moved)


@pytest.mark.parity
def test_gan_twin_is_timed(gan_config):
    algorithm, state, _ = gan_and_twin(gan_config)
    batch = {"image": np.zeros((8, 28, 28, 1), np.uint8)}
    check_times(gan_twin.compare(gan_config, algorithm, one_device(), IdleTraining(state), batch, 1), state)


@pytest.mark.parity
def test_gan_twin_moves_images_by_up_to_an_eighth():
    """Each by its own shift along each side, all its channels alike."""
    import torch

    from experiments.twins import gan_model

    torch.manual_seed(0)
    image = torch.arange(1.0, 2 * 16 * 8 + 1).reshape(2, 16, 8)
    moved = gan_model.translate(image.expand(200, 2, 16, 8)).numpy()
    padded = np.pad(image.numpy(), ((0, 0), (2, 2), (1, 1)))
    views = {(dy, dx): padded[:, 2 + dy : 18 + dy, 1 + dx : 9 + dx] for dy in range(-2, 3) for dx in range(-1, 2)}
    seen = [[shift for shift, view in views.items() if np.array_equal(view, one)] for one in moved]
    assert all(len(shifts) == 1 for shifts in seen) and {shift for (shift,) in seen} == views.keys()


@pytest.mark.parity
@pytest.mark.parametrize("identity", [0.5, 0.0])
def test_cyclegan_twin_trains_the_same(cyclegan_config, identity):
    """Its first step has our losses, and so has the second.

    There rounding counts for more, since Adam magnifies it where a gradient is tiny; an update left out would be 2 %.
    """
    import torch

    from experiments.twins import cyclegan_model

    cyclegan_config.cyclegan.identity = identity
    cyclegan_config.cyclegan.lambda_b = 5.0
    algorithm = run.build_algorithm(cyclegan_config, specs(cyclegan_config))
    state = algorithm.init(jax.random.key(0))
    state = state.replace(params=random_params(state.params, 2))
    model = cyclegan_model.CycleGan(cyclegan_config, algorithm, torch.device("cpu"))
    for kind, networks in state.params.items():
        for name, params in networks.items():
            copy_weights(params, model.networks[kind][name])

    step = jax.jit(algorithm.train_step)
    rng = np.random.default_rng(3)
    for tolerance in (1e-4, 5e-3):
        image = {name: rng.integers(0, 256, (2, 24, 24, 1), np.uint8) for name in ("a", "b")}
        state, metrics = step(state, {name: {"image": x} for name, x in image.items()}, jax.random.key(4))
        real = {name: torch.tensor(x).permute(0, 3, 1, 2).float() / 127.5 - 1 for name, x in image.items()}
        losses = {name: loss.item() for name, loss in model.optimize_parameters(real).items()}
        wanted = {name: float(metrics[name]) for name in metrics if "norm" not in name}
        assert losses == pytest.approx(wanted, rel=tolerance), tolerance


@pytest.mark.parity
def test_image_pool_of_the_twin_shows_old_images():
    import torch

    from experiments.twins import cyclegan_model

    pool = cyclegan_model.ImagePool(3)
    shown = []
    for i in range(0, 200, 2):
        batch = torch.tensor([i, i + 1.0]).reshape(2, 1, 1, 1)
        shown += pool.query(batch).flatten().tolist()
        assert torch.equal(cyclegan_model.ImagePool(0).query(batch), batch)
    assert shown[:3] == [0, 1, 2]  # stored, and returned all the same
    old = [i for i, image in enumerate(shown) if image != i]
    assert all(shown[i] < i for i in old)
    assert 60 < len(old) < 140  # half of the others: 197 / 2, give or take 5 standard deviations


@pytest.mark.parametrize(
    ("recipe", "key", "value", "words"),
    [
        ("tiny_config", "optimizer.name", "lion", "adam or adamw"),
        ("tiny_config", "optimizer.accumulate", 2, "accumulate"),
        ("tiny_config", "network.groups", 3, "groups"),
        ("tiny_config", "network.multipliers", (1, 2, 2, 2), "multiples of 16"),
        ("cyclegan_config", "optimizer.name", "lion", "adam or adamw"),
        ("cyclegan_config", "optimizer.clip_norm", 1.0, "clip_norm must be 0"),
        ("cyclegan_config", "network.upsampling", "resize", "upsampling must be 'transposed'"),
        ("cyclegan_config", "network.remat", True, "remat must be False"),
        ("cyclegan_config", "discriminator.name", "pixel", "discriminator.name must be 'patch'"),
        ("cyclegan_config", "cyclegan.loss", "hinge", "loss must be 'least_squares'"),
        ("gan_config", "network.name", "resnet", "network.name must be 'dcgan'"),
        ("gan_config", "network.upsampling", "resize", "upsampling must be 'transposed'"),
        ("gan_config", "network.attention", 14, "attention must be 0"),
        ("gan_config", "discriminator.norm", "spectral", "norm must be 'none'"),
        ("gan_config", "discriminator.stddev", 4, "stddev must be 0"),
        ("gan_config", "gan.loss", "hinge", "loss must be 'non_saturating'"),
        ("gan_config", "gan.penalty", "dragan", "choose none or r1"),
        ("gan_config", "gan.d_steps", 2, "d_steps must be 1"),
        ("gan_config", "gan.conditional", True, "conditional must be False"),
        ("gan_config", "augment.policy", ("translation", "cutout"), "choose \\(\\) or"),
        ("gan_config", "augment.adaptive", True, "adaptive must be False"),
        ("gan_config", "optimizer.clip_norm", 1.0, "clip_norm must be 0"),
        ("vae_config", "network.name", "conv", "network.name must be 'pythae'"),
        ("vae_config", "likelihood.name", "logistic", "likelihood.name must be 'bernoulli'"),
    ],
)
def test_what_has_no_twin_is_refused(request, monkeypatch, recipe, key, value, words):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    config = request.getfixturevalue(recipe)
    config.update_from_flattened_dict({key: value})
    algorithm = run.build_algorithm(config, specs(config))
    against = "diffusers" if config.algorithm == "diffusion" else "torch"
    twin = benchmark.twin_of(config, against)
    with pytest.raises(errors.UserError, match=words):
        twin.check(config, algorithm, one_device())


def test_the_other_family_is_refused(tiny_config, cyclegan_config):
    for against, config, instead in (("diffusers", cyclegan_config, "torch"), ("torch", tiny_config, "diffusers")):
        with pytest.raises(errors.UserError, match=f"^--against={against} .*{config.algorithm}.* --against={instead}$"):
            benchmark.measure(config, 1, against)
    with pytest.raises(errors.UserError, match="no peer has"):
        benchmark.twin_of(config_lib.baseline(), "torch")
    with pytest.raises(errors.UserError, match="^--against=diffusers .* features: .* --against=torch$"):
        benchmark.measure_features(1, "diffusers")


def test_missing_peers_are_named(tiny_config, cyclegan_config, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for config, twin, names in ((tiny_config, unet_twin, "torch and diffusers"), (cyclegan_config, cyclegan_twin, "torch")):
        algorithm = run.build_algorithm(config, specs(config))
        with pytest.raises(errors.UserError, match=rf"needs {names}: pip install 'imagegen_jax\[peers\]'"):
            twin.check(config, algorithm, one_device())
    with pytest.raises(errors.UserError, match="needs torch and torch_fidelity: pip install"):
        inception_twin.check(one_device())


def test_an_impossible_out_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "speed.csv", tmp_path / "file" / "speed.json"):
        with pytest.raises(errors.UserError, match="--out="):
            benchmark.check_out(out)
