"""experiments.evaluate as a person meets it, on a baseline that trains in seconds."""

import json
import pathlib
import subprocess
import sys
import zipfile

import jax
import numpy as np
from PIL import Image
import pytest

from configs import vae
from imagegen_jax import errors
from imagegen_jax import images as images_lib
from imagegen_jax.data import fashion_mnist_10k
from imagegen_jax.data import sources
from imagegen_jax.evaluation import features
from imagegen_jax.evaluation import image_sets
from imagegen_jax.training import checkpoint
from imagegen_jax.training import preservation
from imagegen_jax.training import run
from imagegen_jax.training import sharding

ROOT = pathlib.Path(__file__).parents[2]

# Asks for several things in one process, since starting one takes longer than what is asked.
DRIVER = """
import json, sys
from absl import flags
from absl.testing import flagsaver
from experiments import evaluate
from imagegen_jax import errors
flags.FLAGS(["evaluate"])
for words in json.loads(sys.argv[1]):
    with flagsaver.flagsaver():
        flags.FLAGS(["evaluate", *words])
        try:
            evaluate.main()
            print("RESULT done")
        except errors.UserError as error:
            print("RESULT", error)
"""


def python(*words):
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def ask(*requests):
    """What becomes of each request: 'done', or the error's line."""
    lines = python("-c", DRIVER, json.dumps(requests)).splitlines()
    return [line.removeprefix("RESULT ") for line in lines if line.startswith("RESULT ")]


def scores_of(path):
    return json.loads(pathlib.Path(path).read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("evaluate") / "run"
    python("-m", "experiments.main", "--config=configs/baseline.py:smoke", f"--workdir={workdir}", "--config.eval.samples=64")
    return workdir


def test_distances_are_logged_while_training(trained):
    logged = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in logged if "eval/fid" in line]
    assert [line["step"] for line in measured] == [4, 8] and all(line["eval/fid"] > 0 < line["eval/kid"] for line in measured)
    assert all(0 <= line[f"eval/{name}"] <= 1 for line in measured for name in ("duplicates", "classes_covered"))


def assert_nearest(picture):
    """The picture's rows: an image, its five nearest training images by pixels, and by features; each block after white."""
    cells = (
        np.pad(np.asarray(Image.open(picture)), ((0, 1), (0, 1))).reshape(16, 29, 13, 29).swapaxes(1, 2)[..., :28, :28, None]
    )
    assert (cells[:, [1, 7]] == 255).all()
    training = np.concatenate([batch for batch, _ in image_sets.of_data(sources.Config(), "train").batches(0)])
    extractor = features.Extractor(features.named("fashion"), sharding.make_mesh(8), 200)
    spaces = (lambda x: x.reshape(len(x), -1).astype(np.float64), slice(2, 7)), (lambda x: extractor(x)[0], slice(8, 13))
    for space, block in spaces:
        points = space(training)
        for row in cells:
            expected = np.sort(np.linalg.norm(points - space(row[:1]), axis=1))[:5]
            np.testing.assert_allclose(np.linalg.norm(space(row[block]) - space(row[:1]), axis=1), expected, rtol=1e-4)


def test_a_run_is_scored(trained, tmp_path):
    base = [f"--workdir={trained}", "--num=80"]
    requests = [
        [*base, "--batch_size=16", f"--out={tmp_path / 'a.json'}"],
        [*base, "--batch_size=33", "--seed=0", "--metrics=fid,is", f"--out={tmp_path / 'b.json'}"],
        [*base, "--checkpoint=all", "--metrics=fid", "--noanchors", f"--out={tmp_path / 'all.json'}"],
    ]
    assert ask(*requests) == ["done"] * 3
    report, again = (scores_of(tmp_path / name) for name in ("a.json", "b.json"))
    files = sorted((trained / "eval").glob("*.json"))
    assert report in [scores_of(path) for path in files]
    assert set(report["scores"]) == {"fid", "is", "prdc", "classes", "diversity", "memorisation", "heldout"}
    assert set(again["scores"]) == {"fid", "is"} and 0 < report["scores"]["heldout"]["loss"] < 8  # bits/dim
    (picture,) = (trained / "eval").glob("*.neighbours.png")
    assert_nearest(picture)
    # The batch size changes no image, and so no score.
    np.testing.assert_allclose(again["scores"]["fid"]["value"], report["scores"]["fid"]["value"], rtol=1e-6)
    anchors = {name: scores["fid"]["value"] for name, scores in report["anchors"].items()}
    assert anchors["training images"] < report["scores"]["fid"]["value"] and "random pixels" in anchors
    protocol = report["protocol"]
    assert protocol["images"]["step"] == 8 and protocol["images"]["num"] == 80
    assert protocol["reference"]["num"] == 2000 and len(protocol["features"]["sha256"]) == 64
    assert [one["label"]["step"] for one in scores_of(tmp_path / "all.json")] == [4, 8]
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


def test_images_are_scored_without_a_run(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28, 1), np.uint8)
    np.savez(tmp_path / "noise.npz", images=images, labels=np.arange(60) % 10)
    np.savez(tmp_path / "stats.npz", mu=np.zeros(192), sigma=np.eye(192))
    np.savez(tmp_path / "other.npz", mu=np.zeros(8), sigma=np.eye(8))
    np.savez(tmp_path / "large.npz", images=np.zeros((9, 32, 32, 3), np.uint8))
    noise = f"--samples={tmp_path / 'noise.npz'}"
    bundled = "--reference=fashion_mnist_10k"
    outcomes = ask(
        [noise, bundled, f"--out={tmp_path / 'a.json'}"],
        [noise, f"--reference={tmp_path / 'noise.npz'}", "--metrics=fid,prdc", f"--out={tmp_path / 'self.json'}"],
        [noise, f"--reference={tmp_path / 'stats.npz'}", f"--out={tmp_path / 'stats.json'}"],
        [noise, f"--reference={tmp_path / 'stats.npz'}", "--metrics=kid"],
        [noise, f"--reference={tmp_path / 'other.npz'}"],
        [f"--samples={tmp_path / 'large.npz'}", bundled],
        [noise, bundled, "--metrics=kid"],
        [noise, bundled, "--features=inception"],
        [noise],
        [noise, f"--workdir={tmp_path}"],
        [f"--samples={tmp_path / 'nothing'}", bundled],
        [noise, bundled, "--steps=5"],
        [noise, bundled, "--sweep=steps:5"],
        [noise, bundled, f"--out={tmp_path / 'a.txt'}"],
    )
    assert outcomes[:3] == ["done"] * 3, outcomes
    found, itself, against_statistics = (scores_of(tmp_path / name) for name in ("a.json", "self.json", "stats.json"))
    # Noise is what random pixels are.
    assert 0.5 < found["scores"]["fid"]["value"] / found["anchors"]["random pixels"]["fid"]["value"] < 2
    assert 0 <= found["scores"]["labels"]["value"] < 0.5  # the classes that noise was said to be of
    assert abs(itself["scores"]["fid"]["value"]) < 1e-6 and itself["scores"]["prdc"]["coverage"]["value"] == 1.0
    assert set(against_statistics["scores"]) == {"fid", "is", "diversity"}
    assert against_statistics["protocol"]["reference"]["num"] is None
    for outcome, words in zip(
        outcomes[3:],
        [
            "statistics without images", "those of 8: use", "the images are 32x32x3 and those of", "60 images are too few",
            "pt_inception-2015-12-05", "--reference is missing", "either --workdir", "nothing",
            "--steps: --samples are there already", "--sweep: --samples", "ending in .json",
        ],
        strict=True,
    ):  # fmt: skip
        assert words in outcome, (words, outcome)


def test_requests_that_cannot_be(trained):
    run = f"--workdir={trained}"
    outcomes = ask(
        [run, "--checkpoint=5"],
        [run, "--checkpoint=last"],
        [run, "--sweep=height:1,2"],
        [run, "--sweep=10,20"],
        [run, "--sweep=steps:10,20"],
        [run, "--num=1"],
        [run, "--metrics=fids"],
        ["--workdir=/nowhere"],
    )
    expected = [
        "no checkpoint of step 5", "--checkpoint=last", "keys are", "keys are", "--steps=10", "--num is 1",
        "choose of", "not the folder of a run",
    ]  # fmt: skip
    for outcome, words in zip(outcomes, expected, strict=True):
        assert words in outcome, (words, outcome)


@pytest.fixture(scope="module")
def evaluate(command):
    """Evaluates in this process what a command line says, and returns the report."""

    def call(*words, out):
        command("evaluate")(*words, f"--out={out}")
        return scores_of(out)

    return call


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """The folder of a conditional VAE of the bundled images, with untrained checkpoints of the steps 1 and 2."""
    folder = tmp_path_factory.mktemp("evaluate") / "conditional"
    config = vae.get_config("smoke")
    config.vae.conditional = True
    config.network.update(widths=(8,), latent=4)
    specs = {"": images_lib.Spec((28, 28, 1), fashion_mnist_10k.CLASSES)}
    run.save_config(folder, config, specs)
    algorithm = run.build_algorithm(config, specs)
    with checkpoint.Checkpointer(folder / run.CHECKPOINTS, preservation.Policy(latest=2)) as checkpointer:
        for step in (1, 2):
            state = jax.jit(algorithm.init)(jax.random.key(step))
            checkpointer.save(state.replace(step=state.step + step), checkpoint.Position(step, 0.0, 8, ""))
    return folder


@pytest.fixture(scope="module")
def base(conditional, evaluate, tmp_path_factory):
    """(words of a command line, its report): of few images, against few."""
    folder = tmp_path_factory.mktemp("base")
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1), np.uint8)
    np.savez(folder / "reference.npz", images=images, labels=np.arange(40) % 2)
    np.savez(folder / "relabelled.npz", images=images, labels=np.arange(40) % 3)
    words = [f"--workdir={conditional}", "--num=12", "--metrics=fid", "--noanchors", f"--reference={folder}/reference.npz"]
    return words, evaluate(*words, out=folder / "scores.json")


@pytest.mark.parametrize(
    "changed",
    [
        ["--num=13"],
        ["--seed=1"],
        ["--anchors"],
        ["--checkpoint=1"],
        ["--noema"],
        ["--features=pixels"],
        ["--metrics=fid,diversity"],
        ["--metrics=fid,heldout", "--importance_samples=1"],
        ["--metrics=fid,heldout", "--importance_samples=2"],
        ["--reference=RELABELLED"],
        ["--reference=fashion_mnist_10k"],
        ["--reference=fashion_mnist_10k", "--reference_split=train"],
        ["--reference=fashion_mnist_10k", "--class_shares=equal"],
        ["--label=3"],
        ["--temperature=0.5"],
        ["--latents=gmm", "--components=2"],
        ["--latents=gmm", "--components=3"],
    ],
    ids=lambda changed: " ".join(changed),
)
def test_no_flag_is_answered_with_what_another_value_gave(base, changed, evaluate, conditional, tmp_path):
    words, _ = base
    relabelled = words[-1].removeprefix("--reference=").replace("reference.npz", "relabelled.npz")
    changed = [word.replace("RELABELLED", relabelled) for word in changed]
    before = {path.name: scores_of(path) for path in (conditional / "eval").glob("*.json")}
    report = evaluate(*words, *changed, out=tmp_path / "a.json")
    assert report["protocol"] not in [each["protocol"] for each in before.values()]
    assert report in [scores_of(path) for path in (conditional / "eval").glob("*.json") if path.name not in before]
    assert evaluate(*words, *changed, "--batch_size=8", out=tmp_path / "b.json") == report  # nothing is drawn again


def test_what_changes_no_image_changes_no_score(base, evaluate, tmp_path):
    words, report = base
    assert evaluate(*words, "--batch_size=8", out=tmp_path / "a.json") == report
    assert report["protocol"]["images"]["labels"] == "equal shares" and report["protocol"]["images"]["device"] == "cpu"


def test_translations_are_compared_with_other_things_than_were_translated(evaluate, tmp_path):
    """The bundled drawings are of the bundled test images: those of even number are translated, the others compared with."""
    folder = tmp_path / "cyclegan"
    with zipfile.ZipFile(ROOT / "tests" / "old_runs" / "cyclegan.zip") as archive:
        archive.extractall(folder)
    words = [f"--workdir={folder}", "--num=10", "--metrics=fid", "--noanchors", "--features=pixels"]
    for direction in ("ab", "ba"):
        protocol = evaluate(*words, f"--direction={direction}", out=tmp_path / "a.json")["protocol"]
        assert protocol["images"]["of"]["half"] == "even numbers" and protocol["images"]["direction"] == direction
        assert protocol["reference"]["half"] == "odd numbers" and protocol["reference"]["num"] == 1000
    protocol = evaluate(*words, "--reference_split=train", out=tmp_path / "a.json")["protocol"]
    assert "half" not in protocol["images"]["of"] and protocol["reference"]["num"] == 4000
    with pytest.raises(errors.UserError, match="--class_shares: a CycleGAN's translations are not drawn"):
        evaluate(*words, "--class_shares=equal", out=tmp_path / "a.json")
