"""Repair, variation and inversion with runs that were never trained: what is kept, written and refused."""

import json
import types

import numpy as np
from PIL import Image
import pytest

from configs import ddpm
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import similarity
from imagegen_jax.api import comparing
from imagegen_jax.api import restoring
from imagegen_jax.api import restoring_files
from imagegen_jax.api import runs
from imagegen_jax.data import pictures
from imagegen_jax.generation import damages
from imagegen_jax.generation import masks

SHAPE = (8, 8, 3)
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (16, *SHAPE), np.uint8)


def config_of(data, conditional):
    config = ddpm.get_config("smoke")
    config.data.source = f"folder:{data}"
    config.network.update(channels=8, multipliers=(1,), patch_size=2)
    config.diffusion.conditional = conditional
    config.sample.batch_size = 8
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_untrained):
    """Data of two classes, and a run of each kind."""
    root = tmp_path_factory.mktemp("restoring")
    for i, image in enumerate(PICTURES):
        path = root / "data" / ("test" if i % 2 else "train") / "ab"[i // 2 % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures.of_array(image).save(path)
    for name, conditional in (("run", False), ("conditional", True)):
        save_untrained(root / name, config_of(root / "data", conditional), images.Spec(SHAPE, ("a", "b")))
    return root


@pytest.fixture(scope="module")
def trained(folder):
    return runs.load(folder / "run")


def test_verbs_on_arrays(trained):
    image, fast = PICTURES[:3], dict(steps=4)
    filled = trained.inpaint(image, "half:left", samples=2, **fast)
    hidden = masks.hidden("half:left", 3, SHAPE[:2])
    assert filled.samples.shape == (3, 2, *SHAPE) and filled.images.dtype == np.uint8
    np.testing.assert_array_equal(filled.images[~hidden], image[~hidden])
    np.testing.assert_array_equal(filled.spread[~hidden], 0)
    assert filled.spread[hidden].mean() > 0.01 and (filled.images != image).any()
    around = trained.outpaint(image[:, 2:6, 2:6], **fast).images
    np.testing.assert_array_equal(around[:, 2:6, 2:6], image[:, 2:6, 2:6])
    large = trained.superres(image[:, :4, :4], factor=2, **fast).images
    assert large.shape == image.shape
    np.testing.assert_array_equal(trained.colorize(image[..., :1], **fast).images.shape, image.shape)
    assert trained.deblur(image, sigma=1.0, method="mmps", iterations=1, **fast).images.shape == image.shape
    assert trained.denoise(image, sigma=0.3, method="reconstruction", **fast).images.shape == image.shape
    assert trained.inpaint(image, hidden, method="repaint", repeats=2, noise=0.1, **fast).images.shape == image.shape


def test_an_image_depends_on_its_number_and_sample_alone(folder, trained):
    """Whatever the batch size, and how many samples there are."""
    image, fast = PICTURES[:3], dict(steps=4)
    many = trained.superres(image[:, :4, :4], 2, samples=3, **fast).samples
    few = runs.load(folder / "run", batch_size=16).superres(image[:2, :4, :4], 2, samples=2, **fast).samples
    assert np.abs(many[:2, :2].astype(int) - few).max() <= 1
    other = trained.superres(image[:, :4, :4], 2, seed=1, **fast).images
    assert np.abs(many[:, 0].astype(int) - other).max() > 1


def test_variations_come_nearer_with_less_strength(trained):
    image = PICTURES[:4]
    far = [np.abs(trained.vary(image, strength, steps=10).images.astype(int) - image).mean() for strength in (0.1, 0.5)]
    assert far[0] < far[1]


@pytest.mark.recipes
def test_inversion_interpolation_and_blends(trained):
    image = PICTURES[:3]
    noise, (made, squared, psnr) = trained.invert(image, steps=40)
    assert noise.shape == image.shape and 0.3 < noise.std() < 3
    np.testing.assert_array_equal((squared, psnr), similarity.reconstruction_errors(image, made))
    assert np.abs(made.astype(int) - image).max() <= 4
    path = trained.interpolate(image, 3, steps=40)
    assert path.shape == (2, 3, *SHAPE)
    assert np.abs(path[:, 0].astype(int) - made[:2]).max() <= 1 and np.abs(path[:, 2].astype(int) - made[1:]).max() <= 1
    middle = trained.blend(image[:2], steps=40)
    assert np.abs(middle.astype(int) - path[0, 1]).max() <= 20  # lengths of noise differ a little
    assert np.abs(trained.blend(image[:2], [0, 1], steps=40).astype(int) - made[1]).max() <= 1
    assert trained.interpolate([1, 2], 3, steps=10).shape == (1, 3, *SHAPE)


def test_other_runs_are_refused():
    trained = types.SimpleNamespace(algorithm=object(), workdir="runs/vae", config=types.SimpleNamespace(algorithm="vae"))
    with pytest.raises(errors.UserError, match="runs/vae is a run of vae, which does not draw by denoising"):
        restoring.inpaint(trained, PICTURES, "half:left")


def test_what_the_scores_are(trained):
    truth, made = PICTURES[:2], PICTURES[2:4]
    hidden = masks.hidden("half:left", 2, SHAPE[:2])
    scores = comparing.scorer(truth, hidden, "pixels")(made)
    difference = np.abs(truth.astype(float) - made) / 255
    np.testing.assert_allclose(scores["l1"], difference[:, :, :4].mean((1, 2, 3)))
    np.testing.assert_allclose(scores["psnr"], -10 * np.log10((difference**2).mean((1, 2, 3))), rtol=1e-4)
    np.testing.assert_allclose(scores["perceptual"], np.sqrt((difference**2).sum((1, 2, 3))), rtol=1e-4)
    assert "perceptual" not in comparing.scorer(truth)(made) and set(scores) == {"psnr", "ssim", "l1", "perceptual"}


def test_trivial_answers(trained):
    train = PICTURES[::2]
    problem = damages.Inpaint(mask="half:left").problem(SHAPE, 2)
    y = train[[3, 5]]
    found = comparing.trivial(trained, problem, y)
    assert set(found) == {"mean fill", "nearest training image"}
    np.testing.assert_array_equal(found["nearest training image"], y)  # which is a training image
    np.testing.assert_allclose(found["mean fill"][0, :, :4], train.mean(0)[:, :4], atol=1)
    np.testing.assert_array_equal(found["mean fill"][:, :, 4:], y[:, :, 4:])
    enlarged = damages.Superres(factor=2).problem(SHAPE, 2)
    found = comparing.trivial(trained, enlarged, enlarged.degraded(y))
    np.testing.assert_array_equal(found["nearest training image"], y)
    wanted = np.asarray(Image.fromarray(enlarged.degraded(y)[0]).resize((8, 8), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(found["bicubic"][0], wanted)


@pytest.mark.recipes
def test_the_command_writes_images_under_their_names_with_a_page(tmp_path, folder, command, capsys):
    edit, given = command("edit"), [f"--workdir={folder}/run", "--steps=3"]
    edit("inpaint", *given, "--input=test:0,3", "--mask=half:top", "--samples=2", f"--out={tmp_path}/filled")
    filled = tmp_path / "filled"
    kept = np.asarray(Image.open(filled / "test_3.png"))
    np.testing.assert_array_equal(kept[4:], np.asarray(Image.open(filled / "before" / "test_3.png"))[4:])
    assert np.asarray(Image.open(filled / "damaged" / "test_0.png"))[0, 0].tolist() == [128] * 3
    page = (filled / "index.html").read_text()
    for part in ("before/test_0.png", "damaged/test_3.png", '"test_0.png"', "sample_2/test_0.png", "spread/test_0.png"):
        assert part in page
    scores = json.loads((filled / "scores.json").read_text())
    assert scores["step"] == 3 and scores["inputs"] == ["test_0", "test_3"]
    assert set(scores["scores"]) == {"ddnm", "mean fill", "nearest training image"}
    assert len(scores["scores"]["ddnm"]["l1"]) == 2
    assert "PSNR" in capsys.readouterr().out
    # Files are the damaged images, unless they are to be scored.
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name, side in (("in/a.png", 4), ("in/sub/b.jpg", 4), ("true.png", 8)):
        pictures.of_array(PICTURES[0][:side, :side]).save(tmp_path / name)
    edit("superres", *given, "--factor=2", f"--input={tmp_path}/in", f"--out={tmp_path}/large")
    assert sorted(str(path.relative_to(tmp_path / "large")) for path in (tmp_path / "large").rglob("*.*")) == [
        "a.png", "damaged/a.png", "damaged/sub/b.png", "index.html", "sub/b.png"
    ]  # fmt: skip
    assert Image.open(tmp_path / "large" / "a.png").size == (8, 8) and not capsys.readouterr().out
    edit("deblur", *given, "--sigma=1", f"--input={tmp_path}/true.png", "--score", f"--out={tmp_path}/sharp.png")
    assert "as it is" in capsys.readouterr().out and Image.open(tmp_path / "sharp.png").size == (26, 8)
    transparent = Image.fromarray(PICTURES[1]).convert("RGBA")
    transparent.putalpha(Image.fromarray(np.where(np.arange(64).reshape(8, 8) < 20, 0, 255).astype(np.uint8)))
    transparent.save(tmp_path / "clear.png")
    edit("inpaint", *given, f"--input={tmp_path}/clear.png", f"--out={tmp_path}/clear.npz")
    np.testing.assert_array_equal(np.load(tmp_path / "clear.npz")["images"][1, 3:], PICTURES[1][3:])
    edit("vary", *given, "--strength=.5", "--input=test:0", f"--out={tmp_path}/varied/")
    edit("invert", *given, "--input=test:0", f"--out={tmp_path}/inverted")
    assert "PSNR" in capsys.readouterr().out and (tmp_path / "inverted" / "noise" / "test_0.png").exists()
    edit("interpolate", *given, "--input=test:0,1", "--num=3", f"--out={tmp_path}/path.npz")
    edit("blend", *given, "--input=test:0,1", "--weights=.2,.8", f"--out={tmp_path}/one.npz")
    assert np.load(tmp_path / "path.npz")["images"].shape == (3, *SHAPE)
    assert np.load(tmp_path / "one.npz")["images"].shape == (1, *SHAPE)


def test_what_cannot_be_is_said_in_one_line_and_nothing_written(tmp_path, folder, command):
    edit = command("edit")
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    Image.new("L", (9, 8), 255).save(tmp_path / "wide.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    (tmp_path / "runs").mkdir()
    for words, said in [
        (["inpaint", f"--mask={tmp_path}/black.png"], "is all black, and hides nothing"),
        (["inpaint", f"--mask={tmp_path}/wide.png"], "has 8x9 pixels and the images 8x8"),
        (["inpaint", "--mask=hole"], "there is no such file or word"),
        (["inpaint"], "--mask is missing"),
        (["inpaint", "--mask=half:left", "--factor=4"], "--factor=4 is of superres, and this is inpaint"),
        (["inpaint", "--mask=half:left", "--method=magic"], "choose one of ddnm"),
        (["inpaint", "--mask=half:left", "--weight=4"], "--weight is of --method=reconstruction, and the method is ddnm"),
        (
            ["inpaint", "--mask=half:left", "--method=repaint", "--sampler=heun"],
            "repeats single steps: choose --sampler=ddpm, ddim, euler",
        ),
        (["inpaint", "--mask=half:left", "--temperature=2"], "this family of generators has no such option"),
        (["inpaint", "--mask=half:left", "--steps=2000"], "the diffusion has"),
        (["inpaint", "--mask=half:left", "--label=a"], "takes no labels"),
        (["superres", "--factor=3"], "--factor=3 does not divide the 8x8 pixels"),
        (["superres", "--factor=two"], "--factor=two: write a whole number"),
        (["deblur", "--sigma=0"], "--sigma=0: it must be more than 0"),
        (["vary", "--strength=2"], "--strength=2.0: it must be above 0, and at most 1"),
        (["vary", "--strength=.2,.3"], "give one number"),
        (["invert", "--sampler=ddim"], "there is one solver"),
        (["blend", "--weights=1,2,3", f"--out={tmp_path}/no.png"], "give one for each of the 2 images"),
        (["denoise", f"--workdir={folder}/conditional", f"--input={tmp_path}/photo.png"], "--label is missing"),
    ]:
        given = [f"--workdir={folder}/run", "--input=test:0,1", f"--out={tmp_path}/no"]
        with pytest.raises(errors.UserError) as caught:
            edit(words[0], *given, *words[1:])
        assert said in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["black.png", "photo.png", "runs", "wide.png"]
    edit(
        "denoise",
        f"--workdir={folder}/conditional",
        "--steps=3",
        "--input=test:0",
        "--guidance_scale=2",
        f"--out={tmp_path}/no/",
    )


@pytest.mark.recipes
def test_images_of_any_size_are_drawn_in_tiles(trained):
    """Larger than the run's 8x8: what a mask keeps stays, whatever the number of the image beside it."""
    large, fast = RNG.integers(0, 256, (2, 13, 10, 3), np.uint8), dict(steps=3, tiled=True)
    hidden = masks.hidden("box:2,3,6,7", 2, (13, 10))
    made = trained.inpaint(large, hidden, samples=2, overlap=3, **fast)
    assert made.samples.shape == (2, 2, 13, 10, 3) and (made.images != large).any()
    np.testing.assert_array_equal(made.images[~hidden], large[~hidden])
    assert trained.superres(large[:, :, :5], 2, **fast).images.shape == (2, 26, 10, 3)
    assert trained.outpaint(large[:1], **fast).images.shape == (1, 26, 20, 3)
    wider = trained.outpaint(large[:1], to="16x13", **fast).images
    np.testing.assert_array_equal(wider[:, :, 3:13], large[:1])
    for to, said in (("16", "write width and height"), ("9x20", "the input has 10x13 pixels, and the result has more")):
        with pytest.raises(errors.UserError, match=f"--to={to}: {said}"):
            trained.outpaint(large, to=to, **fast)
    with pytest.raises(errors.UserError, match="--to=16x13 is of --tiled"):
        trained.outpaint(large[:, :4, :4], to="16x13")
    with pytest.raises(errors.UserError, match="--overlap=3 is of --tiled"):
        trained.inpaint(PICTURES[:1], "half:left", overlap=3)
    assert trained.colorize(large[..., :1], method="mmps", iterations=1, **fast).images.shape == large.shape
    with pytest.raises(errors.UserError, match="--tiled: an image of 7x10 pixels is smaller than a tile of this run, 8x8"):
        trained.inpaint(large[:, :7], hidden[:, :7], **fast)
    with pytest.raises(errors.UserError, match="--overlap is 5: it must be between 0 and 4"):
        trained.inpaint(large, hidden, overlap=5, **fast)
    with pytest.raises(errors.UserError, match="with --tiled leave it out"):
        trained.outpaint(large, "box:0,0,2,2", **fast)


@pytest.mark.recipes
def test_only_what_tiles_around_a_hole_see_is_drawn(trained):
    """So a hole is filled as in an image that ends there, whatever is beyond, and the bits of other pixels stay."""
    large, hidden, fast = RNG.integers(0, 256, (2, 40, 24, 3), np.uint8), np.zeros((2, 40, 24), bool), dict(steps=3, tiled=True)
    hidden[:, 2:5, 1] = True
    made = trained.inpaint(large, hidden, **fast).images
    np.testing.assert_array_equal(made[:, :13, :10], trained.inpaint(large[:, :13, :10], hidden[:, :13, :10], **fast).images)
    np.testing.assert_array_equal(made[~hidden], large[~hidden])
    assert (made[hidden] != large[hidden]).any()


@pytest.mark.recipes
def test_one_tile_is_the_whole_image(trained):
    plain, tiled = (trained.inpaint(PICTURES[:2], "half:left", steps=3, tiled=tiled).images for tiled in (False, True))
    assert np.abs(plain.astype(int) - tiled).max() <= 1


@pytest.mark.recipes
def test_files_of_several_sizes_keep_theirs_in_tiles(folder, trained, tmp_path):
    sizes = {"a": (9, 12), "b": (16, 8)}
    truth = {name: RNG.integers(0, 256, (*size, 3), np.uint8) for name, size in sizes.items()}
    (tmp_path / "in").mkdir()
    for name, image in truth.items():
        pictures.of_array(image).save(tmp_path / "in" / f"{name}.png")
    run_of = dict(verb="inpaint", mask="half:left", steps=2, tiled=True)
    lines = restoring_files.restore(trained, str(tmp_path / "in"), str(tmp_path / "out"), score=True, **run_of)
    for name, image in truth.items():
        made = np.asarray(Image.open(tmp_path / "out" / f"{name}.png"))
        np.testing.assert_array_equal(made[:, image.shape[1] // 2 :], image[:, image.shape[1] // 2 :])
    scores = json.loads((tmp_path / "out/scores.json").read_text())["scores"]
    assert list(scores) == ["ddnm"] and len(scores["ddnm"]["psnr"]) == 2 and "ddnm" in lines
    with pytest.raises(errors.UserError, match="several sizes, and a file takes one: give a folder"):
        restoring_files.restore(trained, str(tmp_path / "in"), str(tmp_path / "out.png"), **run_of)
    with pytest.raises(errors.UserError, match="--tiled: the images of --input=test:0 have the run's size"):
        restoring_files.restore(trained, "test:0", str(tmp_path / "none"), **run_of)
    small = tmp_path / "small.png"
    pictures.of_array(truth["a"][:5]).save(small)
    with pytest.raises(errors.UserError, match="an image of 5x12 pixels is smaller than a tile"):
        restoring_files.restore(trained, str(small), str(tmp_path / "none"), **run_of)
    assert not (tmp_path / "none").exists()
