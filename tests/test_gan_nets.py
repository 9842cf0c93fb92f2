"""The networks of GANs against the published layers, an implementation in PyTorch, and each piece's definition."""

import functools

from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from configs import cgan
from configs import gan
from configs import sngan
from configs import vaegan
from configs import wgan_gp
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.networks import blocks
from imagegen_jax.networks import dcgan
from imagegen_jax.networks import gan_blocks
from imagegen_jax.networks import resnet_gan
from imagegen_jax.training import run

KEY = jax.random.key(0)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def labels(numbers):
    return np.array(numbers, np.int32)


def built(recipe, variant, shape, classes=10, **changes):
    config = recipe.get_config(variant)
    config.update_from_flattened_dict(changes)
    return run.build_algorithm(config, images.Spec(shape, images.unnamed(classes)))


def shapes(network, *inputs, **options):
    """(output, variables) as shapes alone, for inputs of these (shape, dtype), or dicts of such."""
    arrays = jax.tree.map(lambda x: jnp.zeros(*x), [*inputs], is_leaf=lambda x: isinstance(x, tuple))
    return jax.eval_shape(functools.partial(network.init_with_output, **options), KEY, *arrays)


def randomised(network, *inputs, **options):
    """Variables of a network, all its parameters away from where they start."""
    variables = shapes(network, *jax.tree.map(lambda x: (x.shape, x.dtype), [*inputs]), **options)[1]
    leaves, treedef = jax.tree.flatten(variables["params"])
    params = treedef.unflatten([jnp.asarray(0.5 * normal(i, *leaf.shape)) for i, leaf in enumerate(leaves)])
    stats = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), variables.get("batch_stats", {}))
    return {"params": params, "batch_stats": stats}


def size_of(network, *inputs):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(network, *inputs)[1]["params"]))


def conv(side, inputs, outputs):
    return side**2 * inputs * outputs + outputs


def dense(inputs, outputs):
    return inputs * outputs + outputs


def test_dcgan_has_the_classic_layers():
    """At 64 pixels: 4x4x512, then 256, 128, 64 and 3 channels by transposed convolutions (Radford et al. 2016, figure 1)."""
    algorithm = built(gan, "rgb64", (64, 64, 3))
    noise, image, label = ((1, 100),), ((1, 64, 64, 3),), {"label": ((1,), int)}
    norms = 2 * (512 + 256 + 128 + 64)
    convolutions = conv(4, 512, 256) + conv(4, 256, 128) + conv(4, 128, 64) + conv(4, 64, 3)
    assert size_of(algorithm.generator, noise, label) == dense(100, 4 * 4 * 512) + norms + convolutions
    convolutions = conv(4, 3, 64) + conv(4, 64, 128) + conv(4, 128, 256) + conv(4, 256, 512)
    assert size_of(algorithm.discriminator, image, label) == convolutions + dense(4 * 4 * 512, 1)
    normalised = built(gan, "rgb64", (64, 64, 3), **{"discriminator.norm": "batch", "gan.penalty": "none"}).discriminator
    assert size_of(normalised, image, label) == convolutions + dense(4 * 4 * 512, 1) + 2 * (128 + 256 + 512)


@pytest.mark.parametrize("classes", [0, 10])
def test_sngan_has_the_layers_of_mimicry(classes):
    """At 32 pixels: its G of three blocks, its D of an optimised, a halving and two plain blocks; with labels its cGAN-PD."""
    changes = {"gan.conditional": bool(classes)}
    algorithm = built(sngan, "cifar10", (32, 32, 3), **changes)
    norm = 2 * 256 * max(classes, 1)
    up = 2 * norm + 2 * conv(3, 256, 256) + conv(1, 256, 256)
    expected = dense(128, 4 * 4 * 256) + 3 * up + 2 * 256 + conv(3, 256, 3)
    assert size_of(algorithm.generator, ((1, 128),), {"label": ((1,), int)}) == expected
    first = conv(3, 3, 128) + conv(3, 128, 128) + conv(1, 3, 128)
    halving = 2 * conv(3, 128, 128) + conv(1, 128, 128)
    plain = 2 * conv(3, 128, 128)
    expected = first + halving + 2 * plain + dense(128, 1) + 128 * classes
    assert size_of(algorithm.discriminator, ((1, 32, 32, 3),), {"label": ((1,), int)}) == expected


RECIPES = [(gan, ""), (gan, "rgb64"), (wgan_gp, ""), (sngan, ""), (sngan, "cifar10"), (cgan, ""), (vaegan, "")]


@pytest.mark.parametrize("side", [28, 32, 64])
@pytest.mark.parametrize(("recipe", "variant"), RECIPES)
def test_images_have_the_shape_asked_for_or_the_size_is_refused(recipe, variant, side):
    shape = (side, side, 3)
    if side == 28 and variant == "cifar10":  # residual blocks halve even sides only
        with pytest.raises(errors.UserError, match="image_size to a multiple of 8"):
            built(recipe, variant, shape)
        return
    algorithm = built(recipe, variant, shape)
    made, _ = shapes(algorithm.generator, ((4, algorithm.latent),), {"label": ((4,), int)})
    assert made.shape == (4, *shape) and made.dtype == jnp.float32
    output, _ = shapes(algorithm.discriminator, ((4, *shape),), {"label": ((4,), int)})
    assert output.logits.shape == (4,) and output.features.shape[0] == 4
    assert (output.classes is None) == (not algorithm.auxiliary)
    if recipe is vaegan:
        assert shapes(algorithm.encoder, ((4, *shape),), {"label": ((4,), int)})[0].shape == (4, 2 * algorithm.latent)


@pytest.mark.parametrize(
    "changes", [{"network.upsampling": "resize"}, {"network.attention": 16}, {"network.dtype": "bfloat16"}]
)
def test_oblong_images_have_their_shape_too(changes):
    algorithm = built(cgan, "smoke", (32, 48, 1), **changes | {"gan.auxiliary": 1.0, "discriminator.mbstd_group_size": 4})
    made, variables = shapes(algorithm.generator, ((4, algorithm.latent),), {"label": ((4,), int)})
    assert made.shape == (4, 32, 48, 1) and made.dtype == jnp.float32
    output, others = shapes(algorithm.discriminator, ((4, 32, 48, 1),), {"label": ((4,), int)})
    assert output.logits.shape == (4,) and output.classes.shape == (4, 10)
    assert {x.dtype for x in jax.tree.leaves((variables, others))} == {jnp.dtype("float32")}


# The residual networks once more, in PyTorch, layer after layer as the papers' figures have them.


def nchw(x):
    return x.permute(0, 3, 1, 2)


def torch_conv(torch, x, layer):
    return torch.nn.functional.conv2d(x, layer["kernel"].permute(3, 2, 0, 1), layer["bias"], padding="same")


def torch_norm(torch, x, layer, label):
    x = torch.nn.functional.batch_norm(x, None, None, training=True, eps=1e-5)
    if "scale" in layer:
        scale, bias = layer["scale"]["embedding"][label], layer["bias"]["embedding"][label]
        return x * scale[:, :, None, None] + bias[:, :, None, None]
    scale, bias = layer["BatchNorm_0"]["scale"], layer["BatchNorm_0"]["bias"]
    return x * scale[None, :, None, None] + bias[None, :, None, None]


def torch_generator(torch, params, z, label, coarsest, levels):
    double = functools.partial(torch.nn.functional.interpolate, scale_factor=2, mode="bilinear", align_corners=False)
    x = nchw((z @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]).reshape(-1, *coarsest))
    for i in range(levels):
        block = params[f"_UpBlock_{i}"]
        h = torch_conv(torch, double(torch_norm(torch, x, block["BatchNorm_0"], label).relu()), block["Conv_0"])
        h = torch_conv(torch, torch_norm(torch, h, block["BatchNorm_1"], label).relu(), block["Conv_1"])
        x = h + torch_conv(torch, double(x), block["Conv_2"])
    return torch_conv(torch, torch_norm(torch, x, params["BatchNorm_0"], label).relu(), params["Conv_0"]).tanh()


def torch_discriminator(torch, params, x, label, levels, plain):
    halve = functools.partial(torch.nn.functional.avg_pool2d, kernel_size=2)
    for i in range(levels + plain):
        block = params[f"_DownBlock_{i}"]
        h = torch_conv(torch, torch_conv(torch, x.relu() if i else x, block["Conv_0"]).relu(), block["Conv_1"])
        x = halve(h) + halve(torch_conv(torch, x, block["Conv_2"])) if i < levels else h + x
    pooled, head = x.relu().sum((2, 3)), params["Head_0"]
    of_class = (head["projection"]["embedding"][label] * pooled).sum(1)
    class_logits = pooled @ head["classes"]["kernel"] + head["classes"]["bias"]
    return (pooled @ head["logit"]["kernel"])[:, 0] + head["logit"]["bias"] + of_class, class_logits


def to_torch(torch, tree):
    return jax.tree.map(lambda x: torch.tensor(np.asarray(x)), tree)


@pytest.mark.parity
@pytest.mark.parametrize("classes", [0, 3])
def test_residual_generator_is_that_of_pytorch(classes):
    import torch

    network = resnet_gan.Generator((8, 12, 3), widths=(6, 5), classes=classes)
    z, label = normal(0, 4, 7), labels([0, 2, 1, 2])
    variables = randomised(network, z, {"label": label})
    ours = jax.jit(lambda z: network.apply(variables, z, {"label": label}, train=True, mutable=["batch_stats"])[0])(z)
    theirs = torch_generator(
        torch, to_torch(torch, variables["params"]), torch.tensor(z), torch.tensor(label).long(), (2, 3, 6), 2
    )
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), atol=2e-5)
    assert np.std(ours) > 0.1


@pytest.mark.parity
def test_residual_discriminator_is_that_of_pytorch_and_so_is_its_gradient():
    import torch

    network = resnet_gan.Discriminator(widths=(5, 6), plain=1, classes=3, aux_classes=3)
    x, label = normal(0, 4, 8, 12, 2), labels([0, 2, 1, 2])
    variables = randomised(network, x, {"label": label})
    # Between a halving block's convolutions there are as many channels as before it, but in the first block as after it.
    between = [variables["params"][f"_DownBlock_{i}"]["Conv_0"]["kernel"].shape[-1] for i in range(3)]
    assert between == [5, 5, 6]

    @jax.jit
    def gradient_and_output(x):
        def logits(x):
            output = network.apply(variables, x, {"label": label})
            return output.logits.sum(), output

        return jax.grad(logits, has_aux=True)(x)

    gradient, output = gradient_and_output(x)
    image = torch.tensor(x, requires_grad=True)
    logits, class_logits = torch_discriminator(
        torch, to_torch(torch, variables["params"]), nchw(image), torch.tensor(label).long(), levels=2, plain=1
    )
    logits.sum().backward()
    np.testing.assert_allclose(output.logits, logits.detach(), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(output.classes, class_logits.detach(), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(gradient, image.grad, rtol=1e-3, atol=1e-3 * np.abs(gradient).max())


@pytest.mark.parity
@pytest.mark.parametrize("shape", [(2, 3, 5, 2), (1, 1, 4, 1)])
def test_bilinear_doubling_is_that_of_pytorch(shape):
    import torch

    x = normal(0, *shape)
    theirs = torch.nn.functional.interpolate(nchw(torch.tensor(x)), scale_factor=2, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(blocks.upsample_bilinear(x), theirs.permute(0, 2, 3, 1), atol=1e-6)


def plainly_strided(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def plainly_transposed(x, kernel):
    """Of an input with holes: the kernel upside down, its inputs and outputs swapped, k - 2 places beyond the border."""
    k = len(kernel)
    padding = [(k - 2, 2)] * 2  # from where 2h places are seen
    flipped = kernel[::-1, ::-1]
    return jax.lax.conv_general_dilated(
        x, flipped, (1, 1), padding, lhs_dilation=(2, 2), dimension_numbers=("NHWC", "HWOI", "NHWC")
    )


@pytest.mark.parametrize("k", [3, 4])
def test_convolutions_of_stride_2_have_the_derivatives_of_plain_ones(k):
    """First ones by input and kernel, and second ones: a penalty of a gradient through both, differentiated by all kernels."""
    x, mixed = normal(0, 2, 8, 12, 3), normal(1, 2, 8, 12, 3)
    kernels = normal(2, k, k, 3, 4), normal(3, k, k, 4, 5), normal(4, k, k, 4, 5)

    def derivatives(strided, transposed):
        def network(x, kernels):
            h = jax.nn.softplus(strided(jax.nn.softplus(strided(x, kernels[0])), kernels[1]))
            return (mixed[..., :1] * transposed(transposed(h, kernels[2]), kernels[0])).sum()

        def penalty(kernels):
            return jnp.square(jax.grad(network)(x, kernels)).sum()

        return jax.jit(lambda: (jax.value_and_grad(network, (0, 1))(x, kernels), jax.value_and_grad(penalty)(kernels)))()

    ours = derivatives(blocks.strided_conv, blocks.transposed_conv)
    theirs = derivatives(plainly_strided, plainly_transposed)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize("classes", [0, 3])
def test_batch_norm_is_by_the_batch_and_then_by_the_class(classes):
    x, label = 2 + 3 * normal(0, 6, 3, 4, 5), labels([0, 2, 1, 2, 0, 0])
    network = gan_blocks.BatchNorm(classes)
    params = randomised(network, x, label, train=False)["params"]
    stats = {"BatchNorm_0": {"mean": normal(1, 5), "var": np.square(normal(2, 5))}}
    if classes:
        scale, bias = (np.asarray(params[name]["embedding"])[label][:, None, None] for name in ("scale", "bias"))
    else:
        scale, bias = (np.asarray(params["BatchNorm_0"][name]) for name in ("scale", "bias"))

    def by(mean, variance):
        return (x - mean) / np.sqrt(variance + 1e-5) * scale + bias

    variables = {"params": params, "batch_stats": stats}
    trained, updated = network.apply(variables, jnp.asarray(x), label, train=True, mutable=["batch_stats"])
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(trained, by(mean, variance), atol=1e-4)
    by_average = network.apply(variables, jnp.asarray(x), label, train=False)
    np.testing.assert_allclose(by_average, by(*stats["BatchNorm_0"].values()), rtol=1e-4, atol=1e-4)
    for name, now in (("mean", mean), ("var", variance)):
        expected = 0.9 * stats["BatchNorm_0"][name] + 0.1 * now
        np.testing.assert_allclose(updated["batch_stats"]["BatchNorm_0"][name], expected, rtol=1e-4)


def test_minibatch_stddev_says_how_much_a_group_differs():
    """Image i is with those of i + n / group, ...; the deviation of each place and channel, averaged over both."""
    network, n = gan_blocks.MinibatchStddev(3), 6
    variables = {"batch_stats": {"stddev": jnp.float32(0.5)}}
    x = normal(0, n, 4, 5, 2)
    made, updated = network.apply(variables, x, train=True, mutable=["batch_stats"])
    assert made.shape == (n, 4, 5, 3)
    np.testing.assert_array_equal(made[..., :2], x)
    deviations = [x[[i, i + 2, i + 4]].std(0).mean() for i in range(2)]
    expected = np.array([deviations[i % 2] for i in range(n)])
    np.testing.assert_allclose(made[..., 2], np.broadcast_to(expected[:, None, None], (n, 4, 5)), rtol=1e-4)
    np.testing.assert_allclose(updated["batch_stats"]["stddev"], 0.9 * 0.5 + 0.1 * np.mean(deviations), rtol=1e-4)
    # The other group's images do not matter to one's own.
    other = np.where(np.arange(n)[:, None, None, None] % 2, normal(1, *x.shape), x)
    changed, _ = network.apply(variables, other, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(changed[::2], made[::2])
    assert (np.asarray(changed)[1::2, ..., 2] != np.asarray(made)[1::2, ..., 2]).all()


def test_minibatch_stddev_outside_training_is_of_the_image_alone():
    network, x = gan_blocks.MinibatchStddev(3), normal(0, 5, 2, 2, 1)  # nor must the group divide these
    made = network.apply({"batch_stats": {"stddev": jnp.float32(0.5)}}, x, train=False)
    np.testing.assert_array_equal(made, np.concatenate([x, np.full((5, 2, 2, 1), 0.5, np.float32)], -1))


def test_attention_starts_as_the_identity():
    x = jnp.asarray(normal(0, 2, 4, 6, 16))
    made, _ = jax.jit(gan_blocks.SelfAttention().init_with_output)(KEY, x)
    np.testing.assert_array_equal(made, x)


@pytest.mark.parametrize("shape", [(2, 4, 6, 16), (2, 5, 3, 4)])
def test_attention_is_a_softmax_over_the_maxima_of_2x2_places(shape):
    x, network = normal(0, *shape), gan_blocks.SelfAttention()
    variables = randomised(network, x)
    params = jax.tree.map(np.asarray, variables["params"])
    n, h, w, c = shape
    queries, keys, values, out = (
        x @ params[f"Dense_{i}"]["kernel"] if i < 3 else params["Dense_3"]["kernel"] for i in range(4)
    )
    assert queries.shape[-1] == keys.shape[-1] == max(c // 8, 1) and values.shape[-1] == c // 2
    expected = np.empty_like(x)
    places = [(i, j) for i in range(0, h - 1, 2) for j in range(0, w - 1, 2)]
    for image in range(n):
        key, value = (np.array([y[image, i : i + 2, j : j + 2].max((0, 1)) for i, j in places]) for y in (keys, values))
        for i, j in np.ndindex(h, w):
            weights = np.exp(key @ queries[image, i, j])
            seen = weights @ value / weights.sum()
            expected[image, i, j] = x[image, i, j] + params["gain"] * (seen @ out)
    np.testing.assert_allclose(jax.jit(network.apply)(variables, x), expected, rtol=1e-4, atol=1e-4)


def test_projection_is_the_only_place_where_the_label_enters_a_verdict():
    """Logits of two labels differ by <V_y - V_y', pooled> (Miyato & Koyama 2018, equation 3); those of classes do not."""
    head = gan_blocks.Head(told=4, aux_classes=4, kernel_init=nn.initializers.normal(1.0))
    final, pooled, features = normal(0, 5, 12), normal(1, 5, 3), normal(2, 5, 2, 2, 3)
    label = labels([0, 1, 2, 3, 3])
    first, variables = jax.jit(head.init_with_output)(KEY, final, pooled, label, features)
    second = jax.jit(head.apply)(variables, final, pooled, (label + 1) % 4, features)
    embedding = np.asarray(variables["params"]["projection"]["embedding"])
    expected = ((embedding[(label + 1) % 4] - embedding[label]) * pooled).sum(-1)
    np.testing.assert_allclose(second.logits - first.logits, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(second.classes, first.classes)
    np.testing.assert_array_equal(first.features, features)
    layer = variables["params"]["logit"]
    plain = final @ layer["kernel"][:, 0] + layer["bias"] + (embedding[label] * pooled).sum(-1)
    np.testing.assert_allclose(first.logits, plain, rtol=1e-4, atol=1e-5)


def test_networks_without_labels_do_not_look_at_them():
    x, z, told, other = normal(0, 2, 8, 8, 1), normal(1, 2, 3), {"label": labels([0, 1])}, {"label": labels([1, 0])}
    for network, shown in (
        (dcgan.Discriminator(widths=(4, 4)), x),
        (dcgan.Generator((8, 8, 1), widths=(4, 4)), z),
    ):
        variables = randomised(network, shown, told)
        apply = jax.jit(network.apply)
        for one, two in zip(*map(jax.tree.leaves, (apply(variables, shown, told), apply(variables, shown, other)))):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("conditioning", gan_blocks.CONDITIONINGS)
def test_networks_with_labels_do(conditioning):
    x, z, told, other = normal(0, 2, 8, 8, 1), normal(1, 2, 3), {"label": labels([0, 1])}, {"label": labels([1, 0])}
    both = dict(widths=(4, 4), classes=2, conditioning=conditioning)
    for network, shown in ((dcgan.Discriminator(**both), x), (dcgan.Generator((8, 8, 1), **both), z)):
        variables = randomised(network, shown, told)
        apply = jax.jit(network.apply)
        one, two = (jax.tree.leaves(apply(variables, shown, y))[0] for y in (told, other))
        assert (np.abs(one - two).reshape(2, -1).max(1) > 1e-3).all()


def test_label_planes_are_one_for_the_class_of_the_image():
    x = normal(0, 2, 2, 3, 1)
    made = np.asarray(gan_blocks.with_planes(jnp.asarray(x), labels([2, 0]), 3))
    np.testing.assert_array_equal(made[..., :1], x)
    np.testing.assert_array_equal(made[0, ..., 1:], np.broadcast_to([0, 0, 1], (2, 3, 3)))
    np.testing.assert_array_equal(made[1, ..., 1:], np.broadcast_to([1, 0, 0], (2, 3, 3)))
