"""Files and their translations, and `python -m experiments.edit translate` as a person meets it, on a run of two steps."""

import html.parser
import urllib.parse
import warnings

import jax
import numpy as np
from PIL import Image
import pytest

from configs import cyclegan
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.data import pictures
from imagegen_jax.generation import tiling
from imagegen_jax.generation import translation
from imagegen_jax.training import checkpoint
from imagegen_jax.training import preservation
from imagegen_jax.training import run


def picture(rng, *shape):
    return Image.fromarray(rng.integers(0, 256, shape, np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Images by the names below; nothing in them matters."""
    rng = np.random.default_rng(0)
    for name in ("in/b.png", "in/sub/b.JPEG", "in/sub/deep.er/a.webp"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(rng, 18, 20, 3).save(path)
    (tmp_path / "in" / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_names_and_sub_folders_are_kept(folder):
    files = translation.plan(f"{folder}/in", f"{folder}/out/")
    assert [(str(file.source.relative_to(folder)), str(file.target.relative_to(folder))) for file in files] == [
        ("in/b.png", "out/b.png"),
        ("in/sub/b.JPEG", "out/sub/b.png"),
        ("in/sub/deep.er/a.webp", "out/sub/deep.er/a.png"),
    ]
    files = translation.plan(f"{folder}/in/sub/deep.er/a.webp,{folder}/in/b.png", f"{folder}/in/out/")
    assert [str(file.target.relative_to(folder)) for file in files] == ["in/out/a.png", "in/out/b.png"]


def test_results_inside_the_input_folder_are_no_inputs(folder):
    files = translation.plan(f"{folder}/in", f"{folder}/in/sub/out/")
    for file in files:
        file.target.parent.mkdir(parents=True, exist_ok=True)
        file.target.touch()
    assert translation.plan(f"{folder}/in", f"{folder}/in/sub/out/") == files


def test_a_name_with_a_comma_is_one_file(folder):
    (folder / "in" / "b.png").rename(folder / "one, two.png")
    (file,) = translation.plan(f"{folder}/one, two.png", f"{folder}/out/")
    assert file.target == folder / "out" / "one, two.png"


@pytest.mark.parametrize(
    ("inputs", "out", "words"),
    [
        ("{0}/in", "{0}/out.png", "out.png: give a folder"),
        ("{0}/nothing", "{0}/out/", "no file or folder '.*/nothing'"),
        ("{0}/in/b.png,", "{0}/out/", "no file or folder ''"),
        ("{0}/empty", "{0}/out/", "no .png, .jpg, .webp, .tif or .bmp files in .*/empty"),
        ("{0}/in/b.png,{0}/in/sub/b.JPEG", "{0}/out/", "in/b.png and .*/in/sub/b.JPEG would both become .*/out/b.png"),
        ("{0}/in", "{0}/in/", "that is the input folder"),
        ("{0}/in", "{0}/in/sub/../../in/", "would be overwritten"),
        ("{0}/in/sub,{0}/in/b.png", "{0}/empty/../in/", "would be overwritten|both become"),
    ],
)
def test_impossible_plans_are_refused(folder, inputs, out, words):
    with pytest.raises(errors.UserError, match=words):
        translation.plan(inputs.format(folder), out.format(folder))


def test_a_palette_counts_as_rgb_and_exif_turns(tmp_path):
    rng = np.random.default_rng(0)
    upright = picture(rng, 20, 31, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright.save(tmp_path / "turned.png", exif=exif)
    upright.quantize(16).save(tmp_path / "palette.png")
    upright.quantize(16).save(tmp_path / "transparent.png", transparency=3)
    files = [translation.File(path, path) for path in sorted(tmp_path.iterdir())]
    reader = translation.Reader(3, "error")
    assert reader.check(files) == files
    palette, transparent, turned = (reader.read(file.source) for file in files)
    np.testing.assert_array_equal(palette, np.asarray(upright.quantize(16).convert("RGB")))
    assert transparent.shape == (20, 31, 3) and (transparent == 255).all(-1).any()
    np.testing.assert_array_equal(turned, np.rot90(np.asarray(upright), -1))


@pytest.mark.parametrize(("mode", "kind", "wants"), [("L", "RGB", 3), ("RGB", "grey", 1), ("P", "grey", 1), ("RGBA", "RGB", 3)])
def test_other_channels_are_converted_as_for_training(tmp_path, capsys, mode, kind, wants):
    for name in ("x.png", "y.png"):
        Image.new(mode, (20, 30), 200 if mode in "LP" else (200,) * len(mode)).save(tmp_path / name)
    Image.new({1: "L", 3: "RGB"}[wants], (20, 30)).save(tmp_path / "z.png")
    paths = sorted(tmp_path.iterdir())
    reader = translation.Reader(wants, "error")
    assert len(reader.check([translation.File(path, path) for path in paths])) == 3
    assert capsys.readouterr().err == f"2 of 3 images, such as {paths[0]}, were converted to {kind}\n"
    with Image.open(paths[0]) as image:
        expected = pictures.convert(image, wants)
    np.testing.assert_array_equal(reader.read(paths[0]), expected)
    assert expected.shape == (30, 20, wants)


def test_more_pixels_than_are_allowed_are_unreadable(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    Image.new("L", (50, 20)).save(tmp_path / "x.png")
    files = [translation.File(tmp_path / "x.png", tmp_path / "y.png")]
    with warnings.catch_warnings():
        translation.set_most_pixels(999)
        with pytest.raises(pictures.BadImageError, match="x.png.*remove it, raise --most_pixels, or set --on_bad_image=skip"):
            translation.Reader(1, "error").check(files)
        translation.set_most_pixels(1000)
        assert translation.Reader(1, "error").check(files) == files


def test_unreadable_files_stop_or_are_skipped(tmp_path):
    paths = [tmp_path / name for name in ("cut.png", "text.png", "whole.png")]
    for path in paths:
        picture(np.random.default_rng(0), 40, 40, 3).save(path)
    paths[0].write_bytes(paths[0].read_bytes()[:2000])
    paths[1].write_text("not an image")
    files = [translation.File(path, path) for path in paths]
    strict = translation.Reader(3, "error")
    with pytest.raises(pictures.BadImageError, match=r"text.png: .* not an image; remove it, or set --on_bad_image=skip"):
        strict.check(files)
    with pytest.raises(pictures.BadImageError, match=r"cut.png: .*--on_bad_image=skip"):
        strict.read(paths[0])
    lenient = translation.Reader(3, "skip")
    assert lenient.check(files) == [files[0], files[2]]
    assert lenient.read(paths[0]) is None and lenient.read(paths[2]).shape == (40, 40, 3)
    assert [str(error).split(":")[0].split("/")[-1] for error in lenient.skipped] == ["text.png", "cut.png"]
    with pytest.raises(errors.UserError, match="none of the 1 images can be read, such as: .*text.png"):
        translation.Reader(3, "skip").check(files[1:2])


def test_a_picture_that_cannot_be_written_leaves_what_was_there(tmp_path):
    target = tmp_path / "x.png"
    target.mkdir()
    with pytest.raises(errors.UserError, match="cannot write .*x.png"):
        translation.save(target, np.zeros((4, 4, 3), np.uint8))
    assert list(tmp_path.iterdir()) == [target]


# ------------------------------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose domains have three channels, with the checkpoints 1 and 2, and averages unlike the parameters."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    config = cyclegan.get_config("smoke")
    config.network.channels = config.discriminator.channels = 4
    config.cyclegan.pool = 1
    specs = {name: images.Spec((28, 28, 3)) for name in ("a", "b")}
    state = jax.jit(run.build_algorithm(config, specs).init)(jax.random.key(0))
    state = state.replace(ema_params=jax.tree.map(lambda x: 2 * x, state.ema_params))
    run.save_config(workdir, config, specs)
    with checkpoint.Checkpointer(workdir / run.CHECKPOINTS, preservation.Policy(latest=2)) as checkpointer:
        for step in (1, 2):
            checkpointer.save(state.replace(step=state.step + step), checkpoint.Position(step, 0.0, 8, ""))
    return workdir


@pytest.fixture
def edit(command, monkeypatch, capsys):
    """(words) -> what is printed on stderr."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)

    def call(*words):
        with warnings.catch_warnings():
            command("edit")(*words)
        return capsys.readouterr().err

    return call


def expected(workdir, direction, path, step=None, use_ema=True):
    """The translation of an image that needs no tiles."""
    trained = run.load(workdir, step, use_ema)
    image = np.asarray(Image.open(path))
    batch = images.to_float(tiling.padded(image, 4)[None])
    made = jax.jit(trained.algorithm.translate, static_argnums=1)(trained.state, direction, batch)
    return np.asarray(images.to_uint8(made))[0, : image.shape[0], : image.shape[1]]


class Links(html.parser.HTMLParser):
    """Collects where the images of a page are."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.found.append(urllib.parse.unquote(dict(attrs)["src"]))


def test_a_folder_becomes_a_folder_with_a_page(tmp_path, trained, edit):
    rng = np.random.default_rng(0)
    inputs, out = tmp_path / "in", tmp_path / "out"
    (inputs / "sub").mkdir(parents=True)
    names = ["a <b> & #1?.png", "sub/large.webp"]
    picture(rng, 37, 51, 3).save(inputs / names[0])
    picture(rng, 75, 130, 3).save(inputs / names[1], lossless=True)
    (inputs / "broken.png").write_text("not an image")
    picture(rng, 40, 40, 3).save(inputs / "cut.png")
    (inputs / "cut.png").write_bytes((inputs / "cut.png").read_bytes()[:2000])
    flags = ("translate", f"--workdir={trained}", f"--input={inputs}", f"--out={out}", "--tile=64", "--overlap=16")

    with pytest.raises(errors.UserError, match=f"cannot read the image {inputs}/broken.png"):
        edit(*flags, "--direction=ab")
    assert not out.exists()

    said = edit(*flags, "--direction=ab", "--on_bad_image=skip")
    assert "3 of 3 images" in said and said.endswith("2 unreadable images were skipped\n")
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert written == ["a <b> & #1?.png", "index.html", "sub/large.png"]
    made = np.asarray(Image.open(out / names[0])).astype(int)
    assert np.abs(made - expected(trained, "ab", inputs / names[0])).max() <= 1
    assert Image.open(out / "sub/large.png").size == (130, 75)

    page = (out / "index.html").read_text("utf-8")
    assert "a &lt;b&gt; &amp; #1?.png" in page and "://" not in page and str(tmp_path) not in page
    links = Links(out / "index.html").found
    assert links == [f"../in/{names[0]}", names[0], f"../in/{names[1]}", "sub/large.png"]
    assert all((out / link).is_file() for link in links)


def test_files_the_other_way_by_an_earlier_checkpoint(tmp_path, trained, edit):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        picture(rng, 24, 33, 3).save(tmp_path / name)
    said = edit(
        "--noema", "--checkpoint=1", "translate", f"--workdir={trained}", "--direction=ba",
        f"--input={tmp_path}/a.png,{tmp_path}/b.png", f"--out={tmp_path}/out/",
    )  # fmt: skip
    assert "step 1" in said
    made = np.asarray(Image.open(tmp_path / "out" / "b.png")).astype(int)
    assert np.abs(made - expected(trained, "ba", tmp_path / "b.png", 1, False)).max() <= 1
    assert np.abs(made - expected(trained, "ab", tmp_path / "b.png", 1, False)).max() > 1
    assert np.abs(made - expected(trained, "ba", tmp_path / "b.png", 1, True)).max() > 1


def test_two_sets_of_results_never_mix(tmp_path, trained, edit):
    """Any name that the file system has, and a grey image where the network takes colour."""
    flags = ("translate", f"--workdir={trained}", "--direction=ab", f"--out={tmp_path}/out")
    names = ["a.png", "caf\udce9.png", "x" * 251 + ".png"]  # the second is not UTF-8 on disk
    for name in names:
        picture(np.random.default_rng(0), 16, 16).save(tmp_path / name)
    assert "2 of 2 images" in edit(*flags, f"--input={tmp_path / names[0]},{tmp_path / names[1]}")
    third = f"--input={tmp_path / names[2]}"
    with pytest.raises(errors.UserError, match="out: the folder is not empty"):
        edit(*flags, third)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*names[:2], "index.html"]
    edit(*flags, third, "--overwrite")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["index.html", names[2]]


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ({"out": "{0}/"}, "would be overwritten"),
        ({"out": "{0}/x.png/out"}, "x.png"),
        ({"workdir": "{0}/diffusion"}, "diffusion, which does not translate"),
        ({"most_pixels": "100"}, "raise --most_pixels"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(tmp_path, trained, tiny_config, edit, flags, error):
    picture(np.random.default_rng(0), 20, 20, 3).save(tmp_path / "x.png")
    run.save_config(tmp_path / "diffusion", tiny_config, images.Spec((28, 28, 1)))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    given = {"workdir": trained, "direction": "ab", "input": "{0}/x.png", "out": "{0}/out/"} | flags
    with pytest.raises(errors.UserError, match=error) as caught:
        edit("translate", *(f"--{name}={value}".format(tmp_path) for name, value in given.items()))
    assert "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_only_damaged_images_are_an_error_and_have_no_page(tmp_path, trained, edit):
    whole = tmp_path / "whole.png"
    picture(np.random.default_rng(0), 20, 20, 3).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])  # its header can be read
    given = (f"--workdir={trained}", "--direction=ab", f"--input={tmp_path}/cut.png", f"--out={tmp_path}/out/")
    with pytest.raises(errors.UserError, match="none of the 1 images can be read"):
        edit("translate", *given, "--on_bad_image=skip")
    assert not list((tmp_path / "out").iterdir())
