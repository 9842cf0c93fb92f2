"""What is compared with PyTorch, what is refused, and what the comparison says. No timing is asserted."""

import importlib.util
import math
import shutil

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from configs import dit
from experiments.torch_reference import cyclegan as cyclegan_reference
from experiments.torch_reference import gan as gan_reference
from experiments.torch_reference import inception as inception_reference
from experiments.torch_reference import pytorch
from experiments.torch_reference import unet as unet_reference
from experiments.torch_reference import vae as vae_reference
from imagegen_jax import errors
from imagegen_jax import machine
from imagegen_jax.benchmark import extraction
from imagegen_jax.benchmark import recipe
from imagegen_jax.benchmark import steps
from imagegen_jax.benchmark import timing
from imagegen_jax.training import sharding

REFERENCES = dict(diffusion=unet_reference, cyclegan=cyclegan_reference, gan=gan_reference, vae=vae_reference)


def one_device():
    return sharding.make_mesh(1, devices=jax.devices()[:1])


class IdleTraining(recipe.Training):
    """Steps in no time, which a benchmark's own would take long to compile."""

    def __init__(self, config, algorithm):
        self.config, self.algorithm, self.mesh = config, algorithm, one_device()
        shapes = jax.eval_shape(algorithm.init, jax.random.key(0))
        self.state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        record = {"image": np.zeros((8, 28, 28, 1), np.uint8)}
        self.batch = {"a": record, "b": record} if config.algorithm == "cyclegan" else record

    def __call__(self):
        pass


def check_comparison(found, times):
    assert all(found[kind].keys() == {"ours", "theirs", "ratio"} for kind in times)
    assert all(math.isfinite(x) and x > 0 for x in jax.tree.leaves([found[kind] for kind in times]))
    assert f"{found['name']}_version" in found and found["device"] == "cpu"


@pytest.fixture
def quick(monkeypatch):
    """Calls that do not wait for threads of other processes, and few of them."""
    monkeypatch.setattr(machine, "cpu_count", lambda: 1)
    monkeypatch.setattr(timing, "WARM_UP", 0)
    monkeypatch.setattr(steps, "_MATMUL_SIZES", (64,))
    monkeypatch.setattr(recipe, "_PIPELINE_SECONDS", 0.05)
    monkeypatch.setattr(extraction, "_BATCH", (1, 8, 8, 3))


DEEPER = {"network.multipliers": (1, 2, 4), "network.blocks": 2, "network.attention_levels": (1, 2), "network.heads": 4}


@pytest.mark.parity
@pytest.mark.parametrize(
    ("fixture", "changes"),
    [
        ("tiny_config", {"network.patch_size": 1, "network.channels": 16} | DEEPER),
        ("cyclegan_config", {}),
        ("gan_config", {}),
        ("vae_config", {}),
    ],
)
def test_recipe_is_compared(request, build, quick, fixture, changes):
    """With networks of as many parameters, which is an error otherwise."""
    config = request.getfixturevalue(fixture)
    config.update_from_flattened_dict(changes)
    training = IdleTraining(config, build(config))
    found = REFERENCES[config.algorithm].compare(training, 1, compiled=False)
    check_comparison(found, ("step_ms", "forward_ms"))
    assert found["parameters"] == training.parameters and found["forward_images"] == 8


@pytest.mark.parity
def test_networks_are_compiled(gan_config, build, quick):
    """But for a discriminator whose penalty takes gradients of gradients."""
    found = gan_reference.compare(IdleTraining(gan_config, build(gan_config)), 1, compiled=True)
    check_comparison(found, ("step_ms", "compiled_step_ms", "forward_ms"))


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(errors.UserError, match=r"^--against=torch --torch_compile: .* C\+\+ compiler"):
        pytorch.check_compiler("torch")


@pytest.mark.parity
def test_a_reference_follows_true_steps(tiny_config, quick):
    """Each of which donates the state before it."""
    results = recipe.measure(tiny_config, 2, unet_reference)
    check_comparison(results["against"], ("step_ms", "forward_ms"))
    assert results["against"]["parameters"] == results["parameters"]


@pytest.mark.parity
def test_features_are_compared(quick):
    step = extraction.Extraction(one_device())
    found = inception_reference.compare(step, 1)
    check_comparison(found, ("step_ms",))
    assert found["parameters"] == step.parameters


@pytest.mark.parametrize(
    ("fixture", "key", "value", "words"),
    [
        ("tiny_config", "optimizer.name", "lion", "adam or adamw"),
        ("tiny_config", "optimizer.accumulate", 2, "accumulate"),
        ("tiny_config", "network.groups", 3, "groups"),
        ("tiny_config", "network.multipliers", (1, 2, 2, 2), "multiples of 16"),
        ("cyclegan_config", "optimizer.clip_norm", 1.0, "clip_norm must be 0"),
        ("cyclegan_config", "network.upsampling", "resize", "upsampling must be 'transposed'"),
        ("cyclegan_config", "network.remat", True, "remat must be False"),
        ("cyclegan_config", "discriminator.name", "pixel", "discriminator.name must be 'patch'"),
        ("cyclegan_config", "cyclegan.loss", "hinge", "loss must be 'least_squares'"),
        ("gan_config", "network.name", "resnet", "network.name must be 'dcgan'"),
        ("gan_config", "network.upsampling", "resize", "upsampling must be 'transposed'"),
        ("gan_config", "network.attention", 14, "attention must be 0"),
        ("gan_config", "discriminator.norm", "spectral", "norm must be 'none'"),
        ("gan_config", "discriminator.mbstd_group_size", 4, "mbstd_group_size must be 0"),
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
def test_what_has_no_reference_is_refused(request, build, monkeypatch, fixture, key, value, words):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    config = request.getfixturevalue(fixture)
    config.update_from_flattened_dict({key: value})
    algorithm = build(config)
    with pytest.raises(errors.UserError, match=words):
        REFERENCES[config.algorithm].check(config, algorithm, one_device())


def test_a_transformer_has_no_u_net_to_be_compared_with(build, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    config = dit.get_config("smoke")
    with pytest.raises(errors.UserError, match="--against=diffusers: config.network.name must be 'unet'"):
        unet_reference.check(config, build(config), one_device())


def test_missing_packages_are_named(tiny_config, cyclegan_config, build, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for config, names in ((tiny_config, "torch and diffusers"), (cyclegan_config, "torch")):
        algorithm = build(config)
        with pytest.raises(errors.UserError, match=rf"needs {names}: pip install 'imagegen_jax\[peers\]'"):
            REFERENCES[config.algorithm].check(config, algorithm, one_device())
    with pytest.raises(errors.UserError, match="needs torch and torch_fidelity: pip install"):
        inception_reference.check(one_device())
