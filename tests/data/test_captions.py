"""Captions, the conditions that are made of them, tinted images, and combinations that are held out."""

import dataclasses
import json

import jax
import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from imagegen_jax import conditions
from imagegen_jax import errors
from imagegen_jax.data import captions
from imagegen_jax.data import domains
from imagegen_jax.data import held_out
from imagegen_jax.data import pictures
from imagegen_jax.data import pipeline
from imagegen_jax.data import sources
from imagegen_jax.data import tinted

BUNDLED = "fashion_mnist_10k"
KIND = conditions.Text(8)


def decoded(tokens):
    return bytes(tokens[tokens != KIND.vocabulary].tolist()).decode()


# ------------------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    "text, kept, cut",
    [
        ("a boot", "a boot", ""),
        ("  a \n boot ", "a boot", ""),
        ("ankle boot", "ankle bo", "ot"),
        ("botté", "botté", ""),
        ("bottines é", "bottines", " é"),
        ("ééééé", "éééé", "é"),
        ("xééééé", "xééé", "éé"),
        ("\ud800a\x00", "a\x00", ""),
        ("", "", ""),
    ],
)
def test_tokens_are_the_bytes_that_fit_and_no_half_of_a_character(text, kept, cut):
    (tokens,) = KIND.tokens([text])
    assert tokens.dtype == np.int32 and len(tokens) == KIND.length
    assert decoded(tokens) == kept and KIND.cut(text) == cut
    assert (tokens[len(kept.encode()) :] == KIND.vocabulary).all()


def test_no_word_is_the_null_condition():
    np.testing.assert_array_equal(KIND.tokens([""]), KIND.null(1))
    told = conditions.dropped({"text": KIND.tokens(["a", "b"])}, {"text": KIND}, np.array([True, False]))
    np.testing.assert_array_equal(told["text"], KIND.tokens(["", "b"]))


# ------------------------------------------------------------------------------------------------------------ grammar


def test_a_grammar_says_colour_and_thing_in_all_words_and_orders():
    texts = captions.alternatives("Ankle boot", "red")
    assert texts[0] == "red ankle boot"
    assert {"a scarlet boot", "an red boot"} & set(texts) == {"a scarlet boot"}
    assert {"boot, in red", "ankle boot, scarlet", "boot", "red"} <= set(texts) and len(set(texts)) == len(texts)
    assert {"an orange bag", "orange handbag"} <= set(captions.alternatives("Bag", "orange"))
    assert not [text for text in captions.alternatives("Trouser", "red") if text.startswith(("a ", "an "))]
    assert captions.alternatives("Owl") == ("owl",) and captions.alternatives("") == ("",)


def test_of_alternatives_training_takes_a_random_one_by_position_and_others_the_first():
    made = captions.Captions([("a", "b", "c", "d"), ("e",)], conditions.Text(4))
    positions = list(range(4000))
    taken = made([0] * 4000, positions)
    counts = np.bincount(taken[:, 0], minlength=256)[[ord(x) for x in "abcd"]]
    assert counts.sum() == 4000 and (abs(counts - 1000) < 5 * np.sqrt(750)).all()
    np.testing.assert_array_equal(made([0, 0], [17, 99]), taken[[17, 99]])
    np.testing.assert_array_equal(made([1, 0]), conditions.Text(4).tokens(["e", "a"]))


# -------------------------------------------------------------------------------------------------------------- tints


def test_a_tint_keeps_black_and_grey_levels_and_its_colour_is_found_again():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    images = np.stack([tinted.tinted(grey, colour) for colour in range(len(tinted.PALETTE))])
    np.testing.assert_array_equal(images.max(-1), np.broadcast_to(grey[..., 0], images.shape[:3]))
    np.testing.assert_array_equal(images[:, -1, -1], list(tinted.PALETTE.values()))
    np.testing.assert_array_equal(tinted.colours_of(images), np.arange(len(tinted.PALETTE)))
    back = tinted.grey_of(images, np.arange(len(tinted.PALETTE)))
    assert back.shape == (len(tinted.PALETTE), 16, 16, 1) and abs(back.astype(int) - grey).max() <= 1


def test_colours_do_not_depend_on_classes_and_are_told_as_truth():
    source = sources.open_source(sources.Config(source=f"tinted:{BUNDLED}"), "train")
    table = np.zeros((10, len(tinted.PALETTE)))
    np.add.at(table, (np.asarray(source.labels), source.colours), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    degrees = (table.shape[0] - 1) * (table.shape[1] - 1)
    assert (np.square(table - expected) / expected).sum() < degrees + 5 * np.sqrt(2 * degrees)
    images = np.stack([record["image"] for record in source.__getitems__(range(300))])
    assert (tinted.colours_of(images) == source.colours[:300]).all()
    assert source.image_shape == (28, 28, 3) and source.captions[0][0] == source.combinations[0].lower().replace(
        "t-shirt/top", "t-shirt"
    ).replace("trouser", "trousers")


# ----------------------------------------------------------------------------------------------------------- held out


def test_the_held_out_share_of_combinations_is_never_seen_and_all_else_is():
    config = sources.Config(source=f"tinted:{BUNDLED}", hold_out=0.15)
    whole = sources.open_source(dataclasses.replace(config, hold_out=0.0), "train")
    train, test = (domains.open_domains(config, split) for split in ("train", "test"))
    left_out = held_out.chosen(whole.combinations, 0.15)
    assert len(left_out) == 15 and left_out == held_out.chosen(reversed(whole.combinations), 0.15)
    assert set(train.source.combinations) == set(whole.combinations) - left_out
    assert len(train.source) == sum(name not in left_out for name in whole.combinations) < len(whole)
    assert set(test.source.combinations) >= left_out
    at = next(i for i, name in enumerate(whole.combinations) if name not in left_out)
    np.testing.assert_array_equal(train.source.__getitems__([0])[0]["image"], whole.__getitems__([at])[0]["image"])
    assert train.source.fingerprint != whole.fingerprint and train.source.labels[0] == whole.labels[at]


def test_nothing_is_held_out_where_nothing_is_combined():
    with pytest.raises(errors.UserError, match="nothing is combined"):
        domains.open_domains(sources.Config(source=BUNDLED, hold_out=0.1), "train")


# ------------------------------------------------------------------------------------------------------------ folders


def folder(path, names=("a.png", "b.png")):
    for name in names:
        Image.new("RGB", (4, 4)).save(path / name)
    return sources.Config(source=f"folder:{path}", caption_length=8)


def batch(config):
    return domains.open_domains(config, "train").reader([0, 1])["condition"]["text"]


def test_a_folders_captions_are_lines_of_a_file_or_files_beside_the_images(tmp_path):
    config = folder(tmp_path)
    (tmp_path / "a.txt").write_text("one\nuno\n")
    (tmp_path / "b.txt").write_text("two")
    np.testing.assert_array_equal(batch(config), KIND.tokens(["one", "two"]))
    before = domains.fingerprint(domains.open_domains(config, "train"))
    (tmp_path / "b.txt").write_text("three")
    assert domains.fingerprint(domains.open_domains(config, "train")) != before
    lines = [{"file_name": "b.png", "text": ["zwei", "due"]}, {"file_name": "a.png", "text": "eins"}]
    (tmp_path / captions.FILE).write_text("\n".join(map(json.dumps, lines)))
    np.testing.assert_array_equal(batch(config), KIND.tokens(["eins", "zwei"]))


def test_images_without_captions_are_named(tmp_path):
    config = folder(tmp_path)
    with pytest.raises(errors.UserError, match=r"have no captions: .*captions\.jsonl"):
        batch(config)
    (tmp_path / "a.txt").write_text("one")
    with pytest.raises(errors.UserError, match=r"missing in .* for b\.png"):
        batch(config)
    (tmp_path / captions.FILE).write_text('{"file_name": "a.png"}')
    with pytest.raises(errors.UserError, match=r"captions\.jsonl, line 1: write"):
        batch(config)


def test_classes_are_captions_where_there_are_no_others_and_batches_have_their_tokens():
    domain = domains.open_domains(sources.Config(source=BUNDLED, caption_length=16), "train")
    kind = domain.spec.conditions["text"]
    found = next(
        pipeline.train_batches(
            domain.reader, pipeline.shuffled(len(domain.source), 0), batch_size=4, first_step=3, workers=1, prefetch=1
        )
    )
    shape = jax.tree.map(lambda x: (x.shape, x.dtype), domains.abstract_batch(domain, 4, None))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == shape
    names = [domain.spec.class_names[label] for label in found["condition"]["label"]]
    assert all(decoded(row) in captions.alternatives(name) for row, name in zip(found["condition"]["text"], names))
    assert kind == conditions.Text(16)


@pytest.mark.parametrize("kind", ["texts", "one", "coco", "numbers"])
def test_captions_of_tfds(kind, tmp_path, monkeypatch):
    """A data set that is prepared without TensorFlow, whose features are those of TFDS's own."""
    several = tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()})
    feature, told = {
        "texts": (tfds.features.Sequence(tfds.features.Text()), lambda i: [f"a boot {i}", "größer"]),
        "one": (tfds.features.Text(), lambda i: f"a boot {i}"),
        "coco": (several, lambda i: [{"id": 7, "text": f"a boot {i}"}, {"id": 8, "text": "größer"}]),
        "numbers": (tfds.features.Scalar(np.int64), lambda i: i),
    }[kind]

    class Told(tfds.core.GeneratorBasedBuilder):
        VERSION, name = tfds.core.Version("1.0.0"), f"told_{kind}"

        def _info(self):
            features = {"image": tfds.features.Image(shape=(4, 4, 1), encoding_format="png"), "captions": feature}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(3):
                yield i, {"image": pictures.png(np.zeros((4, 4, 1), np.uint8)), "captions": told(i)}

    Told(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    config = sources.Config(source=f"told_{kind}", data_dir=str(tmp_path), caption_length=8)
    source = sources.open_source(config, "train")
    if kind == "numbers":
        with pytest.raises(errors.UserError, match="the images of told_numbers have no captions"):
            domains.open_domains(config, "train")
        return
    assert source.captions == [(f"a boot {i}", *(["größer"] if kind != "one" else [])) for i in range(3)]
    domain = domains.open_domains(config, "train")
    np.testing.assert_array_equal(domain.reader([2])["condition"]["text"], conditions.Text(8).tokens(["a boot 2"]))
