"""What a GAN's config cannot be, each said in one line that names the key to change."""

import pytest

from configs import gan
from configs import sngan
from configs import vaegan
from configs import wgan_gp
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.training import run


def build(recipe, shape=(28, 28, 1), classes=10, **changes):
    """The algorithm of the smoke recipe with these changes, after all checks."""
    config = recipe.get_config("smoke")
    config.update_from_flattened_dict(changes)
    config_lib.check(config)
    return run.build_algorithm(config, images.Spec(shape, images.unnamed(classes)))


def refusal(*args, **changes):
    """The one line that is said of it."""
    with pytest.raises(errors.UserError) as caught:
        build(*args, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network.name", "unet"),
        ("network.latent", 0),
        ("network.upsampling", "shuffle"),
        ("network.attention", -1),
        ("network.dtype", "float16"),
        ("discriminator.norm", "layer"),
        ("discriminator.plain", -1),
        ("discriminator.mbstd_group_size", -1),
        ("discriminator.lr_ratio", -1.0),
        ("gan.loss", "lsgan"),
        ("gan.label_smoothing", -0.1),
        ("gan.label_smoothing", 0.6),
        ("augment.target", 1.5),
        ("gan.d_steps", 0),
        ("gan.penalty", "gp"),
        ("gan.penalty_weight", -1.0),
        ("gan.penalty_every", 0),
        ("gan.conditioning", "film"),
        ("gan.auxiliary", -1.0),
        ("augment.policy", ("translation", "rotation")),
        ("augment.span", 0),
        ("optimizer.accumulate", 2),
    ],
)
def test_impossible_values_are_named(key, value):
    message = refusal(gan, **{key: value})
    assert message.startswith(f"config.{key} ")
    if isinstance(value, str | tuple):  # and the possible ones are listed
        assert repr(value if isinstance(value, str) else value[-1]) in message and "choose" in message


@pytest.mark.parametrize(
    ("key", "value"), [("vaegan.gamma", -1.0), ("vaegan.beta", -1.0), ("network.name", "conv"), ("encoder.widths", (8, 0))]
)
def test_impossible_values_of_a_vaegan_are_named(key, value):
    assert refusal(vaegan, **{key: value}).startswith(f"config.{key} ")


COMBINATIONS = {  # what: (recipe, changes, where to look, what to change)
    "Wasserstein without a bound": (
        gan,
        {"gan.loss": "wasserstein", "gan.penalty": "none"},
        "config.gan.penalty is 'none'",
        ("--config.gan.penalty=wgan_gp", "--config.discriminator.norm=spectral"),
    ),
    "Wasserstein with a bound at real images alone": (
        gan,
        {"gan.loss": "wasserstein", "gan.penalty": "r1"},
        "config.gan.penalty is 'r1'",
        ("--config.gan.penalty=wgan_gp", "--config.discriminator.norm=spectral"),
    ),
    "penalty with batch norm": (
        wgan_gp,
        {"discriminator.norm": "batch"},
        "config.gan.penalty is 'wgan_gp'",
        ("--config.discriminator.norm=none",),
    ),
    "guesses without labels": (gan, {"gan.auxiliary": 1.0}, "config.gan.auxiliary", ("--config.gan.conditional=True",)),
    "smoothing of a loss without targets": (
        sngan,
        {"gan.label_smoothing": 0.1},
        "config.gan.loss=hinge",
        ("non_saturating", "least_squares", "minimax"),
    ),
    "planes of labels in residual networks": (
        sngan,
        {"gan.conditional": True, "gan.conditioning": "concat"},
        "config.gan.conditioning is 'concat'",
        ("--config.network.name=dcgan",),
    ),
    "another upsampling in residual networks": (
        sngan,
        {"network.upsampling": "resize"},
        "config.network.upsampling is 'resize'",
        ("--config.network.name=dcgan",),
    ),
    "batch norm in residual networks": (
        sngan,
        {"discriminator.norm": "batch"},
        "config.discriminator.norm is 'batch'",
        ("--config.network.name=dcgan",),
    ),
    "images moved away from their reconstructions": (
        vaegan,
        {"augment.policy": ("translation",)},
        "config.augment.policy",
        ("--config.augment.policy='()'",),
    ),
    "adaptive augmentation by nothing": (
        gan,
        {"augment.adaptive": True, "augment.policy": ()},
        "config.augment.adaptive",
        ("--config.augment.policy",),
    ),
    "adaptive augmentation by logits that say nothing": (
        wgan_gp,
        {"augment.adaptive": True, "augment.policy": ("translation",)},
        "config.augment.adaptive",
        ("--config.augment.adaptive=False",),
    ),
    "a batch without equal shares": (gan, {"gan.d_steps": 3}, "config.gan.d_steps is 3", ("config.batch_size (8)",)),
    "a share without whole groups": (
        gan,
        {"gan.d_steps": 2, "discriminator.mbstd_group_size": 3},
        "config.discriminator.mbstd_group_size is 3",
        ("divide the 4 images",),
    ),
    "attention on a side that no map has": (gan, {"network.attention": 13}, "config.network.attention is 13", ("sides of 14",)),
    "attention on a side of the discriminator alone": (
        gan,
        {"network.widths": (8,), "network.attention": 14},
        "config.network.attention is 14",
        ("no common size",),
    ),
}


@pytest.mark.parametrize("what", COMBINATIONS)
def test_what_does_not_go_together_is_said_with_what_to_change(what):
    recipe, changes, where, remedies = COMBINATIONS[what]
    message = refusal(recipe, **changes)
    assert where in message
    for remedy in remedies:
        assert remedy in message


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        (gan, {"gan.loss": "wasserstein", "gan.penalty": "none", "discriminator.norm": "spectral"}),
        (gan, {"gan.penalty": "none", "discriminator.norm": "batch"}),
        (gan, {"gan.penalty": "r1", "discriminator.norm": "spectral"}),
        (gan, {"gan.label_smoothing": 0.1}),
        (gan, {"augment.adaptive": True}),
        (gan, {"gan.conditional": True, "gan.conditioning": "concat", "gan.auxiliary": 1.0}),
        (gan, {"gan.d_steps": 2, "discriminator.mbstd_group_size": 4, "network.attention": 14}),
        (vaegan, {"encoder.widths": (8,)}),
    ],
)
def test_what_goes_together_is_built(recipe, changes):
    build(recipe, **changes)


def test_images_without_labels_have_no_conditional_gan():
    message = refusal(gan, (28, 28, 1), 0, **{"gan.conditional": True})
    assert "config.gan.conditional" in message
    assert "--config.gan.conditional=False" in message
    build(gan, (28, 28, 1), 0)


@pytest.mark.parametrize(
    ("recipe", "shape", "changes"),
    [
        (gan, (4, 28, 1), {}),
        (gan, (28, 3, 1), {}),
        (sngan, (30, 28, 1), {}),
        (sngan, (14, 14, 1), {}),
        (gan, (7, 28, 1), {"network.widths": (8, 8, 8)}),
        (gan, (28, 8, 1), {"discriminator.widths": (8, 8, 8)}),
        (vaegan, (8, 8, 1), {"encoder.widths": (8, 8, 8)}),
    ],
)
def test_sizes_that_cannot_be_halved_so_often_are_refused(recipe, shape, changes):
    message = refusal(recipe, shape, **changes)
    assert f"{shape[0]}x{shape[1]}" in message
    wanted = "a multiple of" if recipe is sngan else "more than"
    assert f"--config.data.image_size to {wanted} {8 if changes else 4}" in message
    for key in changes:
        assert f"3 in config.{key}" in message


@pytest.mark.parametrize("name", ["network", "discriminator", "encoder"])
def test_a_network_without_levels_is_refused(name):
    assert f"0 in config.{name}.widths" in refusal(vaegan, **{f"{name}.widths": ()})
