"""Models that are told texts: the encoder, the networks that take one, guidance by words, and prompts of people."""

import dataclasses

from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from configs import meanflow as meanflow_recipe
from configs import text_to_image
from imagegen_jax import conditions
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.algorithms import base
from imagegen_jax.algorithms import diffusion
from imagegen_jax.algorithms import diffusion_config
from imagegen_jax.diffusion import processes
from imagegen_jax.diffusion import samplers
from imagegen_jax.generation import requests
from imagegen_jax.generation import sampling
from imagegen_jax.networks import dit
from imagegen_jax.networks import text_encoder
from imagegen_jax.networks import unet
from imagegen_jax.training import run
from imagegen_jax.training import sharding

KIND = conditions.Text(6)
ENCODER = text_encoder.TextEncoder(width=8, layers=2, heads=2)


def scrambled(params, seed=0):
    """The same parameters with random numbers, so that what is zero at first takes part."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), params)


# ------------------------------------------------------------------------------------------------------------- the encoder


@pytest.fixture(scope="module")
def encoded():
    """Tokens -> Words, of an encoder with random parameters, and those."""
    variables = scrambled(jax.eval_shape(ENCODER.init, jax.random.key(0), KIND.tokens(["a"])))
    return jax.jit(ENCODER.apply), variables


def test_it_is_a_transformer_of_the_bytes(encoded):
    """Equation by equation in NumPy, of a text of three bytes without what stands behind its end."""
    apply, variables = encoded
    words = apply(variables, KIND.tokens(["abc"]))
    p = jax.tree.map(np.asarray, variables["params"])

    def norm(x, scale, bias):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias

    def dense(x, kernel, bias):
        return x @ kernel + bias

    padded = np.pad(p["bytes"]["embedding"][[97, 98, 99]], ((2, 2), (0, 0)))
    seen = np.stack([dense(padded[i : i + 5].reshape(-1), p["neighbours"]["kernel"].reshape(40, 8), 0) for i in range(3)])
    x = np.concatenate([p["start"], np.asarray(nn.gelu(seen + p["neighbours"]["bias"])) + p["places"][:3]])
    for i in range(2):
        b = p[f"block{i}"]
        q, k, v = np.split(dense(norm(x, **b["norm1"]), **b["query_key_value"]), 3, -1)
        heads = []
        for at in (slice(0, 4), slice(4, 8)):
            scores = np.exp(q[:, at] @ k[:, at].T / 2)
            heads.append(scores / scores.sum(-1, keepdims=True) @ v[:, at])
        x = x + dense(np.concatenate(heads, -1), **b["out"])
        x = x + dense(np.asarray(nn.gelu(dense(norm(x, **b["norm2"]), **b["mlp_in"]))), **b["mlp_out"])
    x = norm(x, **p["norm_out"])
    np.testing.assert_allclose(words.tokens[0, :4], x, atol=1e-5)
    np.testing.assert_allclose(words.pooled[0], x.mean(0), atol=1e-5)
    assert words.visible.tolist() == [[True] * 4 + [False] * 3]


def test_an_empty_text_has_a_meaning_of_its_own(encoded):
    apply, variables = encoded
    words = apply(variables, KIND.tokens(["", "a"]))
    assert words.visible.tolist() == [[True] + [False] * 6, [True] * 2 + [False] * 5]
    assert np.isfinite(words.pooled).all() and np.abs(words.pooled[0] - words.pooled[1]).max() > 1e-2


# ------------------------------------------------------------------------------------------------------------ the networks


@pytest.mark.parametrize(
    "network",
    [
        unet.UNet(channels=8, multipliers=(1,), blocks=1, attention_levels=(0,), heads=2, dropout=0, groups=2, text=ENCODER),
        dit.DiT(width=16, layers=2, heads=2, patch_size=2, rotary=True, class_tokens=2, class_tokens_from=1, text=ENCODER),
    ],
    ids=["unet", "dit"],
)
def test_networks_hear_each_word_and_nothing_behind_the_end(network):
    x, t = np.random.default_rng(0).normal(size=(4, 4, 4, 3)).astype(np.float32), np.full(4, 3.0)
    variables = scrambled(jax.eval_shape(network.init, jax.random.key(0), x, t, {"text": KIND.null(4)}))
    apply = jax.jit(lambda variables, text: network.apply(variables, x[:1].repeat(4, 0), t, {"text": text}))
    made = apply(variables, KIND.tokens(["", "ab", "ba", "ab"]))
    assert made.shape == x.shape
    np.testing.assert_allclose(made[1], made[3], atol=1e-6)
    for i, j in ((0, 1), (1, 2)):
        assert np.abs(made[i] - made[j]).max() > 1e-3
    (name,) = [key for key, value in variables["params"].items() if isinstance(value, dict) and "bytes" in value]
    ours = variables["params"][name]
    behind = {**ours, "places": ours["places"].at[2:].add(1.0)}  # what is behind the end of two bytes
    again = apply({"params": {**variables["params"], name: behind}}, KIND.tokens(["", "ab", "ba", "ab"]))
    np.testing.assert_allclose(again, made, atol=1e-6)


# -------------------------------------------------------------------------------------------------------- diffusion, told


class Hears(nn.Module):
    """Predicts a hundredth of the number of a text's first letter behind @, which is 20 of T and 30 of ^, and 0 of no text."""

    @nn.compact
    def __call__(self, x, t, condition, train=False):
        first = condition["text"][:, 0]
        said = jnp.where(first == KIND.vocabulary, 0, first - ord("@")) / 100
        return jnp.broadcast_to(said[:, None, None, None], x.shape)


@pytest.fixture(scope="module")
def hearing():
    objective = diffusion_config.Objective("flow", prediction_type="x0", text=True)
    given = Hears(), (2, 2, 1), processes.RectifiedFlow(), objective, samplers.Sampler("euler", 4, clip=False), base.Training()
    return diffusion.Diffusion(*given, conditions={"text": KIND})


STATE = base.TrainState(0, {"unet": {}}, {}, {})


def drawn(algorithm, condition, **request):
    keys = jax.random.split(jax.random.key(1), 2)
    made = jax.jit(algorithm.sample, static_argnums=3)(STATE, keys, condition, algorithm.Request(**request))
    return np.asarray(made)[:, 0, 0, 0]


def test_guidance_leads_away_from_no_words_or_from_a_negative_prompt(hearing):
    told = {"text": KIND.tokens(["T", "^"])}
    np.testing.assert_allclose(drawn(hearing, told), [0.2, 0.3], atol=1e-6)
    np.testing.assert_allclose(drawn(hearing, told, guidance_scale=2.0), [0.4, 0.6], atol=1e-6)
    np.testing.assert_allclose(drawn(hearing, told, guidance_scale=2.0, negative_prompt="J"), [0.3, 0.5], atol=1e-6)
    np.testing.assert_allclose(drawn(hearing, told, guidance_scale=0.0), [0, 0], atol=1e-6)
    np.testing.assert_allclose(drawn(hearing, {}), [0, 0], atol=1e-6)  # an empty prompt


def test_a_negative_prompt_that_would_do_nothing_is_refused(hearing):
    with pytest.raises(errors.UserError, match=r"--negative_prompt=grey: guidance leads away from it: .*--guidance_scale"):
        hearing.check_request(hearing.Request(negative_prompt="grey"))
    deaf = dataclasses.replace(hearing, conditions={})
    with pytest.raises(errors.UserError, match=r"--negative_prompt=grey: this run is told no texts"):
        deaf.check_request(deaf.Request(negative_prompt="grey"))
    with pytest.raises(errors.UserError, match=r"--prompt=a boot: this run is told no texts"):
        requests.typed({"prompt": ["a boot"]}, deaf, images.Spec((2, 2, 1)))


def test_images_show_the_prompts_in_turn_whatever_the_batch_size(hearing):
    texts = KIND.tokens(["T", "^", ""])
    mesh = sharding.make_mesh(jax.device_count())
    made = [
        np.concatenate(list(sampling.Drawer(hearing, mesh, size).batches(STATE, 0, 7, texts=texts)))[:, 0, 0, 0]
        for size in (2, 7)
    ]
    np.testing.assert_array_equal(*made)
    np.testing.assert_array_equal(made[0], np.asarray(images.to_uint8(jnp.array([0.2, 0.3, 0, 0.2, 0.3, 0, 0.2]))))
    np.testing.assert_array_equal(sampling.rows(7, None, texts), [0, 1, 2, 0, 1, 2, 0])


@pytest.mark.parametrize("recipe", [text_to_image, meanflow_recipe])
def test_texts_need_captions(recipe):
    config = recipe.get_config("smoke")
    section = config.diffusion if recipe is text_to_image else config.meanflow
    section.text = True
    with pytest.raises(errors.UserError, match=r"\.text needs captions: set --config\.data\.caption_length"):
        run.build_algorithm(config, images.Spec((8, 8, 3)))
    algorithm = run.build_algorithm(config, images.Spec((8, 8, 3), caption_length=5))
    assert algorithm.text == conditions.Text(5) and algorithm.classes == 0
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    batch = {"image": np.zeros((4, 8, 8, 3), np.uint8), "condition": {"text": np.zeros((4, 5), np.int32)}}
    after, _ = jax.eval_shape(algorithm.train_step, state, batch | {"index": np.arange(4, dtype=np.int32)}, jax.random.key(0))
    assert jax.tree.structure(after) == jax.tree.structure(state)


# ------------------------------------------------------------------------------------------------------------ as a person


def test_prompts_of_a_command(tmp_path, command, save_untrained, capsys):
    """Of a run as it begins: a row of the grid for each prompt, of flags and of a file; what is too long is told."""
    config = text_to_image.get_config("smoke")
    config.network.update(channels=8, multipliers=(1,))
    config.data.caption_length, config.sampler.steps = 6, 1
    folder = tmp_path / "run"
    save_untrained(folder, config, images.Spec((8, 8, 3), caption_length=6))
    sample, out = command("sample"), tmp_path / "grid.png"
    (tmp_path / "prompts.txt").write_text("bag\n\n blue bag \n")
    sample(f"--workdir={folder}", "--prompt=a, b", f"--prompts={tmp_path / 'prompts.txt'}", "--num=6", f"--out={out}")
    told = capsys.readouterr().err
    assert "--prompt=blue bag: this run reads 6 bytes of a text; 'ag' is cut" in told
    assert "rows, from the top: a, b, bag, blue bag" in told
    with pytest.raises(errors.UserError, match=r"none\.txt: cannot read it"):
        sample(f"--workdir={folder}", f"--prompts={tmp_path / 'none.txt'}", f"--out={out}")
