"""CLIP's and T5's text encoders and tokenizers beside transformers', with random weights and vocabularies of our own."""

import json
import random
import unicodedata

import chex
import jax
import numpy as np
import pytest

from configs import text_to_image
import imagegen_jax
from imagegen_jax import conditions
from imagegen_jax import errors
from imagegen_jax import tokenization
from imagegen_jax.networks import text_encoder
from imagegen_jax.training import run
from imagegen_jax.weights import text_encoders

pytestmark = pytest.mark.parity

WORDS = ["a red boot", "dress, in green", "fairy, medium skin tone, woman", "Ångström's naïve café", "violet trousers 42"]


def sizes_of_clip(activation, **others):
    sizes = dict(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4)
    return sizes | dict(max_position_embeddings=20, hidden_act=activation, bos_token_id=298, eos_token_id=299) | others


def sizes_of_t5(feed_forward):
    sizes = dict(vocab_size=300, d_model=24, d_kv=8, d_ff=40, num_layers=3, num_heads=2, feed_forward_proj=feed_forward)
    return sizes | dict(relative_attention_num_buckets=16, relative_attention_max_distance=12)


def models(transformers, name):
    """(theirs, with random weights of a size that makes differences visible; rows of tokens with their ends)."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    if name in ("quick_gelu", "gelu", "clip"):
        text = transformers.CLIPTextConfig(**sizes_of_clip("gelu" if name == "clip" else name))
        if name == "clip":  # with the part for images
            config = transformers.CLIPConfig(
                text_config=text.to_dict(), vision_config=dict(num_hidden_layers=1, hidden_size=24)
            )
            model = transformers.CLIPModel(config)
        else:
            model = transformers.CLIPTextModel(text)
        rows = [[298, *rng.integers(0, 298, n), 299] for n in (0, 4, 18)]
    else:
        model = transformers.T5EncoderModel(transformers.T5Config(**sizes_of_t5(name)))
        rows = [[*rng.integers(2, 300, n), 1] for n in (0, 6, 59)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval(), rows


@pytest.mark.parametrize("name", ["quick_gelu", "gelu", "clip", "relu", "gated-gelu"])
def test_encoders_equal_theirs(name, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model, rows = models(transformers, name)
    model.save_pretrained(tmp_path)
    encoder, params = text_encoder.published(tmp_path), text_encoders.load(tmp_path)
    length = max(map(len, rows))
    text = np.full((len(rows), length), encoder.vocabulary, np.int32)
    for row, numbers in zip(text, rows):
        row[: len(numbers)] = numbers
    words = jax.jit(encoder.apply)({"params": params}, text)
    reader = model.text_model if name == "clip" else model
    for i, numbers in enumerate(rows):
        with torch.no_grad():
            theirs = reader(torch.tensor([list(map(int, numbers))]))
        expected = theirs.last_hidden_state[0].numpy()
        scale = np.abs(expected).max()
        np.testing.assert_allclose(words.tokens[i, : len(numbers)] / scale, expected / scale, atol=1e-5)
        assert words.visible[i].sum() == len(numbers)
        pooled = theirs.pooler_output[0].numpy() if "pooler_output" in theirs else expected.mean(0)
        np.testing.assert_allclose(words.pooled[i] / scale, pooled / scale, atol=1e-5)


def hostile(number):
    """Strings such as people, and others, write."""
    rng = random.Random(number)
    kinds = (
        lambda: " ".join(rng.choice(rng.choice(WORDS).split()) for _ in range(rng.randrange(9))),
        lambda: "".join(chr(rng.randrange(32, 127)) for _ in range(rng.randrange(40))),
        lambda: "".join(chr(rng.choice((0, 9, 10, 0x200B, 0x200D, 0x301, 0xFE0F, 0x202E, 0xFFFD))) for _ in range(6)) + "a",
        lambda: "".join(chr(rng.randrange(0x20000)) for _ in range(rng.randrange(20))),
        lambda: unicodedata.normalize(rng.choice(("NFC", "NFD")), rng.choice(WORDS)).upper() + "\t\n  " * rng.randrange(3),
        lambda: "</s><|endoftext|><pad>"[rng.randrange(22) :] + rng.choice(WORDS)[rng.randrange(9) :],
        lambda: "".join(
            rng.sample("👩🏽‍🚀🏳️🌈🥾👗🟩", rng.randrange(1, 9))
        ),  # none again: orders of repeated ones are as likely
    )
    text = rng.choice(kinds)()
    return text.encode(errors="ignore").decode()


def tokenizer_of(transformers, name, folder):
    """Theirs, saved in a folder: of words of ours, with a vocabulary that is made here."""
    tokenizers = pytest.importorskip("tokenizers")
    corpus = [*WORDS * 20, *(hostile(-1 - i) for i in range(200))]
    if name == "clip":
        byte_level = tokenizers.pre_tokenizers.ByteLevel
        bpe = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
        bpe.pre_tokenizer = byte_level(add_prefix_space=False)
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=700,
            end_of_word_suffix="</w>",
            initial_alphabet=byte_level.alphabet(),
            special_tokens=["<|startoftext|>", "<|endoftext|>"],
        )
        bpe.train_from_iterator([text.lower() for text in corpus], trainer)
        made = json.loads(bpe.to_str())["model"]
        theirs = transformers.CLIPTokenizer(vocab=made["vocab"], merges=[tuple(pair) for pair in made["merges"]])
    else:
        unigram = tokenizers.Tokenizer(tokenizers.models.Unigram())
        unigram.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        special = ["<pad>", "</s>", "<unk>"]
        trainer = tokenizers.trainers.UnigramTrainer(vocab_size=4000, special_tokens=special, unk_token="<unk>")
        unigram.train_from_iterator(corpus, trainer)
        theirs = transformers.T5Tokenizer(vocab=[tuple(one) for one in json.loads(unigram.to_str())["model"]["vocab"]])
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("name", ["clip", "t5"])
def test_tokens_equal_theirs(name, tmp_path):
    """Of 1,000 strings, whole and cut; and what is cut is what is missing."""
    transformers = pytest.importorskip("transformers")
    theirs = tokenizer_of(transformers, name, tmp_path)
    wide, narrow = conditions.Text(400, str(tmp_path)), conditions.Text(8, str(tmp_path / tokenization.FILE))
    texts = list(dict.fromkeys(map(hostile, range(3000))))[:1000]
    assert len(texts) == 1000
    for text, whole, cut in zip(texts, wide.tokens(texts), narrow.tokens(texts)):
        expected = theirs(text)["input_ids"]
        assert whole[whole < wide.vocabulary].tolist() == expected, repr(text)
        shortened = theirs(text, truncation=True, max_length=8)["input_ids"]
        assert cut[cut < narrow.vocabulary].tolist() == shortened, repr(text)
        assert wide.cut(text) == "" and bool(narrow.cut(text)) <= (len(expected) > 8), repr(text)
    assert narrow.cut(" ".join(WORDS)) and " ".join(WORDS).endswith(narrow.cut(" ".join(WORDS)))
    null = wide.null(2)
    assert null[0][null[0] < wide.vocabulary].tolist() == theirs("")["input_ids"]


def test_damaged_tokenizers_end_in_one_line(tmp_path):
    """Bytes changed, cut and repeated at random, of a file that is whole; the package answers some of these with a panic."""
    tokenizers = pytest.importorskip("tokenizers")
    whole = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "<s>"])
    whole.train_from_iterator(WORDS, trainer)
    whole.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    content, rng, file = whole.to_str().encode(), random.Random(0), tmp_path / tokenization.FILE
    read = 0
    for _ in range(600):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 9))):
            at, n = rng.randrange(len(damaged)), rng.randrange(20)
            damaged[at : at + rng.choice((0, 1, n))] = rng.choice((b"", b"9", b"-1", damaged[at : at + n], rng.randbytes(1)))
        file.write_bytes(damaged)
        try:
            tokenization.Tokenizer(file).encode("a red boot \U0001f97e", 8)
            read += 1
        except errors.UserError as error:
            assert "\n" not in str(error) and "tokenizer" in str(error)
    assert 0 < read < 500


def test_what_does_not_fit_is_told(tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "clip"
    tokenizer_of(transformers, "clip", folder)
    config = text_encoder.Config(pretrained=str(folder))
    told = conditions.Text(20, str(folder))
    with pytest.raises(errors.UserError, match=r"cannot read .*config\.json \(No such file"):
        text_encoder.build(config, told)
    transformers.CLIPTextModel(transformers.CLIPTextConfig(**sizes_of_clip("gelu", vocab_size=100))).save_pretrained(folder)
    with pytest.raises(errors.UserError, match="say what tokens it reads, --config.data.tokenizer="):
        text_encoder.build(config, conditions.Text(20))
    with pytest.raises(errors.UserError, match="which knows 100 tokens, and .* give its own tokenizer"):
        text_encoder.build(config, told)
    transformers.CLIPTextModel(transformers.CLIPTextConfig(**sizes_of_clip("gelu", vocab_size=900))).save_pretrained(folder)
    with pytest.raises(errors.UserError, match="caption_length is 21, and .* reads at most 20 tokens"):
        text_encoder.build(config, conditions.Text(21, str(folder)))
    with pytest.raises(errors.UserError, match="the tokenizer puts 2 tokens around each text: choose more"):
        conditions.Text(2, str(folder)).tokens(["a"])
    assert text_encoders.load(folder)["tokens"]["embedding"].shape == (900, 32)
    sizes = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(sizes | {"intermediate_size": 50}))
    with pytest.raises(errors.UserError, match="the block0 of .* is not that of its config.json"):
        text_encoders.load(folder)
    (folder / "config.json").write_text(json.dumps(sizes | {"hidden_act": "selu"}))
    with pytest.raises(errors.UserError, match="describes no text encoder of CLIP or T5 .*selu"):
        text_encoder.published(folder)
    (folder / tokenization.FILE).write_text("{}")
    tokenization.load.cache_clear()
    with pytest.raises(errors.UserError, match="cannot read a tokenizer from"):
        told.tokens(["a"])


def test_a_run_reads_by_it_and_leaves_it_as_it_is(tmp_path, capsys):
    """Trains with stops, draws by a prompt; the encoder is that of the files in parameters and averages, in no optimiser."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "clip"
    tokenizer_of(transformers, "clip", folder)
    transformers.CLIPTextModel(transformers.CLIPTextConfig(**sizes_of_clip("gelu", vocab_size=900))).save_pretrained(folder)
    config = text_to_image.get_config("smoke")
    config.network.update(channels=8, multipliers=(1,))
    config.data.tokenizer = config.text_encoder.pretrained = str(folder)
    config.data.caption_length = 12
    config.sample.every, config.eval.every, config.checkpoint.every = "0 steps", "0 steps", "1 steps"
    config.sampler.steps = 2
    for duration in ("1 steps", "3 steps"):
        config.duration = duration
        trained = imagegen_jax.train(config, tmp_path / "run")
    whole = run.load(tmp_path / "run", use_ema=False)
    expected = text_encoders.load(folder)
    chex.assert_trees_all_equal(whole.state.params["unet"]["text"]["pretrained"], expected)
    chex.assert_trees_all_close(trained.state.params["unet"]["text"]["pretrained"], expected, rtol=1e-6)
    shapes = jax.eval_shape(whole.algorithm.init, jax.random.key(0))
    moments = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes.opt_state)]
    assert any("conv_in" in name for name in moments) and not any("pretrained" in name for name in moments)
    made = trained.sample(2, prompt="A RED boot, and more of it than there is room for, and more")
    assert made.shape == (2, 28, 28, 3)
    assert "this run reads 12 tokens of a text; '" in capsys.readouterr().err
    np.testing.assert_array_equal(trained.sample(2, prompt="blue bag"), trained.sample(2, prompt=" BLUE  bag"))
