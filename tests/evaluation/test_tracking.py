"""What is said of a run while it trains, on images of which the truth is known."""

import numpy as np
import pytest

from imagegen_jax.data import sources
from imagegen_jax.evaluation import features
from imagegen_jax.evaluation import image_sets
from imagegen_jax.evaluation import tracking
from imagegen_jax.generation import sampling
from imagegen_jax.training import sharding


@pytest.fixture(scope="module")
def bundled():
    """(training images (2000, 28, 28, 1), their labels), and the measurement against the test images."""
    data = sources.Config()
    extractor = features.Extractor(features.named("fashion"), sharding.make_mesh(8), 200)
    images, labels = image_sets.of_data(data, "train").read(np.arange(2000))
    return images, labels, tracking.Distances(extractor, image_sets.of_data(data, "test"))


def noisy(images, seed=0):
    """Off by about two grey levels a pixel."""
    noise = np.random.default_rng(seed).normal(0, 2, images.shape)
    return np.clip(np.round(images + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("n", [100, 500, 2000])
def test_real_images_vary(bundled, n):
    images, _, measure = bundled
    found = measure([images[: n // 3], images[n // 3 : n]])
    assert set(found) == {"eval/fid", "eval/kid", "eval/duplicates", "eval/classes_covered"}
    assert found["eval/duplicates"] < 0.05 and found["eval/classes_covered"] == 1


def test_planted_duplicates_are_counted(bundled):
    images, _, measure = bundled
    pairs = np.concatenate([images[:400], noisy(images[:100])])  # 200 of 500 repeat another one
    assert abs(measure([pairs])["eval/duplicates"] - 0.4) < 0.04
    for one in (0, 7, 20):
        found = measure([noisy(np.repeat(images[one : one + 1], 500, axis=0))])
        assert found["eval/duplicates"] > 0.95 and found["eval/classes_covered"] == 0.1


def test_an_image_taken_for_another_class_covers_none(bundled):
    images, labels, _ = bundled
    decisions = features.Extractor(features.named("fashion"), sharding.make_mesh(8), 200)(images)[1].argmax(1)
    for label in range(10):
        assert tracking.classes_covered(decisions[labels == label], decisions, 10) <= 0.3
    assert tracking.classes_covered(decisions[labels < 5], decisions, 10) == pytest.approx(0.5, abs=0.1)


def test_classes_that_could_not_be_seen_do_not_count():
    real = np.repeat([0, 1, 2, 3], [450, 450, 99, 1])
    assert tracking.classes_covered(np.repeat([0, 1], [95, 5]), real, 5) == 2 / 3  # the third is expected ten times
    assert tracking.classes_covered(np.repeat([0, 1], [96, 4]), real, 5) == 1 / 3
    assert tracking.classes_covered(np.array([0, 1]), real, 5) is None


def test_features_that_tell_no_classes_and_translations():
    rng = np.random.default_rng(0)
    image_set = image_sets.random_pixels((4, 4, 1), 50)
    pixels = features.Extractor(features.named("pixels"), sharding.make_mesh(8), 50)
    found = tracking.Distances(pixels, image_set)([rng.integers(0, 256, (40, 4, 4, 1), np.uint8)], "_ab")
    assert set(found) == {"eval/fid_ab", "eval/kid_ab", "eval/duplicates_ab"}


def test_classes_of_other_images_are_not_counted(capsys):
    measure = tracking.Distances(
        features.Extractor(features.named("fashion"), sharding.make_mesh(8), 40), image_sets.random_pixels((28, 28, 1), 40)
    )
    made = np.random.default_rng(0).integers(0, 256, (30, 28, 28, 1), np.uint8)
    assert "eval/classes_covered" not in measure([made]) and "eval/classes_covered" not in measure([made])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "a classifier of other images" in line and "--config.eval.features=run:WORKDIR" in line


def test_classes_in_the_shares_of_the_data_are_near_it():
    """180 dark images and 20 light ones, from a generator that is told which of the two it should draw, and draws that."""
    kinds = np.random.default_rng(0).normal([[40], [200]], 3, (2, 200)).clip(0, 255).astype(np.uint8)
    draw = lambda labels: np.tile(kinds[labels, np.arange(len(labels))][:, None, None, None], (1, 4, 4, 1))  # noqa: E731
    labels = np.repeat([0, 1], [180, 20])
    image_set = image_sets.ImageSet.readable(
        {}, 200, (4, 4, 1), lambda i: (draw(labels)[i], labels[i]), class_names=("dark", "light"), labels=lambda: labels
    )
    measure = tracking.Distances(features.Extractor(features.named("pixels"), sharding.make_mesh(8), 200), image_set)
    shares = image_set.class_shares()
    equal, alike = (measure([draw(sampling.labels(np.arange(200), 2, shares=each))])["eval/fid"] for each in (None, shares))
    assert alike < 0.01 < 1 < equal


def drawn(duplicates=0.01, covered=1.0):
    return {"eval/duplicates": duplicates, "eval/classes_covered": covered}


def said(watch, evaluations, capsys):
    """What a Watch says at the steps 100, 200, ..."""
    lines = []
    for i, measured in enumerate(evaluations, 1):
        watch(100 * i, measured)
        lines.append(capsys.readouterr().err.strip())
    return lines


def test_a_collapse_is_told_once_until_it_recovers(capsys):
    alike, few, varied = drawn(duplicates=0.97), drawn(covered=0.2), drawn()
    lines = said(tracking.CollapseMonitor(0, "turn the knob"), [varied, alike, few, alike, varied, few, few], capsys)
    assert [bool(line) for line in lines] == [False, True, False, False, False, True, False]
    assert lines[1] == "step 200: the images that are drawn vary little: 97% of them repeat another one; turn the knob"
    assert lines[5] == "step 600: the images that are drawn vary little: they cover 20% of the classes; turn the knob"


def test_an_untrained_network_may_draw_alike_images(capsys):
    alike, varied = drawn(duplicates=1.0, covered=0.1), drawn()
    (first, second, third) = said(tracking.CollapseMonitor(200, ""), [alike] * 3, capsys)
    assert not first and not second and third.startswith("step 300") and third.endswith("10% of the classes")
    assert [bool(line) for line in said(tracking.CollapseMonitor(1000, ""), [alike, varied, alike], capsys)] == [
        False,
        False,
        True,
    ]


def test_classes_need_not_be_known(capsys):
    assert said(tracking.CollapseMonitor(0, ""), [{"eval/duplicates": 0.5}, {"eval/duplicates": 0.6}], capsys)[0] == ""


def test_a_planted_collapse_from_images_to_the_line(bundled, capsys):
    images, _, measure = bundled
    varied, one = (measure([batch]) for batch in (images[:300], noisy(np.repeat(images[:1], 300, axis=0))))
    lines = said(tracking.CollapseMonitor(0, "turn the knob"), [varied, one, one, varied, one], capsys)
    assert [bool(line) for line in lines] == [False, True, False, False, True]
    assert "step 200" in lines[1] and "turn the knob" in lines[1] and "10% of the classes" in lines[1]
