"""Masks by words and files."""

import numpy as np
from PIL import Image
import pytest

from imagegen_jax import errors
from imagegen_jax.generation import damages
from imagegen_jax.generation import masks

SIZE = (8, 6)


def test_words(tmp_path):
    box = np.zeros(SIZE, bool)
    box[2:6, 1:4] = True
    np.testing.assert_array_equal(masks.hidden("box:1,2,3,4", 2, SIZE), [box, box])
    Image.fromarray(np.where(box, 200, 100).astype(np.uint8)).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(masks.hidden(tmp_path / "mask.png", 1, SIZE), box[None])
    np.testing.assert_array_equal(masks.hidden(box, 1, SIZE), box[None])
    np.testing.assert_array_equal(masks.hidden("alpha", 1, SIZE, np.where(box, 0, 255)[None]), box[None])
    for half, place in {
        "left": np.s_[:, :3], "right": np.s_[:, 3:], "top": np.s_[:4], "bottom": np.s_[4:]
    }.items():  # fmt: skip
        (found,) = masks.hidden(f"half:{half}", 1, SIZE)
        assert found[place].all() and found.sum() == 24
    found = masks.hidden("random:.7", 300, SIZE)
    assert found.mean() == pytest.approx(0.7, abs=0.02) and (found[0] != found[1]).any()
    np.testing.assert_array_equal(masks.hidden("random:.7", 2, SIZE), found[:2])
    np.testing.assert_array_equal(masks.hidden("random:.7", 2, SIZE, first=7), found[7:9])
    first, other = (masks.hidden(f"scratches:{seed}", 4, (28, 28)) for seed in (0, 1))
    assert 0.05 < first.mean() < 0.5 and (first != other).any() and (first[0] != first[1]).any()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ("hole", "--mask=hole: there is no such file or word; give a file"),
        ("half:middle", "there is no such file or word"),
        ("random:1.5", "there is no such file or word"),
        ("alpha", "--mask is missing: the images have no transparency"),
        ("box:1,2,3", "write box:x,y,w,h in pixels"),
        ("box:1,2,3,9", "must lie inside of 8x6 pixels"),
        (np.zeros(SIZE), "the mask is all black, and hides nothing"),
        (np.ones((6, 8)), "the mask has 6x8 pixels and the images 8x6: give one of their size"),
    ],
)
def test_other_masks_are_refused(mask, words):
    with pytest.raises(errors.UserError, match=words) as caught:
        masks.hidden(mask, 1, SIZE)
    assert "\n" not in str(caught.value)


def test_damages_are_as_strong_as_they_say():
    image = np.full((4, 8, 12, 3), 128, np.uint8)
    problem = damages.Denoise(sigma=0.2).problem(image.shape[1:], 4)
    np.testing.assert_array_equal(problem.degraded(image[1:], first=1), problem.degraded(image)[1:])
    assert problem.degraded(image).std() == pytest.approx(0.1 * 255, rel=0.05) and problem.hidden is None
    assert damages.Superres(factor=4).taken((8, 12, 3)) == (2, 3, 3) and damages.Colorize().taken((8, 12, 3)) == (8, 12, 1)
    assert damages.Outpaint().taken((8, 12, 3)) == (4, 6, 3) and damages.Outpaint(box="box:0,1,5,2").taken((8, 12, 3)) == (
        2,
        5,
        3,
    )
    np.testing.assert_array_equal(damages.Outpaint().placed(image[:, :4, :6] + 9, (8, 12, 3))[0, 2:6, 3:9], 137)
    for damage, words in (
        (damages.Superres(factor=3), "--factor=3 does not divide the 8x12"),
        (damages.Colorize(), "have none"),
    ):
        with pytest.raises(errors.UserError, match=words):
            damage.problem((8, 12, 1), 1)
