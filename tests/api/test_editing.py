"""What a person names, and what experiments.edit and a notebook make of it."""

import dataclasses
import json

import jax
import numpy as np
from PIL import Image
import pytest

from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import similarity
from imagegen_jax.api import runs
from imagegen_jax.data import domains
from imagegen_jax.data import pictures
from imagegen_jax.generation import inputs
from imagegen_jax.generation import latent_space
from imagegen_jax.training import checkpoint
from imagegen_jax.training import run
from imagegen_jax.training import sharding

SHAPE = (6, 5, 1)
TRAIN, TEST = 24, 9


def random_images(num, seed=0):
    return np.random.default_rng(seed).integers(50, 200, (num, *SHAPE)).astype(np.uint8)


# ----------------------------------------------------------------------------------------------------------------- inputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A source of three classes, with a test split; brighter on one side the higher the class."""
    root = tmp_path_factory.mktemp("data")
    for split, num in (("train", TRAIN), ("test", TEST)):
        made = random_images(num, seed=num)
        for i, image in enumerate(made):
            image[:, :2] = 80 * (i % 3) + 20
            path = root / split / "abc"[i % 3] / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pictures.of_array(image).save(path)
    return root


def make_config(folder, conditional=True):
    config = config_lib.default("vae")
    config.data.source = f"folder:{folder}"
    config.network.update(name="dense", widths=(16,), latent=5)
    config.likelihood.update(name="gaussian", scale="fixed")
    config.vae.conditional = conditional
    return config


def data_of(folder):
    return config_lib.typed(make_config(folder)).data


def test_images_are_read_by_number_with_their_labels(folder):
    data, spec = data_of(folder), images.Spec(SHAPE, images.unnamed(3))
    given = inputs.read("test:0,8", "x.png", data, spec)
    assert given.names == ["test:0", "test:8"] and given.label.tolist() == [0, 2]
    np.testing.assert_array_equal(given.image[1, :, :, 0], np.asarray(Image.open(folder / "test/c/08.png")))
    files = inputs.read(f"{folder}/test/c/08.png,{folder}/test/a", "x.png", data, spec)
    np.testing.assert_array_equal(files.image[0], given.image[1])
    assert [name[-8:] for name in files.names] == ["c/08.png", "a/00.png", "a/03.png", "a/06.png"]
    assert files.label.tolist() == [-1] * 4
    assert inputs.seeds("seed:1,2") == [1, 2] and inputs.seeds("test:1") is None
    assert inputs.labels(files.label, 2, 3).tolist() == [2] * 4 and inputs.labels(given.label, None, 3).tolist() == [0, 2]
    assert inputs.labels(files.label, None, 0).tolist() == [-1] * 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("test:9", "there is no image 9, they go from 0 to 8"),
        ("test:a", "write numbers"),
        ("train:", "write numbers"),
        ("test:-1", "write numbers"),
        ("{0}/nothing.png", "no file or folder '.*/nothing.png'"),
        ("{0}/empty", "no .png, .jpg, .webp, .tif or .bmp files"),
        ("{0}/large.png", "large.png has 7x5 pixels and those of this run 6x5 pixels: resize it"),
        ("{0}/text.png", "cannot read the image .*text.png: it is empty or not an image"),
        ("{0}/out/x.png", "--out=.*/out/: the input .*/out/x.png is there"),
    ],
)
def test_other_inputs_are_refused(tmp_path, folder, given, words):
    for name, mode, size in (("large", "L", (5, 7)), ("colour", "RGB", (5, 6)), ("out/x", "L", (5, 6))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new(mode, size).save(tmp_path / f"{name}.png")
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.UserError, match=words) as caught:
        inputs.read(
            given.format(tmp_path),
            f"{tmp_path}/out/",
            data_of(folder),
            images.Spec(SHAPE, images.unnamed(3)),
        )
    assert "\n" not in str(caught.value)


def test_files_are_converted_as_for_training(tmp_path, folder, capsys):
    """Channels always, sizes where the training resized; the same pixels as a folder of them gives to the training."""
    rng = np.random.default_rng(0)
    for name, mode, shape in (("alpha", "RGBA", (9, 6, 4)), ("grey", "L", (8, 8)), ("palette", "P", (6, 12))):
        (tmp_path / "train").mkdir(exist_ok=True)
        picture = Image.fromarray(rng.integers(0, 256, shape, np.uint8), mode)
        if mode == "P":
            picture.putpalette(rng.integers(0, 256, 768, np.uint8).tobytes())
        picture.save(tmp_path / "train" / f"{name}.png")
    data = dataclasses.replace(data_of(tmp_path), image_size=6, channels=3)
    spec = images.Spec((6, 6, 3))
    given = inputs.read(str(tmp_path / "train"), "x.png", data, spec)
    trained = domains.open_domains(data, "train").reader([0, 1, 2])
    np.testing.assert_array_equal(given.image, trained["image"])
    said = capsys.readouterr().err
    assert "2 of 3 images, such as" in said and "alpha.png, were converted to RGB" in said
    assert "3 of 3 images, such as" in said and "were converted to 6x6 pixels" in said
    data = dataclasses.replace(data, image_size=0)
    with pytest.raises(errors.UserError, match="alpha.png has 9x6 pixels and those of this run 6x6 pixels"):
        inputs.read(str(tmp_path / "train"), "x.png", data, spec)
    assert inputs.read(f"{tmp_path}/train/grey.png", "x.png", data, images.Spec((8, 8, 3))).image.shape == (1, 8, 8, 3)


def test_a_set_without_test_images_is_an_error_of_test_numbers(folder):
    data = data_of(folder / "train")
    with pytest.raises(errors.UserError, match="has no test images"):
        inputs.read("test:0", "x.png", data, images.Spec(SHAPE, images.unnamed(3)))
    assert inputs.read("train:23", "x.png", data, images.Spec(SHAPE, images.unnamed(3))).label.tolist() == [2]


@pytest.mark.parametrize(
    ("known", "label", "classes", "words"),
    [
        (-1, None, 3, "--label is missing: .* from 0 to 2"),
        (-1, 3, 3, "the label 3 is none of the model's, which go from 0 to 2"),
        (-1, -1, 3, "the label -1"),
        (4, None, 3, "the label 4"),
        (1, 1, 3, "--label=1: images of the data set bring their own"),
        (-1, 1, 0, "--label=1: .* takes no labels"),
    ],
)
def test_other_labels_are_refused(known, label, classes, words):
    with pytest.raises(errors.UserError, match=words):
        inputs.labels(np.full(2, known, np.int32), label, classes)


# -------------------------------------------------------------------------------------------------------------- the verbs


def save_run(workdir, config):
    """A run that was never trained."""
    specs = images.Spec(SHAPE, ("a", "b", "c"))
    algorithm = run.build_algorithm(config, specs)
    # Averages unlike the parameters, so that it shows which are used.
    state = jax.jit(algorithm.init)(jax.random.key(0))
    state = state.replace(ema_params=jax.tree.map(lambda x: 2 * x, state.params))
    run.save_config(workdir, config, specs)
    with checkpoint.Checkpointer(workdir / run.CHECKPOINTS) as checkpointer:
        checkpointer.save(state, checkpoint.Position(7, 0.0, TRAIN, ""))
    return algorithm, state.with_ema()


def test_the_verbs_write_what_they_say(tmp_path, folder, tiny_config, command, capsys):
    algorithm, state = save_run(tmp_path / "run", make_config(folder))
    run.save_config(tmp_path / "diffusion", tiny_config, images.Spec((28, 28, 1)))
    out = {
        name: f"{tmp_path}/{name}" for name in ("pairs.png", "all/", "path.gif", "random.npz", "walk.png", "to.npz", "no.png")
    }
    given, file = f"--workdir={tmp_path}/run", f"--input={folder}/test/b/01.png"
    edit, asked = command("edit"), []
    for words in [
        ["reconstruct", given, "--input=test:0,4,8", f"--out={out['pairs.png']}"],
        ["reconstruct", given, f"--input={folder}/test/b", "--label=b", f"--out={out['all/']}"],
        ["interpolate", given, "--input=test:0,4", "--num=6", f"--out={out['path.gif']}"],
        ["interpolate", given, "--input=seed:1,2,3", "--num=4", "--label=2", f"--out={out['random.npz']}"],
        ["traverse", given, "--input=train:23", "--dimensions=4,1", "--num=3", "--range=1.5", f"--out={out['walk.png']}"],
        ["attribute", given, "--input=test:0,3", "--from=a", "--to=2", "--strength=0,1", f"--out={out['to.npz']}"],
        ["reconstruct", f"--workdir={tmp_path}/diffusion", "--input=test:0", f"--out={out['no.png']}"],
        ["interpolate", given, "--input=test:3", f"--out={out['no.png']}"],
        ["traverse", given, "--input=test:3,4", f"--out={out['no.png']}"],
        ["traverse", given, "--input=test:3", "--dimensions=5", f"--out={out['no.png']}"],
        ["traverse", given, "--input=test:3", "--range=0", f"--out={out['no.png']}"],
        ["attribute", given, "--input=test:3", "--from=0", "--to=3", f"--out={out['no.png']}"],
        ["attribute", given, "--input=test:3", "--from=0", "--to=1", "--strength=a", f"--out={out['no.png']}"],
        ["traverse", given, file, "--label=0", f"--out={tmp_path}/no.gif"],
        ["reconstruct", given, f"--out={out['all/']}"],
    ]:  # fmt: skip
        try:
            edit(*words)
            asked.append(capsys.readouterr().out)
        except errors.UserError as error:
            asked.append(str(error))
    for part, words in zip(asked[6:], [
        "is a run of diffusion, whose images have no codes: give the folder of an autoencoder's run",
        "give at least two", "give one image; these are 2", "there is no 5, they go from 0 to 4", "--range is 0.0",
        "--to=3: there is no such class; choose one of a, b, c, or 0 to 2", "--strength=a: write numbers",
        "give a path ending in .png",
        "the folder is not empty",
    ], strict=True):  # fmt: skip
        assert words in part and "\n" not in part
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["run", "diffusion", "pairs.png", "all", "path.gif", "random.npz", "walk.png", "to.npz"]
    )

    codec = latent_space.Codec(algorithm, state, sharding.make_mesh(jax.device_count()), 8)

    def rebuilt(given, label=None):
        label = given.label if label is None else label
        code = codec.encode(given.image, label)
        return code, codec.decode(code, label)

    def close(made, expected):
        return made.shape == expected.shape and np.abs(made.astype(int) - expected).max() <= 1

    data, spec = data_of(folder), images.Spec(SHAPE, images.unnamed(3))
    # reconstruct
    tests = inputs.read("test:0,4,8", "", data, spec)
    _, made = rebuilt(tests)
    pairs = np.stack([tests.image, made], 1).reshape(-1, *SHAPE)
    assert close(np.asarray(Image.open(out["pairs.png"]))[..., None], images.grid(pairs, 4))
    assert "test:4" in asked[0] and "mean" in asked[0]
    files = inputs.read(f"{folder}/test/b", "", data, spec)
    _, made = rebuilt(files, np.full(3, 1, np.int32))
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["00000.png", "00001.png", "00002.png", "errors.json"]
    assert close(np.asarray(Image.open(tmp_path / "all/00002.png"))[..., None], made[2])
    written = json.loads((tmp_path / "all/errors.json").read_text())
    squared, psnr = similarity.reconstruction_errors(files.image, made)
    assert written["step"] == 7 and [entry["input"] for entry in written["images"]] == files.names
    np.testing.assert_allclose([entry["squared_error"] for entry in written["images"]], squared, rtol=0.02)
    np.testing.assert_allclose([entry["psnr"] for entry in written["images"]], psnr, rtol=0.01)
    # interpolate
    _, ends = rebuilt(tests)
    with Image.open(out["path.gif"]) as picture:
        assert picture.n_frames == 2 * 6 - 2 and picture.info["loop"] == 0
        for frame, end in ((0, ends[0]), (5, ends[1])):
            picture.seek(frame)
            assert close(np.asarray(picture.convert("L"))[..., None], end)
    drawn = np.load(out["random.npz"])["images"]
    expected = codec.decode(latent_space.of_prior([1, 2, 3], 5), np.int32(2))
    assert drawn.shape == (8, *SHAPE) and close(drawn[[0, 4, 7]], expected)
    # traverse, whose middle is the reconstruction
    last = inputs.read("train:23", "", data, spec)
    code, made = rebuilt(last)
    sheet = np.asarray(Image.open(out["walk.png"]))[..., None]
    assert sheet.shape == (13, 17, 1) and close(sheet[:6, 6:11], made[0]) and close(sheet[7:, 6:11], made[0])
    every = inputs.read("test:" + ",".join(map(str, range(TEST))), "", data, spec)
    deviations = rebuilt(every)[0].std(0)
    expected = codec.decode(latent_space.traversals(code[0], deviations, [4, 1], [-1.5, 1.5]), np.int32(2)).reshape(4, *SHAPE)
    for cell, place in zip(expected, (np.s_[:6, :5], np.s_[:6, 12:], np.s_[7:, :5], np.s_[7:, 12:])):
        assert close(sheet[place], cell)
    # attribute, which tells the decoder the other label
    trained = inputs.read("train:" + ",".join(map(str, range(TRAIN))), "", data, spec)
    known, _ = rebuilt(trained)
    towards = known[trained.label == 2].mean(0) - known[trained.label == 0].mean(0)
    origin = inputs.read("test:0,3", "", data, spec)
    code, made = rebuilt(origin)
    there = [codec.decode(code + s * towards, np.int32(2)) for s in (0, 1)]
    assert close(np.load(out["to.npz"])["images"].reshape(2, 4, *SHAPE), np.stack([origin.image, made, *there], 1))


def test_what_is_shown_where_nothing_is_named(tmp_path, folder, command, capsys):
    """Test images, a fair draw that is printed; random codes where images have none."""
    save_run(tmp_path / "run", make_config(folder, conditional=False))
    edit = command("edit")
    edit("reconstruct", f"--workdir={tmp_path}/run", f"--out={tmp_path}/all/")
    shown = capsys.readouterr()
    named = next(line for line in shown.err.splitlines() if line.startswith("--input=test:"))
    numbers = [int(number) for number in named.removeprefix("--input=test:").split(",")]
    assert sorted(numbers) == list(range(TEST)) and f"test:{numbers[0]} " in shown.out
    edit("interpolate", f"--workdir={tmp_path}/run", f"--out={tmp_path}/path.npz", "--num=3")
    assert np.load(tmp_path / "path.npz")["images"].shape == (9, *SHAPE)
    written = (tmp_path / "all" / "00000.png").read_bytes()
    edit("reconstruct", f"--workdir={tmp_path}/run", f"--out={tmp_path}/again/", named)
    assert (tmp_path / "again" / "00000.png").read_bytes() == written
    alone = data_of(folder / "train")
    assert inputs.some(alone, images.Spec(SHAPE, images.unnamed(3)), 5).startswith("train:")


def test_a_run_edits_arrays(tmp_path, folder):
    """What the command writes comes of these methods; here, how they agree with each other and what they refuse."""
    save_run(tmp_path / "run", make_config(folder))
    trained = runs.load(tmp_path / "run")
    image, label = random_images(3), [0, 1, 2]
    latents = trained.encode(image, label)
    assert latents.shape == (3, *trained.algorithm.latent_shape) and latents.dtype == np.float32
    made, squared, psnr = trained.reconstruct(image, label)
    np.testing.assert_array_equal(trained.decode(latents, label), made)
    np.testing.assert_array_equal((squared, psnr), similarity.reconstruction_errors(image, made))
    rows = trained.interpolate(image, 4, label)
    np.testing.assert_array_equal(rows[:, 0], made[:2])
    np.testing.assert_array_equal(rows[:, -1], made[1:])
    assert trained.traverse(image[0], num=3, label=0).images.shape == (5, 3, *SHAPE)
    np.testing.assert_array_equal(trained.attribute(image, "a", 1, [2], label)[:, :2], np.stack([image, made], 1))
    for ask, words in (
        (lambda: trained.encode(image), "label is missing"),
        (lambda: trained.translate(image, "ab"), "is a run of vae"),
    ):
        with pytest.raises(errors.UserError, match=words):
            ask()
