"""The bitmaps of colour fonts: of small ones that are built here, and of Debian's where it is installed."""

import io
import pathlib
import struct

from fontTools import fontBuilder
from fontTools import ttLib
from fontTools.feaLib import builder
import numpy as np
from PIL import Image
import pytest

from imagegen_jax import errors
from imagegen_jax.data import domains
from imagegen_jax.data import emoji
from imagegen_jax.data import sources

JOINER, WOMAN, LIGHT, MEDIUM, DARK = 0x200D, 0x2640, 0x1F3FB, 0x1F3FD, 0x1F3FF
FACE, GOLFER, LIFTER = 0x1F600, 0x1F3CC, 0x1F3CB  # of the three the last is for tests
COLOURS = {
    (FACE,): (255, 200, 0, 255),
    (GOLFER,): (0, 0, 255, 128),
    (LIFTER,): (0, 255, 0, 0),
    (0x1F1E6, 0x1F1FA): (9, 9, 9, 255),
    (GOLFER, MEDIUM): (1, 2, 3, 255),
    (GOLFER, MEDIUM, JOINER, WOMAN): (4, 5, 6, 255),
    (LIFTER, DARK, JOINER, WOMAN): (7, 8, 9, 255),
}


def png(colour, size=(10, 8)):
    file = io.BytesIO()
    Image.new("RGBA", size, colour).save(file, "png")
    return file.getvalue()


def name(sequence):
    return "_".join(f"u{point:04X}" for point in sequence)


def bitmap_tables(images):
    """The tables CBLC and CBDT with one size and a PNG, or b"", for each glyph but the first, as OpenType lays them out."""
    records = [bytes(5) + struct.pack(">I", len(image)) + image if image else b"" for image in images]
    offsets = np.cumsum([0, *map(len, records)])
    index = struct.pack(f">HHI HHI {len(offsets)}I", 1, len(images), 8, 1, 17, 4, *offsets)
    size = struct.pack(">IIII 24x HHBBBb", 56, len(index), 1, 0, 1, len(images), 109, 109, 32, 1)
    version = struct.pack(">HH", 3, 0)
    return {"CBLC": version + struct.pack(">I", 1) + size + index, "CBDT": version + b"".join(records)}


def save_font(path, images, others=()):
    """Writes a font.

    Args:
      path: where.
      images: {code points: PNG}, with the ligatures in the order of their glyphs.
      others: (code points, the code points whose glyph they make too).

    Returns:
      The path.
    """
    points = sorted({point for sequence in [*images, *(one for one, _ in others)] for point in sequence})
    ligatures = [(sequence, sequence) for sequence in images if len(sequence) > 1] + list(others)
    glyphs = [(point,) for point in points] + [sequence for sequence in images if len(sequence) > 1]
    made = fontBuilder.FontBuilder(1000, isTTF=True)
    made.setupGlyphOrder([".notdef", *map(name, glyphs)])
    made.setupCharacterMap({point: name([point]) for point in points})
    made.setupPost()
    rules = " ".join(f"sub {name(sequence).replace('_', ' ')} by {name(drawn)};" for sequence, drawn in ligatures)
    if rules:
        builder.addOpenTypeFeaturesFromString(
            made.font, f"lookup all useExtension {{ {rules} }} all; feature ccmp {{ lookup all; }} ccmp;"
        )
    for tag, data in bitmap_tables([images.get(glyph, b"") for glyph in glyphs]).items():
        made.font[tag] = ttLib.newTable(tag)
        made.font[tag].compile = lambda _, data=data: data
    made.save(path)
    return path


@pytest.fixture
def font(tmp_path):
    return save_font(tmp_path / "a.ttf", {sequence: png(colour) for sequence, colour in COLOURS.items()})


def opened(path, split="train", **changes):
    return sources.open_source(sources.Config(source=f"emoji:{path}", **changes), split)


def _first(source):
    """The first caption of each record."""
    return [texts[0] for texts in source.captions]


def read(source):
    return source.__getitems__(range(len(source)))


def test_a_figure_and_its_skin_tones_are_combined_and_captions_come_in_all_orders(font):
    train = opened(font)
    combined = dict(zip(_first(train), train.combinations))
    assert {text for text, name in combined.items() if name} == {
        "golfer",
        "golfer, medium skin tone",
        "golfer, medium skin tone, woman",
    }
    assert {text: figure for text, figure in zip(_first(train), train.figures) if figure} == {
        "golfer": "golfer",
        "golfer, medium skin tone": "golfer",
        "golfer, medium skin tone, woman": "golfer, woman",
    }
    texts = train.captions[_first(train).index("golfer, medium skin tone, woman")]
    assert len(set(texts)) == 6 and "woman, golfer, medium skin tone" in texts


def test_images_captions_and_labels_are_in_the_order_of_code_points(font):
    train, test = opened(font), opened(font, "test")
    assert _first(train) == [
        "flag AU",
        "golfer",
        "golfer, medium skin tone",
        "golfer, medium skin tone, woman",
        "grinning face",
    ]
    assert train.labels == [0, 0, 3, 3, 0] and train.class_names[3] == "medium"
    assert _first(test) == ["weight lifter", "weight lifter, dark skin tone, woman"] and test.labels == [0, 5]
    assert [record["label"] for record in read(train)] == train.labels


def test_images_are_squares_on_white(font):
    source = opened(font)
    assert source.image_shape == (10, 10, 3)
    images = np.stack([record["image"] for record in read(source)])
    assert images.shape == (5, 10, 10, 3) and images.dtype == np.uint8
    assert (images[:, [0, -1]] == 255).all()  # 10x8 has a row of white above and one below
    assert (images[4, 1:-1] == (255, 200, 0)).all()
    np.testing.assert_allclose(images[1, 1:-1], np.broadcast_to((127, 127, 255), (8, 10, 3)), atol=1)  # half transparent
    assert (read(opened(font, "test"))[0]["image"] == 255).all()  # transparent

    (first, *_) = read(opened(font, channels=4))
    assert first["image"].shape == (10, 10, 4) and first["image"][0].max() == 0 and (first["image"][1] == (9, 9, 9, 255)).all()
    assert read(opened(font, channels=1))[0]["image"].shape == (10, 10, 1)
    assert sources.open_source(sources.Config(source=f"edges:emoji:{font}"), "train").image_shape == (10, 10, 1)


def test_sizes_are_padded_to_the_largest_of_both_splits(tmp_path):
    path = save_font(tmp_path / "a.ttf", {(FACE,): png("red", (4, 6)), (LIFTER,): png("red", (12, 8))})
    (record,) = read(opened(path))
    red = (record["image"] == (255, 0, 0)).all(-1)
    assert red.shape == (12, 12) and red[3:9, 4:8].all() and red.sum() == 24


def test_batches_have_the_size_and_the_labels_that_a_config_asks_for(font):
    domain = domains.open_domains(sources.Config(source=f"emoji:{font}", image_size=4), "train")
    batch = domain.reader([2, 4])
    assert batch["image"].shape == (2, 4, 4, 3) and batch["condition"]["label"].tolist() == [3, 0]
    assert domain.spec.shape == (4, 4, 3) and domain.spec.label_of("medium") == 3


def test_each_image_is_there_once_under_the_sequence_that_it_is_drawn_for(tmp_path):
    drawn = {
        (FACE,): png("red"),
        (0x1F44D,): png("yellow"),
        (0xFE4E5,): png("black"),  # a private code point
        (0x1F1E6, 0x1F1F9): png("white"),
        (0x1F1E6, 0x1F1FA): png("blue"),
        (GOLFER, JOINER, WOMAN): png("green"),
        (0x1F3F4, 0xE007F): png("grey"),  # a flag of no region
        (0x1F44D, LIGHT): png("yellow"),  # drawn as without its skin tone
    }
    mirrored = ((WOMAN, JOINER, GOLFER), (GOLFER, JOINER, WOMAN))  # for text from right to left
    borrowed = ((0x1F1E6, 0x1F1E8), (0x1F1E6, 0x1F1FA))  # another's flag
    source = opened(save_font(tmp_path / "a.ttf", drawn, [mirrored, borrowed]))
    assert _first(source) == ["flag AT", "flag AU", "golfer, woman", "thumbs up sign", "grinning face"]
    assert source.labels == [0] * 5


@pytest.mark.parametrize(
    ("sequence", "words", "tone"),
    [
        ((FACE,), "grinning face", "none"),
        ((GOLFER, 0xFE0F, 0x1F3FC, JOINER, WOMAN, 0xFE0F), "golfer, medium-light skin tone, woman", "medium-light"),
        ((WOMAN,), "female sign", "none"),
        ((LIGHT,), "light skin tone", "light"),
        ((0x1F1EF, 0x1F1F5), "flag JP", "none"),
        ((0x1F1EF,), "regional indicator symbol letter j", "none"),
        ((0x1F3F4, 0xE0067, 0xE0062, 0xE0073, 0xE0063, 0xE0074, 0xE007F), "flag GBSCT", "none"),
        ((0x23, 0x20E3), "number sign, keycap", "none"),
        ((0x1F468, JOINER, 0x1F9B0), "man, red hair", "none"),
        (
            (0x1F469, LIGHT, JOINER, 0x1F91D, JOINER, 0x1F468, DARK),
            "woman, light skin tone, handshake, man, dark skin tone",
            "mixed",
        ),
        (
            (0x1F469, DARK, JOINER, 0x1F91D, JOINER, 0x1F468, DARK),
            "woman, dark skin tone, handshake, man, dark skin tone",
            "dark",
        ),
        ((0x1FFFD,), "U+1FFFD", "none"),  # no character, in any version of Unicode
    ],
)
def test_what_code_points_mean(sequence, words, tone):
    assert emoji.caption(sequence) == words
    assert emoji.CLASSES[emoji.skin_tone(sequence)] == tone


def test_the_split_is_of_first_code_points_and_always_the_same():
    splits = [emoji.split_of((point,)) for point in range(0x1F300, 0x1F700)]
    assert 0.08 < splits.count("test") / len(splits) < 0.12
    assert emoji.split_of((FACE,)) == "train" and emoji.split_of((LIFTER, DARK, JOINER, WOMAN)) == "test"


def test_fingerprints_are_of_images_and_code_points_and_not_of_the_place(font, tmp_path):
    images = {sequence: png(colour) for sequence, colour in COLOURS.items()}
    first = opened(font).fingerprint
    assert opened(save_font(tmp_path / "moved.ttf", images)).fingerprint == first
    others = [
        images | {(FACE,): png("red")},
        {sequence: image for sequence, image in images.items() if sequence != (FACE,)},
        {((0x1F601,) if sequence == (FACE,) else sequence): image for sequence, image in images.items()},
    ]
    seen = {first, opened(font, "test").fingerprint}
    seen |= {opened(save_font(tmp_path / f"{i}.ttf", changed)).fingerprint for i, changed in enumerate(others)}
    assert len(seen) == 5


@pytest.mark.parametrize("kind", ["no image", "cut short"])
def test_bad_bitmaps_are_named_or_skipped(tmp_path, kind):
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(noise, "png")
    images = {(FACE,): {"no image": b"hello", "cut short": noise.getvalue()[:2000]}[kind], (0x1F44D,): png("red", (64, 64))}
    path = save_font(tmp_path / "a.ttf", images)

    def batch(on_bad_image):
        data = sources.Config(source=f"emoji:{path}", on_bad_image=on_bad_image)
        domain = domains.open_domains(data, "train")
        return domain, domain.reader(range(len(domain.source)))

    with pytest.raises(errors.UserError, match=r"'grinning face' \(U\+1F600\) in .*a\.ttf.*on_bad_image=skip") as caught:
        batch("error")
    assert "\n" not in str(caught.value)
    domain, found = batch("skip")
    assert domains.skipped(domain) == 1 and (found["image"] == (255, 0, 0)).all()


def test_wrong_fonts_are_one_line(font, tmp_path, monkeypatch):
    def refused(path, match, **changes):
        with pytest.raises(errors.UserError, match=match) as caught:
            opened(path, **changes)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "b.ttf", r"there is no font .*b\.ttf; the Debian package fonts-noto-color-emoji")
    monkeypatch.setattr(emoji, "FONT", str(tmp_path / "usual.ttf"))
    refused("", r"there is no font .*usual\.ttf; the Debian package fonts-noto-color-emoji")
    refused(tmp_path, "there is no font")
    (tmp_path / "text.ttf").write_text("not a font at all")
    refused(tmp_path / "text.ttf", "cannot read the font .*Not a TrueType")
    (tmp_path / "short.ttf").write_bytes(font.read_bytes()[:300])
    refused(tmp_path / "short.ttf", "cannot read the font .*short")
    (tmp_path / "empty.ttf").write_bytes(b"")
    refused(tmp_path / "empty.ttf", "cannot read the font .*empty")
    plain = ttLib.TTFont(font)
    del plain["CBDT"], plain["CBLC"]
    plain.save(tmp_path / "plain.ttf")
    refused(tmp_path / "plain.ttf", "has no bitmaps of emoji")
    refused(font, "has no split 'trainA': its splits are train and test", train_split="trainA")
    assert opened(font, "test", test_split="testA") is None
    assert opened(save_font(tmp_path / "d.ttf", {(FACE,): png("red")}), "test") is None
    with pytest.raises(errors.UserError, match="the classes of emoji:.* are none, light.*, and not cat"):
        sources.open_source(sources.Config(source=f"emoji:{font}"), "train", ["cat"])
    refused(save_font(tmp_path / "c.ttf", {(LIFTER,): png("red")}), "no image of .* can be read that is for train")


def test_the_font_is_found_where_it_usually_is(font, monkeypatch):
    monkeypatch.setattr(emoji, "FONT", str(font))
    found = [sources.open_source(sources.Config(source=source), "train").fingerprint for source in ("emoji", "emoji:")]
    assert found == [opened(font).fingerprint] * 2


@pytest.fixture(scope="module")
def debian():
    if not pathlib.Path(emoji.FONT).exists():
        pytest.skip("the package fonts-noto-color-emoji is not installed")
    return {split: sources.open_source(sources.Config(source="emoji"), split) for split in ("train", "test")}


def test_debians_font_has_each_image_once(debian):
    data = ttLib.TTFont(emoji.FONT).reader["CBDT"]
    images = [piece[: piece.index(b"IEND")] for piece in data.split(b"\x89PNG\r\n\x1a\n")[1:]]
    train, test = debian.values()
    assert len(train) + len(test) == len(set(images)) - 1 > 3000  # the one is the flag of no region
    assert train.image_shape == test.image_shape == (136, 136, 3)
    assert 0.08 < len(test) / len(set(images)) < 0.12


def test_debians_captions_tell_all_images_apart_and_no_figure_is_in_both_splits(debian):
    captions = {split: set(_first(source)) for split, source in debian.items()}
    assert len(captions["train"] | captions["test"]) == sum(map(len, debian.values()))
    figures = [{text.split(",")[0] for text in found if not text.startswith("flag ")} for found in captions.values()]
    assert not figures[0] & figures[1] and not {"woman", "man"} & figures[1]
    everything = captions["train"] | captions["test"]
    assert {
        "golfer, medium-light skin tone, woman",
        "flag JP",
        "flag US",
        "flag NO",
        "flag GBSCT",
        "digit one, keycap",
    } <= everything
    assert not {"flag UM", "flag BV"} & everything  # which fly those of US and NO
    assert not any(text.startswith(("female sign,", "male sign,")) for text in everything)  # as from right to left


def test_debians_images_are_on_white(debian):
    train = debian["train"]
    (face,) = train.__getitems__([_first(train).index("grinning face")])
    assert (face["image"][[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    red, green, blue = face["image"][45, 68].astype(int)  # its forehead is yellow
    assert red > 200 and green > 150 and blue < 120
    records = train.__getitems__(range(0, len(train), 50))
    assert all((record["image"][[0, 1, 2, 3, -1, -2, -3, -4]] == 255).all() for record in records)
