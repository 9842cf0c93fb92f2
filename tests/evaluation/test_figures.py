"""Whether images of emoji show the figure and the skin tone that they were asked for."""

import pathlib
import types

import numpy as np
from PIL import Image
import pytest

from configs import text_to_image
from imagegen_jax import config as config_lib
from imagegen_jax import images as images_lib
from imagegen_jax.api import composing
from imagegen_jax.data import domains
from imagegen_jax.data import emoji
from imagegen_jax.evaluation import figures

TONES = np.array([(250, 200, 30), (240, 200, 160), (90, 60, 40)], np.uint8)


def pixels(images):
    """Features that are the pixels themselves."""
    return images.reshape(len(images), -1).astype(np.float32), None


@pytest.fixture(scope="module")
def glyphs():
    """(3 figures, 3 tones, 8, 8, 3): bars of skin on clothes, each at a place of its own."""
    found = np.full((3, 3, 8, 8, 3), 255, np.uint8)
    for figure in range(3):
        found[figure, :, :, 6:] = (20 * figure, 0, 200)
        for tone in range(3):
            found[figure, tone, 2 * figure : 2 * figure + 2, :5] = TONES[tone]
            found[figure, tone, 7, :6] -= np.uint8(tone)  # too little to be skin, and a distraction if it were
    return found


def asked(pairs):
    return [figures.Asked(figure, tone, seen) for figure, tone, seen in pairs]


def shares(found, name):
    return {what: one["value"] for what, one in found[name].items() if what != "images"}


def test_true_glyphs_are_right_in_everything(glyphs):
    pairs = [(figure, tone, figure < 2) for figure in range(3) for tone in range(3)]
    found = figures.judged(asked(pairs), glyphs, glyphs.reshape(-1, 8, 8, 3), pixels)
    for name, count in (("seen", 6), ("unseen", 3)):
        assert found[name]["images"] == count
        assert shares(found, name) == dict.fromkeys(("tone", "figure", "both", "nearest"), 1.0)


def test_another_tone_or_figure_is_wrong_in_that_alone(glyphs):
    """Of the first image the tone is another's, of the second the figure, of the third both; the fourth is right."""
    pairs = [(0, 0, True), (0, 2, True), (1, 1, True), (2, 1, True)]
    shown = glyphs[[0, 1, 2, 2], [2, 2, 0, 1]]
    shown[1:3, :2, :5] = TONES[2]  # where the first figure has its skin, and the second nothing
    shown[2, 2:4, :5] = TONES[0]
    found = figures.judged(asked(pairs), glyphs, shown, pixels, seed=1)["seen"]
    tones = figures.tones_of(shown, glyphs[[0, 0, 1, 2]])
    assert tones.tolist() == [2, 2, 0, 1]
    assert found["tone"]["value"] == 0.5 and found["images"] == 4
    assert found["figure"]["value"] >= found["nearest"]["value"] >= 0.25


def test_a_tone_is_that_of_what_skin_an_image_shows_wherever_it_is(glyphs):
    """The middle bar, moved by a row, half of it as white as the ground."""
    moved = glyphs[1].copy()
    moved[:, 2] = glyphs[1, :, 0]
    assert (moved[:, 3] == glyphs[1, :, 3]).all()
    assert figures.tones_of(moved, glyphs[[1, 1, 1]]).tolist() == [0, 1, 2]
    nothing = glyphs[1].copy()
    nothing[:, 2:4] = 255
    assert figures.tones_of(nothing, glyphs[[1, 1, 1]]).tolist() == [-1, -1, -1]


def test_the_other_figure_is_drawn_at_random(glyphs):
    """An image between the first two figures, but nearer to the second, is right where it is compared with the third."""
    between = (glyphs[0, 0].astype(int) * 2 + glyphs[1, 0].astype(int) * 3) // 5
    found = figures.judged(asked([(0, 0, True)] * 400), glyphs, np.uint8([between] * 400), pixels)["seen"]
    assert 0.4 < found["figure"]["value"] < 0.6 and found["nearest"]["value"] == 0


@pytest.mark.skipif(not pathlib.Path(emoji.FONT).exists(), reason="the package fonts-noto-color-emoji is not installed")
def test_what_is_asked_of_a_font_are_its_figures_in_all_tones(tmp_path):
    config = config_lib.typed(text_to_image.get_config("emoji"))
    spec = domains.open_domains(config.data, "train").spec
    trained = types.SimpleNamespace(config=config, spec=spec)
    task = composing._of_emoji(trained, 1, np.random.default_rng(0))
    (wanted, glyphs), prompts, shape = task.judged.args, task.prompts, task.shape
    assert shape == (32, 32, 3) and glyphs.shape[1:] == (6, 32, 32, 3) and len(prompts) == len(wanted) == 6 * len(glyphs)
    said = [
        [part.removesuffix(" skin tone") for part in prompt.split(", ") if part.endswith(" skin tone")] for prompt in prompts
    ]
    assert [emoji.CLASSES[one.tone] for one in wanted] == [(*words, "none")[0] for words in said]
    assert 0.1 < 1 - np.mean([one.seen for one in wanted]) < 0.2
    found = task.judged(glyphs.reshape(-1, *shape), pixels)
    assert shares(found, "seen") == shares(found, "unseen") == dict.fromkeys(("tone", "figure", "both", "nearest"), 1.0)
    moved = np.roll(glyphs[::10], (1, 2), (2, 3))
    assert (figures.tones_of(moved.reshape(-1, *shape), glyphs[::10].repeat(6, 0)).reshape(-1, 6) == np.arange(6)).mean() > 0.99
    composing._show(tmp_path / "shown.png", task, 255 - task.truth[:, None])
    sheet = np.asarray(Image.open(tmp_path / "shown.png"))
    unseen = [i for i, one in enumerate(wanted) if not one.seen]
    first, second = (images_lib.grid(np.stack([task.truth[i], 255 - task.truth[i]]), 2) for i in (unseen[0], unseen[-1]))
    np.testing.assert_array_equal(sheet[: first.shape[0], : first.shape[1]], first)
    np.testing.assert_array_equal(sheet[-second.shape[0] :, -second.shape[1] :], second)
