"""Scores: which can be had, and that they say what they are named for."""

import dataclasses

import numpy as np
import pytest

from imagegen_jax import errors
from imagegen_jax.evaluation import collection
from imagegen_jax.evaluation import distances
from imagegen_jax.evaluation import scoring


def draw(seed, n=1100, shift=0.0, classes=3):
    """Normal features about the corner of a class each, which the logits tell."""
    rng = np.random.default_rng(seed)
    label = rng.integers(classes, size=n)
    found = (rng.normal(size=(n, 8)) + shift + 4 * np.eye(8)[label]).astype(np.float32)
    images = rng.integers(0, 256, (min(n, 50), 12, 12, 1), np.uint8)
    return collection.Collection(found, np.eye(classes, dtype=np.float32)[label] * 9, label.astype(np.int32), images)


def reference_of(images, training=None):
    return scoring.Reference(distances.Moments.of(images.features), {}, images, training, class_names=("a", "b", "c"))


@pytest.fixture(scope="module")
def reference():
    return reference_of(draw(0), draw(1))


def test_the_same_distribution_and_another(reference):
    same, other = (scoring.score(draw(2, shift=shift), reference, scoring.METRICS) for shift in (0.0, 3.0))
    assert same["fid"]["interval"][0] <= same["fid"]["value"] <= same["fid"]["interval"][1] < other["fid"]["interval"][0]
    np.testing.assert_allclose(other["fid"]["value"], 8 * 3.0**2, rtol=0.05)  # the means' distance; the covariances are equal
    assert abs(same["fid"]["infinity"]) < same["fid"]["value"]
    assert abs(same["kid"]["value"]) < 0.02 * other["kid"]["value"]
    assert same["prdc"]["precision"]["value"] > 0.8 and other["prdc"]["coverage"]["value"] < 0.3
    np.testing.assert_allclose(same["is"]["value"], 3.0, rtol=0.03)  # three classes, each equally often, all sure
    assert (
        same["classes"]["coverage"] == 1.0
        and same["classes"]["classes"]["b"]["fid"] < 1 < other["classes"]["classes"]["b"]["fid"]
    )
    assert abs(same["memorisation"]["nearer"] - 0.5) < 0.06
    assert same["diversity"]["duplicates"] == 0.0


def test_copies_and_a_missing_class_are_seen(reference):
    training = reference.training
    copies = scoring.score(training, reference, ["memorisation", "diversity", "classes"])
    assert copies["memorisation"]["nearer_all"] == 1.0
    twice = training[np.repeat(np.flatnonzero(training.labels < 2)[:200], 2)]
    twice = dataclasses.replace(twice, images=training.images)
    found = scoring.score(twice, reference, ["diversity", "classes"])
    assert found["diversity"]["duplicates"] == 1.0
    np.testing.assert_allclose(found["classes"]["coverage"], 2 / 3)
    assert found["classes"]["classes"]["c"]["share"] == 0.0 and "fid" not in found["classes"]["classes"]["c"]


def test_labels_are_compared_with_decisions(reference):
    images = reference.training
    right = dataclasses.replace(images, labels=images.logits.argmax(1).astype(np.int32))
    half = dataclasses.replace(right, labels=np.where(np.arange(len(images)) % 2, right.labels, (right.labels + 1) % 3))
    assert scoring.score(right, reference, ["labels"])["labels"]["value"] == 1.0
    found = scoring.score(half, reference, ["labels"])["labels"]
    assert found["value"] == 0.5 and found["interval"][0] < 0.5 < found["interval"][1]
    unknown = dataclasses.replace(right, labels=np.full(len(images), -1, np.int32))
    assert scoring.score(unknown, reference, ["labels"])["labels"] == {}


def test_by_default_what_can_be_had(reference):
    assert scoring.chosen(None, 1000, reference, True, True) == list(scoring.METRICS)
    assert scoring.chosen(None, 999, reference, True, False) == [
        name for name in scoring.METRICS if name not in ("kid", "labels")
    ]
    statistics = scoring.Reference(dataclasses.replace(reference.moments, count=None), {})
    assert scoring.chosen(None, 1000, statistics, False, False) == ["fid", "diversity"]


@pytest.mark.parametrize(
    ("name", "num", "words"),
    [
        ("fids", 1000, "choose of fid, kid"),
        ("kid", 999, "999 images are too few, it needs 1000"),
        ("is", 9, "too few"),
        ("memorisation", 1000, "training and test images"),
        ("labels", 1000, "not drawn as one class or another"),
    ],
)
def test_what_cannot_be_had_is_refused(reference, name, num, words):
    with pytest.raises(errors.UserError, match=words):
        scoring.chosen([name], num, dataclasses.replace(reference, training=None), True, False)


def test_statistics_of_other_features_are_refused():
    statistics = scoring.Reference(distances.Moments(None, np.zeros(2048), np.eye(2048)), {})
    with pytest.raises(errors.UserError, match="8 features cannot be compared with those of 2048"):
        scoring.score(draw(0), statistics, ["fid"])


def test_few_images_are_said_to_be_few(reference):
    assert any("1100 images are few" in sentence for sentence in scoring.warnings(draw(0), reference))
    assert any("singular" in sentence for sentence in scoring.warnings(draw(0, n=6), reference))
    assert not scoring.warnings(draw(0, n=3000), reference_of(draw(1, n=3000)))


def test_the_table_has_a_column_for_each(reference):
    scores = scoring.score(draw(2), reference, ["fid", "kid", "prdc"])
    text = scoring.table({"these": scores, "those": {"fid": {"value": 12.5}}})
    lines = {line[:22].strip(): line for line in text.splitlines()}
    assert "12.5" in lines["Fréchet distance"] and "[" in lines["Fréchet distance"] and "±" not in lines["precision"]
    assert "Inception Score" not in lines and lines["recall"].count("[") == 1


def test_classes_are_those_of_the_data_by_name_or_by_what_is_seen():
    images = draw(0)
    digits, unknown = ("0", "1", "2"), ("", "", "")
    right = images.logits, images.labels
    wrong = images.logits, (images.labels + 1) % 3
    common = scoring.common_classes
    assert common(("a", "b", "c"), ["a", "b", "c"], *right) == ("a", "b", "c")
    for other in (("a", "c", "b"), ("cat", "dog", "car"), ("a", "b"), ("a", "b", "c", "d"), ()):
        assert common(("a", "b", "c"), other, *right) == common((), other, *right) == ()
    # A number is no name: two sets of digits may be of anything.
    assert common(("a", "b", "c"), digits, *right) == common(unknown, ("a", "b", "c"), *right) == ("a", "b", "c")
    assert common(digits, digits, *right) == common(unknown, unknown, *right) == digits
    for network, data in ((("a", "b", "c"), digits), (digits, digits), (unknown, ("a", "b", "c"))):
        assert common(network, data, *wrong) == ()
        assert common(network, data, images.logits, np.full(len(images), -1)) == ()


def test_another_classifiers_classes_are_none_of_the_data(reference):
    other = dataclasses.replace(reference, class_names=(), other_classes=("shirt", "bag", "coat", "boot"))
    assert set(scoring.METRICS) - set(scoring.chosen(None, 1000, other, True, True)) == {"classes", "labels"}
    with pytest.raises(
        errors.UserError, match="--metrics=labels: it needs the logits of a classifier of these images' classes"
    ):
        scoring.chosen(["labels"], 1000, other, True, True)
    assert sum("of other images (shirt, bag, coat, ...)" in note for note in scoring.warnings(draw(0), other)) == 1
