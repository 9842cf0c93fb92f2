"""Which codes may be drawn, and which stay masked, against their definitions in NumPy."""

import jax
import numpy as np
import pytest

from imagegen_jax import categorical


def allowed(logits, top_k, top_p):
    """Of (K,) logits the codes that may be drawn, by sorting."""
    order = sorted(range(len(logits)), key=lambda code: (-logits[code], code))[: top_k or len(logits)]
    weights = np.exp(logits[order] - np.max(logits))
    total, found = 0.0, set()
    for code, share in zip(order, weights / weights.sum()):
        if total >= top_p:
            break
        total += share
        found.add(code)
    return found


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (1, 1.0), (3, 1.0), (9, 1.0), (0, 0.5), (0, 0.99), (3, 0.7), (0, 1e-9)])
def test_what_may_be_drawn_is_that_of_sorting(top_k, top_p):
    logits = np.random.default_rng(0).normal(0, 2, (20, 6)).astype(np.float32)
    logits[0] = 0.0  # of equal ones the first
    found = np.asarray(categorical.Sampler(temperature=0.5, top_k=top_k, top_p=top_p).filtered(logits))
    for ours, row in zip(found, logits.astype(np.float64)):
        kept = allowed(row / 0.5, top_k, top_p)
        assert set(np.flatnonzero(np.isfinite(ours))) == kept
        np.testing.assert_allclose(ours[sorted(kept)], row[sorted(kept)] / 0.5, rtol=1e-6)


@pytest.mark.parametrize(("length", "steps"), [(49, 8), (256, 12), (256, 8), (6, 6), (49, 49), (5, 1), (5, 2)])
def test_masked_codes_are_as_many_as_the_schedule_says(length, steps):
    found = categorical.masked_after(length, steps)
    assert len(found) == steps and found[-1] == 0
    assert (np.diff([length, *found]) < 0).all()  # each step settles one at least
    expected = np.floor(length * np.cos(np.pi / 2 * np.arange(1, steps) / steps))
    if steps < length / 2:
        np.testing.assert_array_equal(found[:-1], np.maximum(expected, 1))
    if steps == length:
        assert found == tuple(range(length - 1, -1, -1))


def test_the_least_confident_are_masked_again_and_what_is_known_stays():
    rng = np.random.default_rng(0)
    masked, confidence = rng.random((50, 12)) < 0.7, rng.normal(size=(50, 12))
    assert masked.sum(1).min() >= 3
    for left in (0, 1, 3):
        kept = np.asarray(categorical.kept_masked(confidence, masked, left))
        assert (kept.sum(1) == left).all() and not (kept & ~masked).any()
        for row, before, values in zip(kept, masked, confidence):
            assert set(values[row]) == set(sorted(values[before])[:left])


def test_random_masks_have_their_counts_at_places_that_are_all_as_likely():
    counts = np.tile([1, 3, 5], 400)
    masks = np.asarray(categorical.random_masks(jax.random.split(jax.random.key(0), len(counts)), 5, counts))
    np.testing.assert_array_equal(masks.sum(1), counts)
    np.testing.assert_allclose(masks[counts == 3].mean(0), 0.6, atol=4 * np.sqrt(0.24 / 400))
