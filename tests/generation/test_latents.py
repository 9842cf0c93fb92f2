"""Distributions of codes: against numpy where they have a closed form, and as `python -m experiments.sample --latents=...`."""

import dataclasses
import pathlib

import jax
from jax import numpy as jnp
import numpy as np
from PIL import Image
import pytest

from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import rng
from imagegen_jax.data import domains
from imagegen_jax.generation import latents
from imagegen_jax.generation import sampling
from imagegen_jax.training import checkpoint
from imagegen_jax.training import run
from imagegen_jax.training import sharding

ROOT = pathlib.Path(__file__).parents[2]
PATIENCE = 240  # seconds; a machine under load compiles slowly
CENTRES = np.array([[-10.0, 0.0, 0.0], [10.0, 0.0, 0.0]])


def gaussian(rng, n, d=3):
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)).astype(np.float32)


def clusters(n=300):
    """((n, 3) codes, (n,) labels) of two far clusters; a third of the codes, with label 1, in the right one."""
    rng = np.random.default_rng(0)
    labels = (np.arange(n) % 3 == 0).astype(np.int32)
    return (CENTRES[labels] + rng.normal(size=(n, 3))).astype(np.float32), labels


draw_fn = jax.jit(latents.Mixture.draw)


def draws(mixture, n=5000, label=None):
    keys = jax.random.split(jax.random.key(0), n)
    return np.asarray(draw_fn(mixture, keys, None if label is None else jnp.full(n, label)))


# ---------------------------------------------------------------------------------------------------------------- the mixture


@pytest.mark.parametrize("options", [latents.Options("gmm", components=1), latents.Options("tree", leaves=2)])
@pytest.mark.parametrize("d", [1, 3])
def test_one_component_is_the_gaussian_of_the_codes(options, d):
    codes = gaussian(
        np.random.default_rng(1), 15 if options.kind == "tree" and d == 3 else 4 * (d + 1) - 1, d
    )  # too few to part
    mixture = latents.fit(options, codes, None, 0)
    covariance = np.cov(codes, rowvar=False, bias=True).reshape(d, d)
    assert mixture.weights.tolist() == [[1.0]]
    np.testing.assert_allclose(mixture.means, codes.mean(0)[None], atol=1e-5)
    np.testing.assert_allclose(mixture.factors[0] @ mixture.factors[0].T, covariance, atol=1e-5 * np.trace(covariance))
    drawn = draws(mixture, 20_000)
    scale = np.sqrt(covariance.max())
    np.testing.assert_allclose(drawn.mean(0), codes.mean(0), atol=0.05 * scale)
    np.testing.assert_allclose(np.cov(drawn, rowvar=False, bias=True).reshape(d, d), covariance, atol=0.05 * scale**2)


def test_a_mixture_is_recovered():
    rng = np.random.default_rng(0)
    weights, means = np.array([0.2, 0.3, 0.5]), np.array([[-8.0, 0.0], [0.0, 8.0], [8.0, 0.0]])
    factors = np.array([[[1.0, 0.0], [0.8, 0.6]], [[2.0, 0.0], [0.0, 0.5]], [[1.0, 0.0], [-0.9, 0.4]]])
    which = rng.choice(3, 4000, p=weights)
    codes = means[which] + np.einsum("nij,nj->ni", factors[which], rng.normal(size=(4000, 2)))
    mixture = latents.fit(latents.Options("gmm", components=3), codes.astype(np.float32), None, 0)
    order = mixture.means[:, 0].argsort()
    np.testing.assert_allclose(mixture.weights[order, 0], weights, atol=0.03)
    np.testing.assert_allclose(mixture.means[order], means, atol=0.15)
    np.testing.assert_allclose(mixture.factors[order], factors, atol=0.1)
    drawn = draws(mixture)
    nearest = np.square(drawn[:, None] - means).sum(-1).argmin(1)
    np.testing.assert_allclose(np.bincount(nearest) / len(drawn), weights, atol=0.03)


def test_the_masses_of_leaves_are_counts_of_labels():
    rng = np.random.default_rng(0)
    codes, labels = gaussian(rng, 500), rng.integers(0, 4, 500)
    mixture = latents.fit(latents.Options("tree", leaves=7), codes, labels, 5)
    assert mixture.weights.shape == (7, 5) and mixture.means.shape == (7, 3)
    np.testing.assert_allclose(mixture.weights.sum(0), np.bincount(labels, minlength=5) / 500, atol=1e-6)
    masses = mixture.weights.sum(1)
    assert (masses * 500 > 8 - 1e-3).all()  # 2 (d + 1)
    np.testing.assert_allclose(masses * 500, np.rint(masses * 500), atol=1e-3)
    # The laws of total expectation and of total variance hold of a partition, and of no other set of Gaussians.
    np.testing.assert_allclose(masses @ mixture.means, codes.mean(0), atol=1e-4)
    within = np.einsum("k,kij,klj->il", masses, mixture.factors, mixture.factors)
    between = np.cov(mixture.means, rowvar=False, bias=True, aweights=masses)
    np.testing.assert_allclose(within + between, np.cov(codes, rowvar=False, bias=True), atol=1e-3)


@pytest.mark.parametrize(
    "options", [latents.Options("tree", leaves=2), latents.Options("gmm", components=2), latents.Options("aggregate")]
)
def test_a_label_is_drawn_from_its_own_cluster(options):
    codes, labels = clusters()
    mixture = latents.fit(options, codes, labels, 2)
    for label, centre in enumerate(CENTRES):
        assert (np.sign(draws(mixture, label=label)[:, 0]) == np.sign(centre[0])).all()
    # Without a label, in the proportions of the data.
    assert abs((draws(mixture)[:, 0] > 0).mean() - 1 / 3) < 0.03


def test_a_component_of_two_labels_counts_for_each_by_its_share():
    codes = clusters()[0]
    labels = np.where(codes[:, 0] > 0, 1, np.arange(300) % 2)  # on the left half of them are 1 too
    mixture = latents.fit(latents.Options("gmm", components=2), codes, labels, 2)
    right = (codes[labels == 1][:, 0] > 0).mean()
    assert abs((draws(mixture, label=1)[:, 0] > 0).mean() - right) < 0.03
    assert (draws(mixture, label=0)[:, 0] < 0).all()


def test_a_density_tree_parts_clusters_without_labels():
    codes, labels = clusters()
    mixture = latents.fit(latents.Options("tree", leaves=2), codes, np.full(300, -1), 0)
    order = mixture.means[:, 0].argsort()
    np.testing.assert_allclose(mixture.weights[order, 0], [2 / 3, 1 / 3], atol=1e-6)
    expected = [codes[labels == label].mean(0) for label in (0, 1)]
    np.testing.assert_allclose(mixture.means[order], expected, atol=1e-5)


def test_the_aggregate_is_the_codes_themselves():
    codes, labels = clusters(6)
    mixture = latents.fit(latents.Options("aggregate"), codes, labels, 2)
    assert mixture.factors is None
    drawn = draws(mixture)
    which = (drawn[:, None] == codes).all(-1)
    assert which.any(1).all()
    np.testing.assert_allclose(which.mean(0), 1 / 6, atol=0.02)


@pytest.mark.parametrize("kind", ["aggregate", "gmm"])
def test_a_draw_does_not_depend_on_the_others(kind):
    codes, labels = clusters()
    mixture = latents.fit(latents.Options(kind, components=4 if kind == "gmm" else None), codes, labels, 2)
    keys = jax.random.split(jax.random.key(0), 12)
    wanted = jnp.arange(12) % 2
    whole = np.asarray(draw_fn(mixture, keys, wanted))
    assert len(np.unique(whole, axis=0)) > 6
    for rows in (slice(0, 5), slice(11, 12)):
        np.testing.assert_allclose(draw_fn(mixture, keys[rows], wanted[rows]), whole[rows], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "n", "d", "words"),
    [
        (
            latents.Options("gmm", components=5),
            39,
            3,
            "--components is 5: a Gaussian of 3 dimensions needs 8 .* choose 4 at most",
        ),
        (latents.Options("tree", leaves=2), 7, 3, "--latents=tree: a Gaussian of 3 dimensions needs 8 codes, and there are 7"),
        (latents.Options("tree", leaves=2), 2000, 513, "codes of 513 dimensions are too large .* choose --latents=aggregate"),
    ],
)
def test_impossible_fits_are_refused(options, n, d, words):
    with pytest.raises(errors.UserError, match=words):
        latents.fit(options, np.zeros((n, d), np.float32), None, 0)


@pytest.mark.parametrize("kind", ["gmm", "tree"])
def test_codes_that_are_all_alike_are_drawn_again(kind):
    options = latents.Options(kind, components=2 if kind == "gmm" else None, leaves=2 if kind == "tree" else None)
    mixture = latents.fit(options, np.full((50, 3), 0.5, np.float32), None, 0)
    np.testing.assert_allclose(draws(mixture), 0.5, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", ["aggregate", "gmm"])
def test_what_is_stored_comes_back_exactly_and_unpickled(tmp_path, kind):
    codes, labels = clusters()
    mixture = latents.fit(latents.Options(kind, components=2 if kind == "gmm" else None), codes, labels, 2)
    path = tmp_path / "latents" / "1.npz"
    latents.save(path, mixture, {"kind": kind, "é": [1, None]})
    read, about = latents.load(path, 3)
    assert about == {"kind": kind, "é": [1, None]}
    jax.tree.map(np.testing.assert_array_equal, read, mixture)
    assert (read.factors is None) == (kind == "aggregate")
    assert list(path.parent.iterdir()) == [path]
    with np.load(path, allow_pickle=False) as saved:
        assert all(saved[name].dtype != object for name in saved.files)


def _rewritten(path, **changes):
    with np.load(path) as saved:
        arrays = dict(saved)
    np.savez(path, **{name: value for name, value in (arrays | changes).items() if value is not None})


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not a mixture"),
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: path.write_bytes(path.read_bytes().replace(np.float32(1234.5).tobytes(), np.float32(1.0).tobytes())),
        lambda path: _rewritten(path, means=None),
        lambda path: _rewritten(path, about=None),
        lambda path: _rewritten(path, about=np.array("[1, 2]")),
        lambda path: _rewritten(path, other=np.zeros(3, np.float32)),
        lambda path: _rewritten(path, weights=np.ones((3, 1), np.float32)),
        lambda path: _rewritten(path, means=np.full((2, 3), np.nan, np.float32)),
        lambda path: _rewritten(path, means=np.array([[1, "x", None]] * 2, object)),
        lambda path: _rewritten(path, factors=np.zeros((2, 3, 4), np.float32)),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path, damage):
    path = tmp_path / "1.npz"
    factors = np.broadcast_to(np.eye(3, dtype=np.float32), (2, 3, 3))
    latents.save(path, latents.Mixture(np.ones((2, 1), np.float32), np.full((2, 3), 1234.5, np.float32), factors), {})
    latents.load(path, 3)
    damage(path)
    with pytest.raises(errors.UserError, match=r"cannot read .*1.npz \(.+\): delete it") as caught:
        latents.load(path, 3)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------ with a network and data

NUM = 70
BRIGHTNESS = (40, 215)  # of the images of each class, which codes of any network tell apart


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight by eight pixels in two classes, three dark images for two bright ones."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for i in range(NUM):
        label = int(i % 5 > 2)
        path = root / f"train/{'ab'[label]}/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((BRIGHTNESS[label] + rng.integers(-20, 20, (8, 8))).astype(np.uint8)).save(path)
    return root


def made(config, source, classes=2):
    """(run.Run, mesh) of an untrained network."""
    config.data.source = f"folder:{source}"
    config.network.name = "dense"
    config.network.widths = (16,)
    config.network.latent = 3
    config.eval.batch_size = 24
    specs = images.Spec((8, 8, 1), images.unnamed(classes))
    algorithm = run.build_algorithm(config, specs)
    mesh = sharding.make_mesh(8)
    state = jax.jit(algorithm.init, out_shardings=sharding.replicated(mesh))(jax.random.key(0))
    return run.Run("", config_lib.typed(config), specs, algorithm, state, 7), mesh


@pytest.fixture(scope="module")
def autoencoder(folder):
    return made(config_lib.default("autoencoder"), folder)


@pytest.fixture(scope="module")
def conditional(folder):
    config = config_lib.default("vae")
    config.vae.conditional = True
    return made(config, folder)


def test_every_image_is_encoded_once_whatever_the_batch_size(folder, autoencoder, monkeypatch):
    trained, mesh = autoencoder
    algorithm, state = trained.algorithm, trained.state
    domain = domains.open_domains(trained.config.data, "train", trained.spec)
    codes, labels = latents.encode(algorithm, state, domain, mesh, 24, seed=0)
    batch = domain.reader(list(range(NUM)))
    np.testing.assert_allclose(codes, jax.jit(algorithm.encode)(state, batch), atol=1e-5)
    np.testing.assert_array_equal(labels, batch["condition"]["label"])
    monkeypatch.setattr(latents, "_MOST_IMAGES", 30)
    fewer, few_labels = latents.encode(algorithm, state, domain, mesh, 8, seed=0)
    rows = [int(np.abs(codes - code).max(1).argmin()) for code in fewer]
    np.testing.assert_allclose(codes[rows], fewer, atol=1e-5)
    assert len(fewer) == 30 and (np.diff(rows) > 0).all() and rows[-1] - rows[0] > 50
    np.testing.assert_array_equal(labels[rows], few_labels)


def test_codes_are_random_ones_of_the_posterior(conditional):
    trained, mesh = conditional
    algorithm, state = trained.algorithm, trained.state
    domain = domains.open_domains(trained.config.data, "train", trained.spec)
    codes, _ = latents.encode(algorithm, state, domain, mesh, 24, seed=0)
    likely = jax.jit(algorithm.encode)(state, domain.reader(list(range(NUM))))
    assert np.abs(codes - likely).max() > 0.1
    np.testing.assert_allclose(codes, latents.encode(algorithm, state, domain, mesh, 40, seed=0)[0], atol=1e-5)


def test_a_run_that_cannot_be_written_is_drawn_from(tmp_path, autoencoder, capsys):
    trained, mesh = autoencoder
    (tmp_path / "latents").touch()  # in the way of the folder
    draw, about = latents.drawing(latents.Options("aggregate"), dataclasses.replace(trained, workdir=tmp_path), mesh)
    assert draw and about["latents"]["codes"] == NUM
    assert f"cannot write {tmp_path}/latents/7-aggregate.npz: " in capsys.readouterr().err.splitlines()[-1]


def test_a_mixture_is_fitted_once_for_a_state(tmp_path, folder, autoencoder, capsys):
    trained, mesh = autoencoder
    trained = dataclasses.replace(trained, workdir=tmp_path)
    algorithm, state, specs = trained.algorithm, trained.state, trained.spec
    options = latents.resolve(latents.Options("tree", leaves=2), algorithm, specs, label=1)
    draw, about = latents.drawing(options, trained, mesh, labels=(1,))
    path = tmp_path / "latents" / "7-tree-2.npz"
    fitted, known = latents.load(path, 3)
    assert "encoding" in capsys.readouterr().err
    assert about["latents"] == {
        "kind": "tree", "leaves": 2, "codes": NUM, "data": known["data"], "fingerprint": about["latents"]["fingerprint"],
    }  # fmt: skip
    assert (known["step"], known["ema"]) == (7, True)

    # The images are those that the codes, drawn with each image's own key, are decoded to; in batches of any size.
    drawer = sampling.Drawer(algorithm, mesh, 8, draw)
    drawn = np.concatenate(list(drawer.batches(state, 0, 20, label=1)))
    other = np.concatenate(list(sampling.Drawer(algorithm, mesh, 16, draw).batches(state, 0, 20, label=1)))
    assert np.abs(drawn.astype(int) - other).max() <= 1
    keys = jax.vmap(lambda i: jax.random.fold_in(sharding.key(mesh, 0, "sample"), i))(jnp.arange(20))
    expected = images.to_uint8(algorithm.decode(state, draw_fn(fitted, keys, jnp.ones(20, jnp.int32)), {}))
    assert np.abs(drawn.astype(int) - expected).max() <= 1

    # What is stored is used again, without encoding the images; not for another state, nor where the images are others.
    before = path.read_bytes()
    latents.drawing(options, trained, mesh)
    assert "encoding" not in capsys.readouterr().err and path.read_bytes() == before
    latents.save(path, fitted, known | {"data": "v2:0123456789ab"})
    _, again = latents.drawing(options, trained, mesh)
    assert "encoding" in capsys.readouterr().err and again == about
    for ema, name in ((False, "7-raw-tree-2.npz"), (0.07, "7-ema0.07-tree-2.npz")):
        _, other_average = latents.drawing(options, dataclasses.replace(trained, ema=ema), mesh)
        assert "encoding" in capsys.readouterr().err and (tmp_path / "latents" / name).exists()
        assert other_average == about
    doubled = state.replace(params=jax.tree.map(lambda x: 2 * x, state.params))
    _, changed = latents.drawing(options, dataclasses.replace(trained, state=doubled), mesh)
    assert "encoding" in capsys.readouterr().err and path.read_bytes() != before
    assert changed["latents"]["fingerprint"] != about["latents"]["fingerprint"]

    latents.save(path, latents.Mixture(*(array[..., :2] for array in (fitted.weights, fitted.means))), known)
    with pytest.raises(errors.UserError, match="7-tree-2.npz .* of 2 dimensions, and this network's have 3: delete it"):
        latents.drawing(options, trained, mesh)


def test_labels_without_images_and_codes_without_numbers_are_refused(tmp_path, folder, autoencoder):
    trained, mesh = autoencoder
    trained = dataclasses.replace(trained, workdir=tmp_path, spec=images.Spec((8, 8, 1), images.unnamed(3)))
    algorithm, state, specs = trained.algorithm, trained.state, trained.spec
    options = latents.resolve(latents.Options("aggregate"), algorithm, specs, label=2)
    with pytest.raises(errors.UserError, match="--latents=aggregate: none of the training images .* has label 2"):
        latents.drawing(options, trained, mesh, labels=(2,))
    diverged = state.replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params))
    with pytest.raises(errors.UserError, match="step 7 are not finite"):
        latents.drawing(options, dataclasses.replace(trained, state=diverged), mesh)


def test_a_conditional_family_is_told_the_label_that_its_code_was_drawn_for(tmp_path, conditional):
    trained, mesh = conditional
    trained = dataclasses.replace(trained, workdir=tmp_path)
    algorithm, state, specs = trained.algorithm, trained.state, trained.spec
    options = latents.resolve(latents.Options("aggregate"), algorithm, specs)
    draw, _ = latents.drawing(options, trained, mesh)
    index, label = jnp.arange(8), jnp.arange(8) % 2
    keys = rng.per_index(jax.random.key(0), index)
    drawn = jax.jit(draw)(state, keys, {"label": label}, None)
    mixture, _ = latents.load(tmp_path / "latents" / "7-aggregate.npz", 3)
    codes = draw_fn(mixture, keys, label)
    of_label = mixture.weights[(codes[:, None] == mixture.means).all(-1).argmax(1)] > 0
    np.testing.assert_array_equal(of_label.argmax(1), label)
    np.testing.assert_allclose(drawn, jax.jit(algorithm.decode)(state, codes, {"label": label}), atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ what is asked for


@pytest.mark.parametrize(
    ("components", "leaves", "words"), [(0, None, "--components is 0: .* 1"), (None, 1, "--leaves is 1: .* 2")]
)
def test_numbers_that_are_too_small_are_refused(components, leaves, words):
    with pytest.raises(errors.UserError, match=words):
        latents.Options(None, components, leaves)


def test_what_is_left_open_depends_on_the_family(autoencoder, conditional, folder):
    trained, mesh = autoencoder
    plain, specs = trained.algorithm, trained.spec
    assert latents.resolve(latents.Options(), plain, specs) == latents.Options("gmm", components=10)
    assert latents.resolve(latents.Options("tree"), plain, specs, label=1) == latents.Options("tree", leaves=64)
    trained, _ = conditional
    vae, specs = trained.algorithm, trained.spec
    options = latents.resolve(latents.Options(), vae, specs, label=1, temperature=(0.5,))
    assert options == latents.Options("prior")
    assert latents.drawing(options, trained, mesh) == (None, {})


@pytest.mark.parametrize(
    ("family", "options", "request_", "words"),
    [
        ("autoencoder", latents.Options("prior"), {}, "draws no images by itself: choose --latents=gmm, tree or aggregate"),
        ("autoencoder", latents.Options(), {"label": 2}, "--label=2: choose 0 to 1"),
        ("autoencoder", latents.Options("gmm"), {"label": -1}, "--label=-1: choose 0 to 1"),
        ("autoencoder", latents.Options("gmm"), {"temperature": (0.5,)}, "--temperature means nothing with --latents=gmm"),
        ("autoencoder", latents.Options("gmm", leaves=8), {}, "--leaves belongs to --latents=tree, and this is --latents=gmm"),
        ("unlabelled", latents.Options("tree"), {"label": 0}, "--label=0: the training images have no labels"),
        ("vae", latents.Options(components=3), {}, "--components belongs to --latents=gmm, and this is --latents=prior"),
        ("vae", latents.Options(), {"label": 0}, "takes no labels, but --latents=gmm may"),
        ("vae", latents.Options(), {"steps": 10}, "--steps=10: this family"),
        ("conditional", latents.Options(), {"label": 2}, "--label=2: choose 0 to 1"),
        ("baseline", latents.Options("gmm"), {}, "--latents=gmm: this run's family has no codes"),
        ("baseline", latents.Options(), {"label": 0}, "--label=0: this run's family takes no labels; leave it out"),
    ],
)
def test_impossible_requests_are_refused(family, options, request_, words, folder):
    named = {"unlabelled": "autoencoder", "conditional": "vae"}.get(family, family)
    config = config_lib.default(named)
    if family == "conditional":
        config.vae.conditional = True
    specs = images.Spec((8, 8, 1), images.unnamed(0 if family == "unlabelled" else 2))
    with pytest.raises(errors.UserError, match=words):
        latents.resolve(options, run.build_algorithm(config, specs), specs, **request_)


def test_the_command(tmp_path, conditional, command):
    """A run in a folder, asked for images of each label by a tree over the codes of its data."""
    trained, mesh = conditional
    algorithm, state, specs = trained.algorithm, trained.state, trained.spec
    run.save_config(tmp_path, trained.config, specs)
    with checkpoint.Checkpointer(tmp_path / run.CHECKPOINTS) as checkpointer:
        checkpointer.save(state, checkpoint.Position(7, 0.0, NUM, ""))
    out = tmp_path / "x.npz"
    words = [f"--workdir={tmp_path}", f"--out={out}", "--latents=tree", "--leaves=2", "--num=5", "--batch_size=8"]
    command("sample")(*words)
    loaded = run.load(tmp_path)
    options = latents.resolve(latents.Options("tree", leaves=2), algorithm, specs)
    (tmp_path / "latents" / "7-tree-2.npz").stat()
    draw, _ = latents.drawing(options, loaded, mesh)
    expected = np.concatenate(list(sampling.Drawer(algorithm, mesh, 8, draw).batches(loaded.state, 0, 5)))
    with np.load(out) as saved:
        assert saved["labels"].tolist() == [0, 1, 0, 1, 0] and saved["labels"].dtype == np.int32
        assert np.abs(saved["images"].astype(int) - expected).max() <= 1
