"""The PyTorch implementations that recipes are timed against compute and learn what ours do."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from experiments.torch_reference import pytorch
from imagegen_jax import images
from imagegen_jax import optimisers
from imagegen_jax.networks import cyclegan_nets
from imagegen_jax.networks import dcgan

pytestmark = pytest.mark.parity


def random_params(params, seed):
    """Parameters of the same shapes, biases too, large enough for every layer to matter."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), params)


# ---------------------------------------------------------------------------------------------------- the same weights in both


def copy(sources, *modules):
    """(weight, bias) arrays into the layers of torch modules that have parameters, in their order."""
    import torch

    layers = [layer for module in modules for layer in module.modules() if list(layer.parameters(recurse=False))]
    with torch.no_grad():
        for (weight, bias), layer in zip(sources, layers, strict=True):
            layer.weight.copy_(torch.tensor(np.array(weight)))
            layer.bias.copy_(torch.tensor(np.array(bias)))


def convolution(source):
    """(h, w, in, out) to (out, in, h, w); both take a transposed convolution's kernel for that of the convolution."""
    return np.transpose(source["kernel"], (3, 2, 0, 1)), source["bias"]


def norm(source):
    return source["scale"], source["bias"]


def dense_to_maps(source, height, width):
    """A dense layer whose outputs become (height, width, c) maps: to one of (c, height, width)."""
    kernel = np.reshape(source["kernel"], (-1, height, width, source["bias"].size // (height * width)))
    bias = np.reshape(source["bias"], kernel.shape[1:])
    return np.transpose(kernel, (3, 1, 2, 0)).reshape(bias.size, -1), np.transpose(bias, (2, 0, 1)).reshape(-1)


def copy_cyclegan(params, module):
    """Flax parameters of a generator or discriminator."""

    def numbered(kind):
        return [params[f"{kind}{i}"] for i in range(sum(name.startswith(kind) for name in params))]

    convs = numbered("Conv_")
    blocks = [layer for block in numbered("block") for layer in (block["Conv_0"], block["Conv_1"])]
    copy(map(convolution, [*convs[:-1], *blocks, *numbered("TransposedConv_"), convs[-1]]), module)


def copy_vae(params, module):
    """Flax parameters of a VAE of pythae's networks."""
    encoder, decoder = params["encoder"], params["decoder"]
    sources = [f(encoder[f"{name}_{i}"]) for i in range(4) for f, name in ((convolution, "Conv"), (norm, "BatchNorm"))]
    kernel, bias = (np.split(params["posterior"][name], 2, -1) for name in ("kernel", "bias"))
    sources += [(kernel[0].T, bias[0]), (2 * kernel[1].T, 2 * bias[1])]  # of the log deviation and of the log variance
    sources += [dense_to_maps(decoder["Dense_0"], 4, 4)]
    for i in range(2):
        sources += [convolution(decoder[f"TransposedConv_{i}"]), norm(decoder[f"BatchNorm_{i}"])]
    copy([*sources, convolution(decoder["TransposedConv_2"])], module)


def copy_gan(params, networks, image_shape):
    """Flax parameters of a DCGAN."""
    g, d = params["generator"], params["discriminator"]
    levels = sum(name.startswith("TransposedConv_") for name in g)
    sources = [dense_to_maps(g["Dense_0"], *(dcgan.sides(side, levels)[0] for side in image_shape[:2]))]
    for i in range(levels):
        sources += [norm(g[f"BatchNorm_{i}"]["BatchNorm_0"]), convolution(g[f"TransposedConv_{i}"])]
    sources += [convolution(d[f"StridedConv_{i}"]) for i in range(sum(name.startswith("StridedConv_") for name in d))]
    logit = d["Head_0"]["logit"]
    kernel = np.reshape(logit["kernel"], (-1, sources[-1][1].size)).T  # of places and channels
    copy([*sources, (kernel.reshape(1, -1), logit["bias"])], networks["generator"], networks["discriminator"])


# --------------------------------------------------------------------------------------------------- they compute the same


def test_cyclegan_has_the_published_sizes():
    """Those of tests/test_cyclegan.py, which counts ours."""
    import torch

    from experiments.torch_reference import cyclegan_model as models

    with torch.device("meta"):
        theirs = {"generator": models.ResNetGenerator(3, 3, 64, 9), "discriminator": models.PatchDiscriminator(3, 64, 3)}
    ours = {"generator": cyclegan_nets.ResNetGenerator(3), "discriminator": cyclegan_nets.PatchDiscriminator()}
    image = np.zeros((1, 64, 64, 3))
    pytorch.check_parameters({name: jax.eval_shape(net.init, jax.random.key(0), image) for name, net in ours.items()}, theirs)


def test_gan_moves_images_by_up_to_an_eighth():
    """Each by its own shift along each side, all its channels alike."""
    import torch

    from experiments.torch_reference import gan_model

    torch.manual_seed(0)
    image = torch.arange(1.0, 2 * 16 * 8 + 1).reshape(2, 16, 8)
    moved = gan_model.translate(image.expand(200, 2, 16, 8)).numpy()
    padded = np.pad(image.numpy(), ((0, 0), (2, 2), (1, 1)))
    views = {(dy, dx): padded[:, 2 + dy : 18 + dy, 1 + dx : 9 + dx] for dy in range(-2, 3) for dx in range(-1, 2)}
    seen = [[shift for shift, view in views.items() if np.array_equal(view, one)] for one in moved]
    assert all(len(shifts) == 1 for shifts in seen) and {shift for (shift,) in seen} == views.keys()


def test_image_pool_shows_old_images():
    import torch

    from experiments.torch_reference import cyclegan_model

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


# ------------------------------------------------------------------------------------------------------- they learn the same


def test_vae_trains_the_same(vae_config, build, monkeypatch):
    """Its first step has our losses, and the second our distortion, but for rounding that Adam magnifies.

    The KL goes its own way from there: Adam moves a log variance as far as ours moves a log deviation.
    """
    import torch

    from experiments.torch_reference import vae_model

    algorithm = build(vae_config)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    model = vae_model.Training(vae_config, algorithm, torch.device("cpu"))
    copy_vae(jax.device_get(state.params["vae"]["network"]), model.network)

    key = jax.random.key(4)
    noise = jax.random.normal(jax.random.fold_in(jax.random.split(key)[1], 0), (8, 16))
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.tensor(np.array(noise)))
    image = 255 * np.random.default_rng(3).integers(0, 2, (8, 28, 28, 1), np.uint8)  # which no draw of black or white changes
    pixels = torch.tensor(image).permute(0, 3, 1, 2).float() / 255
    step = jax.jit(algorithm.train_step)
    seen = []
    for tolerance, names in ((1e-4, ("loss", "distortion", "kl")), (5e-3, ("distortion",))):
        state, metrics = step(state, {"image": image, "condition": {"label": np.zeros(8, np.int32)}}, key)
        losses = {name: loss.item() for name, loss in model.optimize_parameters(pixels).items()}
        for name in names:
            assert losses[name] == pytest.approx(float(metrics[name]), rel=tolerance)
        seen.append(losses["distortion"])
    assert abs(seen[1] / seen[0] - 1) > 0.02  # what an update left out would be


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_gan_trains_the_same(gan_config, build, monkeypatch, ratio):
    """On images that are no squares and become odd ones; with the same generator and discriminator as ours.

    Three steps have our losses where the discriminator stays, so that it does not matter which one the generator meets.

    Where it learns its first update is ours. The generator's differs: that of the reference meets the updated discriminator.
    """
    import torch

    from experiments.torch_reference import gan_model

    gan_config.optimizer.lr = 1e-2
    gan_config.discriminator.lr_ratio = ratio
    gan_config.gan.label_smoothing = 0.1
    algorithm = build(gan_config, 18, 28)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    before = state = state.replace(params=random_params(state.params, 2))
    model = gan_model.Training(gan_config, algorithm, torch.device("cpu"))
    copy_gan(state.params, model.networks, algorithm.image_shape)
    key = jax.random.key(4)
    z = np.array(jax.random.normal(jax.random.split(jax.random.split(key, 1)[0])[0], (8, algorithm.latent)))
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: torch.tensor(z).reshape(shape))
    monkeypatch.setattr(jax.random, "randint", lambda key, shape, low, high: jnp.full(shape, 2))  # both move by two pixels
    monkeypatch.setattr(torch, "randint", lambda low, high, shape, **_: torch.full(shape, 2))
    image = np.random.default_rng(3).integers(0, 256, (8, 18, 28, 1), np.uint8)
    real = torch.tensor(image).permute(0, 3, 1, 2).float() / 127.5 - 1
    train_step = jax.jit(algorithm.train_step)
    seen = []
    for tolerance, due in ((1e-4, True), (5e-3, False), (5e-3, True))[: 1 if ratio else 3]:
        state, metrics = train_step(state, {"image": image, "condition": {"label": np.zeros(8, np.int32)}}, key)
        losses = {name: loss.item() for name, loss in model.optimize_parameters(real).items()}
        assert losses.keys() == {"loss", "discriminator"} | ({"penalty"} if due else set())
        seen.append(losses["loss"])
        if ratio:
            assert losses.pop("loss") != pytest.approx(float(metrics["loss"]), rel=1e-2)
        assert losses == pytest.approx({name: float(metrics[name]) for name in losses}, rel=tolerance)
    if not ratio:
        assert abs(seen[1] / seen[0] - 1) > 0.02  # what an update left out would be
        return
    old, ours = (
        algorithm.discriminator.apply({"params": s.params["discriminator"]}, images.to_float(image), {}).logits
        for s in (before, state)
    )
    with torch.no_grad():
        theirs = model.networks["discriminator"](real)[:, 0].numpy()
    moved = np.abs(ours - old).max()
    assert moved > 0.1
    np.testing.assert_allclose(theirs, ours, atol=1e-2 * moved)


@pytest.mark.parametrize("identity", [0.5, 0.0])
def test_cyclegan_trains_the_same(cyclegan_config, build, identity):
    """Its first step has our losses, of every network, and so has the second.

    There rounding counts for more, since Adam magnifies it where a gradient is tiny; an update left out would be 2 %.
    """
    import torch

    from experiments.torch_reference import cyclegan_model

    cyclegan_config.cyclegan.identity = identity
    cyclegan_config.cyclegan.lambda_b = 5.0
    cyclegan_config.network.blocks = 2
    algorithm = build(cyclegan_config)
    state = algorithm.init(jax.random.key(0))
    state = state.replace(params=random_params(state.params, 2))
    model = cyclegan_model.CycleGan(cyclegan_config, algorithm, torch.device("cpu"))
    for kind, networks in state.params.items():
        for name, params in networks.items():
            copy_cyclegan(params, model.networks[kind][name])

    step = jax.jit(algorithm.train_step)
    rng = np.random.default_rng(3)
    for tolerance in (1e-4, 5e-3):
        image = {name: rng.integers(0, 256, (2, 24, 24, 1), np.uint8) for name in ("a", "b")}
        state, metrics = step(state, {name: {"image": x} for name, x in image.items()}, jax.random.key(4))
        real = {name: torch.tensor(x).permute(0, 3, 1, 2).float() / 127.5 - 1 for name, x in image.items()}
        losses = {name: loss.item() for name, loss in model.optimize_parameters(real).items()}
        wanted = {name: float(metrics[name]) for name in metrics if "norm" not in name}
        assert losses == pytest.approx(wanted, rel=tolerance), tolerance


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_optimisers_make_the_same_steps_and_let_no_bias_decay(name):
    import torch

    config = optimisers.Config(name=name, lr=0.1, weight_decay=0.5 if name == "adamw" else 0.0, clip_norm=0.0)
    params = {"bias": np.ones(3, np.float32), "kernel": np.ones((2, 3), np.float32)}
    theirs = [torch.nn.Parameter(torch.tensor(x)) for x in params.values()]
    optimizer, ours = pytorch.optimizer(config, iter(theirs), 2.0), optimisers.make(config, [(0, 10)])
    state = ours.init(params)
    for _ in range(3):
        for parameter in theirs:
            parameter.grad = parameter.detach() - 0.5
        optimizer.step()
        updates, state = ours.update(jax.tree.map(lambda x: x - 0.5, params), state, params)
        params = jax.tree.map(lambda x, update: x + 2 * update, params, updates)
    for expected, found in zip(params.values(), theirs):
        np.testing.assert_allclose(found.detach(), expected, rtol=1e-5)
