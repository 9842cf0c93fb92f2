"""Drawing with companions: an earlier checkpoint of the run, and a classifier; by the commands and from Python."""

import json
import re

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from configs import classifier
from configs import ddpm
from configs import noisy_classifier
import imagegen_jax
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.api import sampling
from imagegen_jax.data import fashion_mnist_10k
from imagegen_jax.training import checkpoint
from imagegen_jax.training import preservation
from imagegen_jax.training import run

SHAPE = (8, 8, 1)
SPEC = images.Spec(SHAPE, fashion_mnist_10k.CLASSES)


def saved(folder, config, spec, steps):
    """Makes the folder of a run: random parameters, others at each step."""
    run.save_config(folder, config, spec)
    shapes = jax.eval_shape(run.build_algorithm(config, spec).init, jax.random.key(0))
    with checkpoint.Checkpointer(folder / run.CHECKPOINTS, preservation.Policy(latest=2)) as checkpointer:
        for step in steps:
            normal = np.random.default_rng(step).standard_normal
            state = jax.tree.map(lambda x, normal=normal: jnp.asarray(0.2 * normal(x.shape), x.dtype), shapes)
            state = state.replace(step=jnp.int32(step), ema_params=state.params)
            checkpointer.save(state, checkpoint.Position(step, 0.0, 8, ""))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{name: folder}."""
    folder = tmp_path_factory.mktemp("companions")
    config = ddpm.get_config("smoke")
    config.network.update(channels=8, multipliers=(1,), groups=2, patch_size=4)
    config.sample.batch_size = 8
    config.sampler.update(name="ddim", steps=3, eta=1.0)
    config.data.image_size = 8
    noisy = noisy_classifier.get_config("smoke")
    noisy.network.widths = (8,)
    found = {
        "plain": saved(folder / "plain", config, SPEC, (2, 4)),
        "noisy": saved(folder / "noisy", noisy, SPEC, (8,)),
    }
    others = {
        "classifier": (classifier.get_config("smoke"), SPEC),
        "others": (noisy, images.Spec(SHAPE, ("cat", "dog"))),
        "larger": (noisy, images.Spec((16, 16, 1), SPEC.class_names)),
    }
    for name, (config, spec) in others.items():  # refused before a checkpoint is read
        found[name] = folder / name
        run.save_config(folder / name, config, spec)
    return found


def drawn(folder, num=5, **request):
    return imagegen_jax.load(folder).sample(num, **request).astype(int)


@pytest.mark.recipes
def test_an_earlier_checkpoint_guides(runs):
    unguided = drawn(runs["plain"])
    np.testing.assert_array_equal(drawn(runs["plain"], guidance_checkpoint=2, guidance_scale=1), unguided)
    assert np.abs(drawn(runs["plain"], guidance_checkpoint=4, guidance_scale=3.0) - unguided).max() <= 1
    weaker = imagegen_jax.load(runs["plain"], 2).sample(5).astype(int)
    assert np.abs(weaker - unguided).max() > 1
    assert np.abs(drawn(runs["plain"], guidance_checkpoint=2, guidance_scale=0) - weaker).max() <= 1
    guided = drawn(runs["plain"], guidance_checkpoint=2, guidance_scale=3)
    assert np.abs(guided - unguided).max() > 1
    larger_batch = drawn(runs["plain"], 20, guidance_checkpoint=2, guidance_scale=3, batch_size=16)
    assert np.abs(larger_batch[:5] - guided).max() <= 1


def test_a_classifier_guides(runs):
    asked = dict(classifier=str(runs["noisy"]), classifier_scale=20.0)
    unguided = drawn(runs["plain"])
    np.testing.assert_array_equal(drawn(runs["plain"], **asked | {"classifier_scale": 0}, label="Sandal"), unguided)
    guided = drawn(runs["plain"], **asked, label="Sandal")
    assert np.abs(guided - unguided).max() > 1
    every = sampling.prepare(imagegen_jax.load(runs["plain"]), 10, **asked)
    assert every.labels.tolist() == list(range(10))
    third = drawn(runs["plain"], 4, **asked, label=3)[3]
    assert np.abs(np.concatenate(list(every.batches()))[3].astype(int) - third).max() <= 1


def test_commands_take_companions(runs, tmp_path, command):
    asked = [f"--workdir={runs['plain']}", f"--classifier={runs['noisy']}", "--guidance_scale=3"]
    words = ["--num=8", "--label=Sandal", "--classifier_scale=20", "--guidance_checkpoint=2", "--noema"]
    command("sample")(*asked, *words, f"--out={tmp_path / 'images.npz'}")
    with np.load(tmp_path / "images.npz") as file:
        found = file["images"]
        assert (file["labels"] == 5).all()
    options = dict(label=5, classifier_scale=20.0, guidance_checkpoint=2, guidance_scale=3.0)
    loaded = imagegen_jax.load(runs["plain"], ema=False)
    np.testing.assert_array_equal(loaded.sample(8, classifier=str(runs["noisy"]), **options), found)

    scored = ["--num=8", "--features=pixels", "--metrics=fid", "--noanchors", f"--out={tmp_path / 'score.json'}"]
    command("evaluate")(*asked, *scored, "--classifier_scale=0", "--sweep=guidance_checkpoint:2,4")
    protocols = [one["protocol"]["images"] for one in json.loads((tmp_path / "score.json").read_text())]
    for step, about in zip((2, 4), protocols, strict=True):
        assert about["labels"].startswith("shares of the reference ")
        assert about["sampler"]["classifier_scale"] == 0 and about["sampler"]["guidance_scale"] == 3
        weaker, noisy = about["companions"]["guidance_checkpoint"], about["companions"]["classifier"]
        assert weaker["step"] == step and noisy["step"] == 8 and noisy["run"] == "noisy" and noisy["ema"] is True
        assert noisy["algorithm"] == "noisy_classifier" and len(noisy["config"]) == len(noisy["parameters"]) == 12
    assert len({about["companions"]["guidance_checkpoint"]["parameters"] for about in protocols}) == 2


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--guidance_checkpoint=3", "--guidance_checkpoint=3: no checkpoint of step 3 in PLAIN/checkpoints: there are 2, 4"),
        ("--guidance_checkpoint=early", "--guidance_checkpoint=early: write a whole number"),
        (
            "--guidance_scale=2",
            "--guidance_scale=2.0: this run is told neither labels nor texts; leave it out, name an earlier checkpoint",
        ),
        ("--classifier=/nowhere", "--classifier=/nowhere: /nowhere is not the folder of a run"),
        ("--classifier=PLAIN", "--classifier=PLAIN: it is a run of diffusion, and not of a classifier of noisy images"),
        ("--classifier=CLASSIFIER", "--classifier=CLASSIFIER: it is a run of classifier, and not of a classifier of noisy"),
        ("--classifier=OTHERS", "--classifier=OTHERS: its images are 8x8x1 of the classes cat, dog, and those of PLAIN"),
        ("--classifier=LARGER", "--classifier=LARGER: its images are 16x16x1 of the classes T-shirt"),
        ("--classifier_scale=2", "--classifier_scale=2.0 is of --classifier: name a run"),
        ("--classifier=NOISY --classifier_scale=-1", "--classifier_scale=-1: it must be at least 0"),
        ("--classifier=NOISY --label=cow", "--label=cow: there is no such class"),
        ("--classifier=NOISY --latents=gmm", "--latents=gmm: this run's family has no codes"),
        ("--label=5", "--label=5: this run's family takes no labels"),
    ],
)
def test_what_cannot_be_is_refused(runs, tmp_path, command, words, error):
    for name, folder in runs.items():
        words, error = (text.replace(name.upper(), str(folder)) for text in (words, error))
    with pytest.raises(errors.UserError, match=re.escape(error)) as caught:
        command("sample")(f"--workdir={runs['plain']}", f"--out={tmp_path / 'grid.png'}", *words.split())
    assert "\n" not in str(caught.value) and not (tmp_path / "grid.png").exists()


def test_a_family_without_companions_has_no_such_options(runs):
    with pytest.raises(errors.UserError, match="a classifier draws no images"):
        drawn(runs["noisy"])
    with pytest.raises(errors.UserError, match="--guidance_checkpoint=2: this family of generators has no such option"):
        drawn(runs["noisy"], guidance_checkpoint=2)
