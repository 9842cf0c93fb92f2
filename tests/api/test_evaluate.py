"""Scoring by the command and from Python, on runs that train in seconds or not at all."""

import json
import pathlib
import re
import zipfile

import jax
import numpy as np
from PIL import Image
import pytest

from configs import vae
import imagegen_jax
from imagegen_jax import errors
from imagegen_jax import images as images_lib
from imagegen_jax.api import scoring
from imagegen_jax.data import fashion_mnist_10k
from imagegen_jax.data import sources
from imagegen_jax.evaluation import features
from imagegen_jax.evaluation import image_sets
from imagegen_jax.training import checkpoint
from imagegen_jax.training import preservation
from imagegen_jax.training import run
from imagegen_jax.training import sharding

ROOT = pathlib.Path(__file__).parents[2]


def scores_of(path):
    return json.loads(pathlib.Path(path).read_text())


@pytest.fixture(scope="module")
def evaluate(command):
    """Evaluates what a command line says, and returns what it wrote."""

    def call(*words, out):
        command("evaluate")(*words, f"--out={out}")
        return scores_of(out)

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory, command):
    workdir = tmp_path_factory.mktemp("evaluate") / "run"
    command("main")(f"--config={ROOT / 'configs' / 'baseline.py'}:smoke", f"--workdir={workdir}", "--config.eval.samples=64")
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
        for row in space(cells.reshape(-1, *cells.shape[2:])).reshape(*cells.shape[:2], -1):
            expected = np.sort(np.linalg.norm(points - row[0], axis=1))[:5]
            np.testing.assert_allclose(np.linalg.norm(row[block] - row[0], axis=1), expected, rtol=1e-4)


def test_a_run_is_scored(trained, tmp_path, evaluate):
    base = [f"--workdir={trained}", "--num=80"]
    report = evaluate(*base, "--batch_size=16", out=tmp_path / "a.json")
    again = evaluate(*base, "--batch_size=33", "--seed=0", "--metrics=fid,is", out=tmp_path / "b.json")
    every = evaluate(*base, "--checkpoint=all", "--metrics=fid", "--noanchors", out=tmp_path / "all.json")
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
    assert [one["label"]["step"] for one in every] == [4, 8]
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


def test_images_are_scored_without_a_run(tmp_path, evaluate):
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28, 1), np.uint8)
    np.savez(tmp_path / "noise.npz", images=images, labels=np.arange(60) % 10)
    np.savez(tmp_path / "stats.npz", mu=np.zeros(192), sigma=np.eye(192))
    noise = f"--samples={tmp_path / 'noise.npz'}"
    found = evaluate(noise, "--reference=fashion_mnist_10k", out=tmp_path / "a.json")
    itself = evaluate(noise, f"--reference={tmp_path / 'noise.npz'}", "--metrics=fid,prdc", out=tmp_path / "self.json")
    against_statistics = evaluate(noise, f"--reference={tmp_path / 'stats.npz'}", out=tmp_path / "stats.json")
    # Noise is what random pixels are.
    assert 0.5 < found["scores"]["fid"]["value"] / found["anchors"]["random pixels"]["fid"]["value"] < 2
    assert 0 <= found["scores"]["labels"]["value"] < 0.5  # the classes that noise was said to be of
    assert abs(itself["scores"]["fid"]["value"]) < 1e-6 and itself["scores"]["prdc"]["coverage"]["value"] == 1.0
    assert set(against_statistics["scores"]) == {"fid", "is", "diversity"}
    assert against_statistics["protocol"]["reference"]["num"] is None


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--samples=NOISE --reference=STATS --metrics=kid", "statistics without images"),
        ("--samples=NOISE --reference=OTHER", "those of 8: use"),
        ("--samples=LARGE --reference=fashion_mnist_10k", "the images are 32x32x3 and those of"),
        ("--samples=NOISE --reference=fashion_mnist_10k --metrics=kid", "60 images are too few"),
        ("--samples=NOISE --reference=fashion_mnist_10k --features=inception", "pt_inception-2015-12-05"),
        ("--samples=NOISE", "--reference is missing"),
        ("--samples=NOISE --workdir=RUN", "either --workdir"),
        ("--samples=/nothing --reference=fashion_mnist_10k", "nothing"),
        ("--samples=NOISE --reference=fashion_mnist_10k --steps=5", "--steps: --samples are there already"),
        ("--samples=NOISE --reference=fashion_mnist_10k --sweep=steps:5", "--sweep: --samples"),
        ("--samples=NOISE --reference=fashion_mnist_10k --out=a.txt", "ending in .json"),
        ("--samples=NOISE --reference=fashion_mnist_10k --likelihood=ode", "--likelihood=ode: it is of --workdir"),
        ("--workdir=RUN --metrics=fid --likelihood=ode", "of --metrics=heldout"),
        ("--workdir=RUN --likelihood=ode", "--likelihood=ode: only runs of diffusions"),
        ("--workdir=RUN --checkpoint=5", "no checkpoint of step 5"),
        ("--workdir=RUN --checkpoint=last", "--checkpoint=last"),
        ("--workdir=RUN --sweep=height:1,2", "keys are"),
        ("--workdir=RUN --sweep=10,20", "keys are"),
        ("--workdir=RUN --sweep=steps:10,20", "--steps=10"),
        ("--workdir=RUN --num=1", "--num is 1"),
        ("--workdir=RUN --metrics=fids", "choose of"),
        ("--workdir=RUN --compositions=2 --num=100", "--num is of other scores than --compositions"),
        ("--workdir=RUN --augmentation=100 --metrics=fid", "--metrics is of other scores than --augmentation"),
        ("--workdir=/nowhere", "not the folder of a run"),
    ],
)
def test_what_cannot_be_is_refused(trained, command, tmp_path, words, error):
    np.savez(tmp_path / "noise.npz", images=np.random.default_rng(0).integers(0, 256, (60, 28, 28, 1), np.uint8))
    np.savez(tmp_path / "stats.npz", mu=np.zeros(192), sigma=np.eye(192))
    np.savez(tmp_path / "other.npz", mu=np.zeros(8), sigma=np.eye(8))
    np.savez(tmp_path / "large.npz", images=np.zeros((9, 32, 32, 3), np.uint8))
    for name in ("noise", "stats", "other", "large"):
        words = words.replace(name.upper(), f"{tmp_path / name}.npz")
    with pytest.raises(errors.UserError, match=re.escape(error)):
        command("evaluate")(*words.replace("RUN", str(trained)).split())


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """The folder of a conditional VAE of 120 images in unequal classes, with untrained checkpoints of the steps 1 and 2."""
    folder = tmp_path_factory.mktemp("evaluate") / "conditional"
    classes = tuple(sorted(name.replace("/", " or ") for name in fashion_mnist_10k.CLASSES))
    for i, image in enumerate(np.random.default_rng(1).integers(0, 256, (120, 28, 28), np.uint8)):
        path = folder.parent / "data" / ("train" if i % 3 else "test") / classes[min(i % 13, 9)] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    config = vae.get_config("smoke")
    config.data.source = f"folder:{folder.parent}/data"
    config.vae.conditional = True
    config.network.update(widths=(8,), latent=4)
    specs = images_lib.Spec((28, 28, 1), classes)
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
        ["--reference=DATA"],
        ["--reference=DATA", "--class_shares=equal"],
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
    source = run.load_config(conditional)[0].data.source
    changed = [word.replace("RELABELLED", relabelled).replace("DATA", source) for word in changed]
    before = {path.name: scores_of(path) for path in (conditional / "eval").glob("*.json")}
    report = evaluate(*words, *changed, out=tmp_path / "a.json")
    assert report["protocol"] not in [each["protocol"] for each in before.values()]
    assert report in [scores_of(path) for path in (conditional / "eval").glob("*.json") if path.name not in before]
    assert evaluate(*words, *changed, "--batch_size=8", out=tmp_path / "b.json") == report  # nothing is drawn again


@pytest.mark.recipes
def test_likelihoods_of_a_diffusion_with_learned_variances(tmp_path, evaluate, tiny_config, capsys):
    """By the command, of an untrained run, from which two images are drawn besides."""
    config, spec = tiny_config, images_lib.Spec((28, 28, 1), fashion_mnist_10k.CLASSES)
    config.diffusion.update(learn_variance=True, times="uniform")
    config.sampler.update(name="ddpm", variance="learned")
    config.eval.batch_size = 200
    folder = tmp_path / "learned"
    run.save_config(folder, config, spec)
    with checkpoint.Checkpointer(folder / run.CHECKPOINTS, preservation.Policy(latest=1)) as checkpointer:
        state = jax.jit(run.build_algorithm(config, spec).init)(jax.random.key(0))
        checkpointer.save(state.replace(step=state.step + 1), checkpoint.Position(1, 0.0, 8, ""))
    words = [f"--workdir={folder}", "--num=2", "--metrics=heldout", "--features=pixels", "--noanchors", "--likelihood_num=8"]
    report = evaluate(*words, "--likelihood=bound", "--likelihood_samples=2", out=tmp_path / "scores.json")
    found, protocol = report["scores"]["heldout"], report["protocol"]["heldout"]
    assert protocol.items() >= {"likelihood": "bound", "likelihood_samples": 2, "likelihood_num": 8}.items()
    assert f"bits_per_dim_bound {found['bits_per_dim_bound']:.4g} ± " in capsys.readouterr().out
    parts = [found[f"bits_per_dim_bound_{part}"] for part in ("prior", "diffusion", "reconstruction")]
    assert found["bits_per_dim_bound"] == pytest.approx(sum(parts), rel=1e-5) and min(parts) >= 0
    assert 0 < found["bits_per_dim_bound_se"] < found["bits_per_dim_bound"] and found["vlb"] > 0


def test_what_changes_no_image_changes_no_score(base, evaluate, tmp_path):
    words, report = base
    assert evaluate(*words, "--batch_size=8", out=tmp_path / "a.json") == report
    assert report["protocol"]["images"]["labels"] == "equal shares" and report["protocol"]["images"]["device"] == "cpu"


def test_from_python(base, conditional, tmp_path):
    words, report = base
    trained, folder = imagegen_jax.load(conditional), pathlib.Path(words[-1].removeprefix("--reference=")).parent
    asked = dict(metrics=["fid"], reference_scores=False)
    assert trained.evaluate(num=12, reference=folder / "reference.npz", **asked) == report  # scored before
    arrays = imagegen_jax.evaluate(trained.sample(12), reference=np.load(folder / "reference.npz")["images"], **asked)
    np.testing.assert_allclose(arrays["scores"]["fid"]["value"], report["scores"]["fid"]["value"], rtol=1e-6)
    sweep = [{"temperature": 0.5}, {"temperature": 1, "label": "Dress"}]
    for _ in range(2):  # once drawn, once read
        found = trained.evaluate(num=12, sweep=sweep, **asked)
        assert [one["label"].get("label") for one in found] == [None, 3]
        scoring.save(found, tmp_path / "sweep.json")
    for wrong, error in (({"steps": 3}, "--steps=3: this family"), ({"class_shares": "even"}, "choose one of data, equal")):
        with pytest.raises(errors.UserError, match=error):
            trained.evaluate(**wrong)
    with pytest.raises(errors.UserError, match="array: its images are float64"):
        imagegen_jax.evaluate(np.zeros((4, 28, 28, 1)), reference="fashion_mnist_10k")


def test_reconstructions_are_those_of_the_codec(conditional, base, tmp_path, trained, command):
    """Scored as the same images are by themselves; latents have the mean and deviation of NumPy."""
    words, _ = base
    one, reference = imagegen_jax.load(conditional), words[-1].removeprefix("--reference=")
    test = image_sets.of_data(one.config.data, "test", one.spec.shape, one.spec.known_names)  # in the order of a fair draw
    image, label = map(np.concatenate, zip(*test.batches(0)))
    latents = one.codec.encode(image, label)
    asked = dict(metrics=["fid", "heldout"], reference_scores=False, num=24, reference=reference)
    found = one.evaluate(reconstructions=True, **asked)
    made = one.codec.decode(latents[:24], label[:24])
    alone = imagegen_jax.evaluate(made, **asked | {"metrics": ["fid"]})
    np.testing.assert_allclose(found["scores"]["fid"]["value"], alone["scores"]["fid"]["value"], rtol=1e-5)
    np.testing.assert_allclose(found["scores"]["heldout"]["latent_mean"], latents.mean(0), atol=1e-5)
    np.testing.assert_allclose(found["scores"]["heldout"]["latent_std"], latents.std(0), rtol=1e-4)
    assert "latent_mean 0" in scoring.text(found) or "latent_mean -0" in scoring.text(found)
    for wrong, error in (
        ([f"--workdir={trained}"], "--reconstructions: baseline encodes no images"),
        ([f"--workdir={conditional}", "--temperature=0.5"], "--temperature: reconstructions are of test images"),
        ([f"--samples={reference}", "--reference=fashion_mnist_10k"], "--reconstructions are of a run, --workdir"),
        ([f"--workdir={conditional}", "--compositions=1"], "--reconstructions is of other scores than --compositions"),
    ):
        with pytest.raises(errors.UserError, match=error):
            command("evaluate")(*wrong, "--reconstructions")


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
    with pytest.raises(errors.UserError, match="--class_shares: translations and restorations are made as"):
        evaluate(*words, "--class_shares=equal", out=tmp_path / "a.json")
