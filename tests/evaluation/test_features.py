"""Features: a function of the image alone, of images that the network takes."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from imagegen_jax import errors
from imagegen_jax.data import domains
from imagegen_jax.data import sources
from imagegen_jax.evaluation import distances
from imagegen_jax.evaluation import features
from imagegen_jax.training import sharding


@pytest.mark.parametrize(("devices", "size"), [(8, 32), (1, 3)])
def test_features_do_not_depend_on_batch_and_devices(devices, size):
    drawn = np.random.default_rng(0).integers(0, 256, (21, 28, 28, 1), np.uint8)
    meshes = [sharding.make_mesh(n, devices=jax.devices()[:n]) for n in (8, devices)]
    one, other = (features.Extractor(features.named("fashion"), *each)(drawn) for each in zip(meshes, (8, size)))
    for ours, theirs in zip(one, other):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def precisions(jaxpr):
    """The precision of each product and convolution of a program."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            found.append(equation.params["precision"])
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            found += precisions(inner)
    return found


def test_products_are_in_full_float32():
    """A processor computes so in any case; an accelerator rounds the arguments unless told."""
    extractor = features.Extractor(features.named("fashion"), sharding.make_mesh(8), 8)
    program = extractor._apply.trace(extractor._variables, np.zeros((8, 28, 28, 1), np.uint8)).jaxpr
    found = precisions(program.jaxpr)
    assert len(found) >= 7 and set(found) == {(jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)}


def test_other_sizes_are_refused():
    extractor = features.Extractor(features.named("fashion"), sharding.make_mesh(8), 8)
    with pytest.raises(errors.UserError, match="32x32x3 and the features 'fashion' take 28x28x1"):
        extractor(np.zeros((2, 32, 32, 3), np.uint8))
    found, logits = features.Extractor(features.named("pixels"), sharding.make_mesh(8), 8)(np.full((2, 4, 4, 3), 255, np.uint8))
    np.testing.assert_array_equal(found, jnp.ones((2, 48)))
    assert logits.shape == (2, 0)


@pytest.mark.parametrize(
    ("name", "resize", "words"),
    [
        ("fashions", None, "choose one of fashion, run:WORKDIR"),
        ("inception", "nearest", "legacy_tensorflow"),
        ("inception:/nowhere/weights.pth", None, "pt_inception-2015-12-05"),
        ("vgg", None, "vgg16-397923af"),
        ("run:/nowhere", None, "not the folder of a run"),
    ],
)
def test_what_is_not_there_is_named(name, resize, words):
    with pytest.raises(errors.UserError, match=words):
        features.named(name, resize)


def test_the_packaged_features_see_noise_and_blur():
    """A little of either moves other real images beyond the interval of their distance; more moves them further."""
    config = sources.Config()
    train, test = (
        np.concatenate([batch["image"] for batch, _ in domains.eval_batches(domains.open_domains(config, split), 2000, 500)])
        for split in ("train", "test")
    )
    grain = np.random.default_rng(0).standard_normal(train.shape)
    noisy = [train + deviation * grain for deviation in (2, 4, 8, 16, 32)]
    blurred = [ndimage.gaussian_filter(train.astype(float), (0, deviation, deviation, 0)) for deviation in (0.4, 0.7, 1)]
    one = sharding.make_mesh(1, devices=jax.devices()[:1])
    extractor = features.Extractor(features.named("fashion"), one, 500)

    def extract(drawn):
        return extractor(np.clip(np.round(drawn), 0, 255).astype(np.uint8))[0]

    real = extract(test)
    reference = distances.Moments.of(real)

    def distance(found):
        return distances.frechet_distance(distances.Moments.of(found), reference)

    clean = extract(train)
    own = distances.Moments.of(clean)
    rows = distances.frechet_influence(clean, own, reference), distances.frechet_influence(real, reference, own)
    _, bound = distances.bootstrap(distance(clean) + rows[0], rows[1])
    noise, blur = ([distance(extract(drawn)) for drawn in each] for each in (noisy, blurred))
    assert noise[1] > bound and blur[0] > bound
    for rising in ([distance(clean), *noise], [distance(clean), *blur]):
        assert (np.diff(rising) > 0).all(), rising
