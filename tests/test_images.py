"""The ranges of images, and the grid."""

import numpy as np
import pytest

from imagegen_jax import images


def test_uint8_survives_the_round_trip_and_the_rest_is_clipped():
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(images.to_uint8(images.to_float(values)), values)
    np.testing.assert_array_equal(images.to_uint8(np.array([-3.0, -1.0, 0.999, 1.0, 7.0])), [0, 0, 255, 255, 255])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grid_places_images_in_rows_with_white_between(channels):
    batch = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, channels), np.uint8)
    sheet = images.grid(batch, gap=1)
    assert sheet.shape == (2 * 3 - 1, 3 * 4 - 1, channels)
    for i in range(5):
        top, left = 3 * (i // 3), 4 * (i % 3)
        assert (sheet[top : top + 2, left : left + 3] == i).all()
    assert (sheet[2] == 255).all() and (sheet[:, 3] == 255).all() and (sheet[3:, 8:] == 255).all()
    assert images.grid(batch, columns=5, gap=0).shape == (2, 15, channels)
