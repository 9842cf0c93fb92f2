"""Paths, traversals and directions against their closed forms, and the verbs of experiments.edit that use them."""

import dataclasses
import json
import math

import jax
from jax import numpy as jnp
import numpy as np
from PIL import Image
import pytest

from imagegen_jax import config as config_lib
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import similarity
from imagegen_jax.algorithms import base
from imagegen_jax.data import domains
from imagegen_jax.generation import codes
from imagegen_jax.generation import inputs
from imagegen_jax.generation import output
from imagegen_jax.training import checkpoint
from imagegen_jax.training import run
from imagegen_jax.training import sharding

SHAPE = (6, 5, 1)
SIZE = math.prod(SHAPE)
TRAIN, TEST = 24, 9

# ------------------------------------------------------------------------------------------------------------------ slerp


def test_slerp_moves_at_constant_speed_along_the_great_arc():
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 7))
    start, end = start / np.linalg.norm(start), end / np.linalg.norm(end)
    t = np.linspace(0, 1, 11)
    made = codes.slerp(start, end, t)
    assert made.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(made, axis=-1), 1, atol=1e-6)
    angle = np.arccos(start @ end)
    np.testing.assert_allclose(np.arccos(np.clip(made @ start, -1, 1)), t * angle, atol=1e-3)
    np.testing.assert_allclose(np.arccos(np.clip(made @ end, -1, 1)), (1 - t) * angle, atol=1e-3)
    # In the plane of the two: a quarter circle is (cos, sin).
    quarter = codes.slerp(np.array([1, 0]), np.array([0, 1]), t)
    np.testing.assert_allclose(quarter, np.stack([np.cos(t * np.pi / 2), np.sin(t * np.pi / 2)], -1), atol=1e-7)


@pytest.mark.parametrize("size", [2, 500])
def test_slerp_keeps_its_ends_exactly_and_lengths_go_linearly(size):
    rng = np.random.default_rng(1)
    start, end = (rng.normal(size=(2, size)) * [[3], [0.2]]).astype(np.float32)
    t = np.linspace(0, 1, 9)
    made = codes.slerp(start, end, t)
    np.testing.assert_array_equal(made[[0, -1]], [start, end])
    lengths = np.linalg.norm([start, end], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(made, axis=-1), (1 - t) * lengths[0] + t * lengths[1], rtol=1e-5)


@pytest.mark.parametrize("end", [(2, 4), (-1, -2), (1, 2), (0, 0), (1 + 1e-9, 2), (-1, -2 + 1e-9)])
def test_slerp_without_an_arc_is_a_line(end):
    start, end, t = np.array([1.0, 2.0]), np.array(end, np.float64), np.linspace(0, 1, 5)
    line = (1 - t)[:, None] * start + t[:, None] * end
    np.testing.assert_allclose(codes.slerp(start, end, t), line, atol=1e-6)
    np.testing.assert_allclose(codes.slerp(end, start, t), line[::-1], atol=1e-6)


def test_slerp_is_precise_between_neighbours_and_far_ends():
    for angle in (1e-4, np.pi - 1e-4):
        end = np.array([np.cos(angle), np.sin(angle)])
        (middle,) = codes.slerp(np.array([1.0, 0.0]), end, [0.5])
        np.testing.assert_allclose(middle, [np.cos(angle / 2), np.sin(angle / 2)], atol=1e-6)


# ------------------------------------------------------------------------------------------------------- walks of a coder


class Linear(base.Algorithm):
    """Codes that are an orthogonal matrix times the pixels, and with labels that class's share of a constant."""

    latent_shape = (SIZE,)
    prior_is_normal = False
    matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))[0].astype(np.float32)

    def __init__(self, classes=0):
        self.classes = classes
        self.traced = 0

    def encode(self, state, batch, rng=None):
        x = images.to_float(batch["image"]).reshape(-1, SIZE)
        return state.params["scale"] * jnp.dot(x, self.matrix, precision="highest")

    def decode(self, state, codes, condition):
        label = condition.get("label")
        self.traced += 1
        assert (label is None) == (not self.classes)
        x = jnp.dot(codes / state.params["scale"], self.matrix.T, precision="highest").reshape(-1, *SHAPE)
        return x if label is None else x + 0.1 * label[:, None, None, None]

    from_config = init = train_step = eval_step = None


def linear_coder(batch_size=8, classes=0):
    state = base.TrainState(jnp.zeros((), jnp.int32), {"scale": jnp.full((), 2.0)}, {}, {})
    mesh = sharding.make_mesh(jax.device_count())
    state = jax.device_put(state, sharding.replicated(mesh))
    return codes.Coder(Linear(classes), state, mesh, batch_size)


def random_images(num, seed=0):
    return np.random.default_rng(seed).integers(50, 200, (num, *SHAPE)).astype(np.uint8)


def test_codes_do_not_depend_on_the_batch_size_and_decode_to_their_images():
    image, label = random_images(19), np.zeros(19, np.int32)
    expected = 2 * (image / 127.5 - 1).reshape(19, SIZE) @ Linear.matrix
    for batch_size in (8, 11, 40):
        coder = linear_coder(batch_size)
        assert coder.dimensions == SIZE and coder.batch_size % jax.device_count() == 0
        made = coder.encode(image, label)
        assert made.shape == (19, SIZE) and made.dtype == np.float32
        np.testing.assert_allclose(made, expected, atol=1e-4)
        back = coder.decode(made, label)
        assert back.dtype == np.uint8
        np.testing.assert_array_equal(back, image)


def test_everything_is_compiled_once():
    algorithm = Linear()
    state = base.TrainState(jnp.zeros((), jnp.int32), {"scale": jnp.ones(())}, {}, {})
    coder = codes.Coder(algorithm, state, sharding.make_mesh(jax.device_count()), 8)
    for shape in ((3,), (17,), (2, 9), (1, 1, 5)):
        assert coder.decode(np.zeros((*shape, SIZE), np.float32), 0).shape == (*shape, *SHAPE)
    assert algorithm.traced == 1


def test_interpolations_end_in_reconstructions_with_the_label_of_the_nearer_end():
    coder = linear_coder(classes=4)
    image, label = random_images(3), np.array([3, 0, 2], np.int32)
    ends = coder.encode(image, label)
    told = codes.labels_of_paths(label, 5)
    assert told.tolist() == [[3, 3, 0, 0, 0], [0, 0, 2, 2, 2]]
    cells = coder.decode(codes.paths(ends, 5), told)
    assert cells.shape == (2, 5, *SHAPE)
    reconstructed = coder.decode(ends, label)
    np.testing.assert_array_equal(cells[:, 0], reconstructed[:-1])
    np.testing.assert_array_equal(cells[:, -1], reconstructed[1:])
    assert np.abs(reconstructed[0].astype(int) - image[0] - round(0.3 * 127.5)).max() <= 1  # the label arrived


@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (1, 9), (3, 4)])
def test_a_loop_has_each_inner_frame_twice(rows, columns):
    start = np.arange(rows)[:, None] * (columns - 1)
    loop = codes.there_and_back(start + np.arange(columns))  # frames by their number on the way
    last = rows * (columns - 1)
    assert loop.tolist() == [*range(last + 1), *range(last - 1, 0, -1)]


def test_a_traversal_changes_one_dimension():
    rng = np.random.default_rng(0)
    code, deviations = rng.normal(size=8).astype(np.float32), rng.uniform(0.1, 2, 8)
    values = np.linspace(-2.5, 2.5, 5)
    made = codes.traversals(code, deviations, [6, 0], values)
    assert made.shape == (2, 5, 8) and made.dtype == np.float32
    for row, dimension in zip(made, (6, 0)):
        np.testing.assert_allclose(row[:, dimension], code[dimension] + values * deviations[dimension], rtol=1e-5)
        others = np.arange(8) != dimension
        np.testing.assert_array_equal(row[:, others], np.broadcast_to(code[others], (5, 7)))
    np.testing.assert_array_equal(made[:, 2], [code, code])


def test_a_direction_is_the_difference_of_class_means():
    coder = linear_coder()
    image, label = random_images(30), np.arange(30, dtype=np.int32) % 3
    towards = codes.direction(coder.encode(image, label), label, 2, 0)
    x = (image / 127.5 - 1).reshape(30, SIZE)
    np.testing.assert_allclose(towards, 2 * (x[0::3].mean(0) - x[2::3].mean(0)) @ Linear.matrix, atol=1e-4)
    # In a linear model it is the difference of the mean images.
    moved = coder.decode(codes.shifts(coder.encode(image[:2], label[:2]), towards, [0, 0.5]), label)
    assert moved.shape == (2, 2, *SHAPE)
    change = (image[0::3].mean(0) - image[2::3].mean(0)) / 2
    np.testing.assert_array_equal(moved[:, 0], image[:2])
    assert np.abs(moved[:, 1] - (image[:2] + change)).max() <= 1
    with pytest.raises(errors.UserError, match="--to=3: none of 30 training images"):
        codes.direction(coder.encode(image, label), label, 0, 3)


def test_random_codes_are_standard_normal_and_each_of_its_seed():
    made = codes.of_prior([5, 6], 4000)
    assert abs(made.mean()) < 0.05 and abs(made.std() - 1) < 0.05 and abs((made[0] * made[1]).mean()) < 0.06
    np.testing.assert_array_equal(made[1:], codes.of_prior([6], 4000))
    with pytest.raises(errors.UserError, match="no standard normal prior"):
        codes.check_prior(Linear())


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
            output.picture(image).save(path)
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
    trained = domains.open_domains(data, "train")[""].reader([0, 1, 2])
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


def test_codes_of_a_domain_come_from_all_of_it(folder):
    coder = linear_coder()
    domain = domains.open_domains(data_of(folder), "train", {"": images.Spec(SHAPE, images.unnamed(3))})[""]
    made, labels = codes.of_domain(coder, domain, 10**6)
    batch = domain.reader(range(TRAIN))
    np.testing.assert_array_equal(made, coder.encode(batch["image"], batch["condition"]["label"]))
    np.testing.assert_array_equal(labels, batch["condition"]["label"])
    some, labels = codes.of_domain(coder, domain, 12)
    assert len(some) == 12 and set(labels.tolist()) == {0, 1, 2}  # a folder's classes lie one behind the other


# --------------------------------------------------------------------------------------------------------------- the do


def save_run(workdir, config):
    """A run that was never trained."""
    specs = {"": images.Spec(SHAPE, ("a", "b", "c"))}
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
    run.save_config(tmp_path / "diffusion", tiny_config, {"": images.Spec((28, 28, 1))})
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

    coder = codes.Coder(algorithm, state, sharding.make_mesh(jax.device_count()), 8)

    def rebuilt(given, label=None):
        label = given.label if label is None else label
        code = coder.encode(given.image, label)
        return code, coder.decode(code, label)

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
    expected = coder.decode(codes.of_prior([1, 2, 3], 5), np.int32(2))
    assert drawn.shape == (8, *SHAPE) and close(drawn[[0, 4, 7]], expected)
    # traverse, whose middle is the reconstruction
    last = inputs.read("train:23", "", data, spec)
    code, made = rebuilt(last)
    sheet = np.asarray(Image.open(out["walk.png"]))[..., None]
    assert sheet.shape == (13, 17, 1) and close(sheet[:6, 6:11], made[0]) and close(sheet[7:, 6:11], made[0])
    every = inputs.read("test:" + ",".join(map(str, range(TEST))), "", data, spec)
    deviations = rebuilt(every)[0].std(0)
    expected = coder.decode(codes.traversals(code[0], deviations, [4, 1], [-1.5, 1.5]), np.int32(2)).reshape(4, *SHAPE)
    for cell, place in zip(expected, (np.s_[:6, :5], np.s_[:6, 12:], np.s_[7:, :5], np.s_[7:, 12:])):
        assert close(sheet[place], cell)
    # attribute, which tells the decoder the other label
    trained = inputs.read("train:" + ",".join(map(str, range(TRAIN))), "", data, spec)
    known, _ = rebuilt(trained)
    towards = known[trained.label == 2].mean(0) - known[trained.label == 0].mean(0)
    origin = inputs.read("test:0,3", "", data, spec)
    code, made = rebuilt(origin)
    there = [coder.decode(code + s * towards, np.int32(2)) for s in (0, 1)]
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
