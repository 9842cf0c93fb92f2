"""Whether images show the colour and the class that they were asked for."""

import types

import numpy as np
import pytest

from configs import ddpm
from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.api import composing
from imagegen_jax.data import tinted
from imagegen_jax.evaluation import compositions


def brightness(grey):
    """A judge of two classes: dark and bright."""
    bright = grey.mean((1, 2, 3)) / 255
    return None, np.stack([1 - bright, bright], 1)


def test_shares_are_those_of_images_that_show_what_was_asked():
    """Of four seen images one has the wrong colour and one the wrong class; the interval is Wilson's by hand."""
    grey = np.array([40, 200, 40, 200, 40], np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
    colours = [0, 1, 2, 3, 4]
    made = np.stack([tinted.tinted(one, colour) for one, colour in zip(grey, colours)])
    asked = [(0, 0, True), (1, 1, True), (9, 0, True), (3, 0, True), (4, 0, False)]
    found = compositions.judged([compositions.Combination(*one) for one in asked], made, brightness)
    assert {name: found["seen"][name]["value"] for name in ("colour", "class", "both")} == {
        "colour": 0.75,
        "class": 0.75,
        "both": 0.5,
    }
    assert (found["seen"]["images"], found["unseen"]["images"]) == (4, 1) and found["unseen"]["both"]["value"] == 1
    z, n, p = 1.959964, 4, 0.75
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)]
    np.testing.assert_allclose(found["seen"]["colour"]["interval"], expected, atol=1e-6)


def test_only_runs_told_captions_of_tinted_images_are_judged():
    trained = types.SimpleNamespace(
        workdir="runs/ddpm",
        config=config_lib.typed(ddpm.get_config("smoke")),
        spec=images.Spec((28, 28, 1), ("a", "b")),
        algorithm=types.SimpleNamespace(text=None),
    )
    with pytest.raises(errors.UserError, match=r"runs/ddpm was trained on fashion_mnist_10k: combinations .* tinted:SPEC"):
        composing.evaluate(trained)


@pytest.mark.parametrize("asked", [{"prompt": "a boot"}, {"label": 3}])
def test_what_is_shown_is_chosen_by_the_judge(asked):
    with pytest.raises(errors.UserError, match=f"--{next(iter(asked))} is chosen here"):
        composing.evaluate(None, **asked)
