"""What drawn images are worth as training data."""

import functools
import types

import numpy as np
from PIL import Image
import pytest

from configs import classifier
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax.api import augmenting
from imagegen_jax.data import domains

STEPS = 12


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on images of two classes, dark and bright, of which there are 20 and 30."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, num, mean in (("bright", 20, 180), ("dark", 30, 70)):
        for split in ("train", "test"):
            (folder / split / name).mkdir(parents=True)
            for i in range(num):
                image = rng.normal(mean, 20, (8, 8)).clip(0, 255).astype(np.uint8)
                Image.fromarray(image).save(folder / split / name / f"{i:02d}.png")
    config = config_lib.default("gan")
    config.data.source = f"folder:{folder}"
    config.data.test_split = "test"
    config = config_lib.typed(config)
    spec = domains.open_domains(config.data, "train").spec
    return types.SimpleNamespace(
        workdir="runs/cgan", config=config, spec=spec, step=7, algorithm=types.SimpleNamespace(classes=2)
    )


@functools.cache
def recipe():
    config = classifier.get_config("smoke")
    config.network.widths = (8,)
    config.network.groups = 2
    config.optimizer.lr = 3e-2
    config.duration = f"{STEPS} steps"
    config.classifier.degradation = 0.0
    config.network.multiscale = False
    return config


def drawing_of(examples):
    """What stands in for a run's drawings."""
    return lambda *_, **__: types.SimpleNamespace(labels=examples.labels, images=lambda: examples.images, protocol=dict)


@pytest.fixture
def real(trained):
    found = augmenting.image_sets.of_data(trained.config.data, "train", trained.spec.shape, trained.spec.known_names)
    return augmenting.Examples(*found.read(np.arange(50)))


def test_training_images_that_are_drawn_are_worth_what_they_are(trained, real, monkeypatch):
    """To the bit: the same choices, parameters and steps. Wrong labels make them worth less than nothing."""
    monkeypatch.setattr(augmenting.sampling, "prepare", drawing_of(real))
    report = augmenting.evaluate(trained, recipe(), real=(5, 20), seeds=2)
    rows = {(row["real"], row["drawn"]): row for row in report["rows"]}
    assert list(rows) == [(0, 50), (5, 0), (5, 50), ("all", 0), ("all", 50)]  # there are no more than 20 of one class
    assert rows[0, 50]["accuracies"] == rows["all", 0]["accuracies"]
    assert all(row["accuracy"] > 0.9 for row in report["rows"])
    assert len(augmenting.text(report).splitlines()) == 6

    monkeypatch.setattr(augmenting.sampling, "prepare", drawing_of(augmenting.Examples(real.images, 1 - real.labels)))
    report = augmenting.evaluate(trained, recipe(), real=(), seeds=2)
    assert report["rows"][0]["accuracy"] < 0.1


def test_of_each_class_there_are_as_many(real):
    chosen = real.of_each_class(7, np.random.default_rng(0))
    assert np.bincount(chosen.labels).tolist() == [7, 7]
    assert len(np.unique(chosen.images, axis=0)) == 14  # none twice
    np.testing.assert_array_equal(chosen.images.mean((1, 2, 3)) < 125, chosen.labels == 1)


def test_the_interval_is_students(trained):
    mean, (low, high) = augmenting._over_seeds([0.8, 0.9, 0.7])
    half = 4.302653 * 0.1 / np.sqrt(3)  # t of .975 at 2 degrees of freedom, times the mean's standard error
    assert mean == pytest.approx(0.8) and (low, high) == pytest.approx((0.8 - half, 0.8 + half))


def test_only_runs_that_are_told_labels_and_all_of_them(trained):
    untold = types.SimpleNamespace(workdir="runs/ddpm", algorithm=types.SimpleNamespace(classes=0))
    with pytest.raises(errors.UserError, match="runs/ddpm is told no labels"):
        augmenting.evaluate(untold, recipe())
    with pytest.raises(errors.UserError, match="--label: all classes are drawn here"):
        augmenting.evaluate(trained, recipe(), label=3)
    with pytest.raises(errors.UserError, match="augmentation_seeds"):
        augmenting.evaluate(trained, recipe(), seeds=1)
