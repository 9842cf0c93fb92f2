"""experiments.sample as a person meets it, and what it and other commands take as options of drawing."""

import shlex

from jax import numpy as jnp
import numpy as np
from PIL import Image
import pytest

from configs import ddpm
import imagegen_jax
from imagegen_jax import algorithms
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import keys
from imagegen_jax.algorithms import diffusion as diffusion_lib
from imagegen_jax.algorithms import vae
from imagegen_jax.diffusion import inverse_problems
from imagegen_jax.generation import drawing_flags
from imagegen_jax.generation import redrawing
from imagegen_jax.generation import requests
from imagegen_jax.generation import sampling
from imagegen_jax.training import run
from imagegen_jax.training import summary


@pytest.fixture(scope="module")
def sample(command):
    return command("sample")


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory, save_untrained):
    """The folder of a run with checkpoints of steps 2 and 4, whose sampler is ddim with all of its noise."""
    folder = tmp_path_factory.mktemp("sample") / "run"
    config = ddpm.get_config("smoke")
    config.network.update(channels=8, multipliers=(1,))
    config.sample.batch_size = 8
    config.sampler.update(name="ddim", steps=3, grid="trailing", eta=1.0)
    save_untrained(folder, config, images.Spec((28, 28, 1)), steps=(2, 4))
    return folder


def drawn(path):
    with np.load(path) as saved:
        return saved["images"].astype(int)


def test_a_run_that_is_asked_again_is_compiled_once(diffusion, monkeypatch):
    traced = []
    of_noise, method = redrawing.Inversions, inverse_problems.Method
    for owner, name in ((diffusion_lib.Diffusion, "sample"), (of_noise, "encode"), (of_noise, "decode"), (method, "draw")):
        monkeypatch.setattr(owner, name, counting(traced, getattr(owner, name)))
    opened = imagegen_jax.load(diffusion)
    first, again, other = (opened.sample(num, seed=seed) for num, seed in ((3, 1), (3, 1), (9, 2)))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other[:3])
    inverted = [opened.invert(first, steps=steps)[1].images for steps in (2, 2, 3)]
    np.testing.assert_array_equal(*inverted[:2])
    filled = [opened.inpaint(first, mask, steps=2).images for mask in ("half:left", "half:left", "half:top")]
    np.testing.assert_array_equal(*filled[:2])
    np.testing.assert_array_equal(filled[2][:, 14:], first[:, 14:])
    assert traced == ["sample", "encode", "decode", "encode", "decode", "draw"]


def counting(traced, method):
    """The method, noting its name whenever it is called, and so traced."""

    def noted(*args, **options):
        traced.append(method.__name__)
        return method(*args, **options)

    return noted


def test_sampling_a_run(tmp_path, diffusion, sample):
    """As a person asks for it: no model flags; a folder, an array and a grid hold the same images."""
    asked = [f"--workdir={diffusion}", "--num=5"]
    sample(*asked, f"--out={tmp_path / 'a.npz'}")
    sample(*asked, f"--out={tmp_path}/folder/", "--batch_size=8")
    sample(*asked, f"--out={tmp_path / 'b.npz'}", "--checkpoint=2", "--noema", "--seed=4294967296")
    array = drawn(tmp_path / "a.npz")
    assert array.shape == (5, 28, 28, 1)
    files = sorted((tmp_path / "folder").iterdir())
    assert [file.name for file in files] == [f"0000{i}.png" for i in range(5)]
    from_folder = np.stack([np.asarray(Image.open(file)) for file in files])
    assert np.abs(from_folder.astype(int) - array[..., 0]).max() <= 1
    assert np.abs(drawn(tmp_path / "b.npz") - array).max() > 10


def test_what_the_end_of_a_training_says_can_be_asked(tmp_path, diffusion, sample, monkeypatch):
    monkeypatch.chdir(tmp_path)
    algorithm = run.build_algorithm(*run.load_config(diffusion))
    (advice,) = summary.lines(diffusion, algorithm)  # no grid was drawn, nothing measured
    assert advice.startswith("draw more: python -m experiments.sample ")
    sample(*shlex.split(advice)[5:])
    with Image.open(tmp_path / "more.png") as grid:
        assert grid.size[0] > 8 * 28  # eight in a row


def test_a_named_sampler_has_its_own_constants(tmp_path, diffusion, sample):
    """The recipe's eta is 1. Named, ddim is deterministic, and its flag brings the noise back."""
    found = {}
    for words in ("", "--sampler=ddim", "--sampler=ddim --eta=1", "--eta=0", "--sampler=ddpm"):
        sample(f"--workdir={diffusion}", "--num=8", f"--out={tmp_path / 'x.npz'}", *words.split())
        found[words] = drawn(tmp_path / "x.npz")
    own, named, noisy, quiet, ddpm = found.values()
    assert np.abs(own - noisy).max() <= 1 and np.abs(named - quiet).max() <= 1
    assert np.abs(own - ddpm).max() <= 1  # Song et al. 2021, section 4.1
    assert np.abs(own - named).max() > 10


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", {"name": "ddim", "steps": 3, "grid": "trailing", "eta": 1.0, "clip": True}),
        ("steps:2", {"name": "ddim", "steps": 2, "grid": "trailing", "eta": 1.0, "clip": True}),
        ("sampler:ddim", {"name": "ddim", "steps": 3, "grid": "trailing", "eta": 0.0, "clip": True}),
        ("sampler:ddim,eta:0.5", {"name": "ddim", "steps": 3, "grid": "trailing", "eta": 0.5, "clip": True}),
        ("sampler:ddpm,clip:false", {"name": "ddpm", "steps": 3, "grid": "trailing", "variance": "fixed_small", "clip": False}),
        (
            "sampler:ddpm,variance:fixed_large",
            {"name": "ddpm", "steps": 3, "grid": "trailing", "variance": "fixed_large", "clip": True},
        ),
        (
            "sampler:heun,grid:karras,threshold:0.9",
            {"name": "heun", "steps": 3, "grid": "karras", "rho": 7.0, "churn": 0.0, "threshold": 0.9},
        ),
        ("sampler:ode,rtol:0.1", {"name": "ode", "rtol": 0.1, "atol": 1e-3, "clip": True}),
    ],
)
def test_a_protocol_names_all_constants_that_are_used(tiny_config, words, expected):
    tiny_config.sampler.update(name="ddim", steps=3, grid="trailing", eta=1.0, variance="fixed_large")
    algorithm = run.build_algorithm(tiny_config, images.Spec((28, 28, 1)))
    (written,) = drawing_flags.sweep([word for word in words.split(",") if word])
    request = algorithm.Request(**requests.typed(written, algorithm, {}))
    algorithm.check_request(request)
    assert algorithm.about_request(request) == expected


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--steps=1001", "--steps=1001: the diffusion has 1000 steps"),
        ("--sampler=rk4", "--sampler=rk4: choose one of ddpm, ddim"),
        ("--steps=0", "--steps=0: it must be at least 1"),
        ("--rho=3", "--rho is of --grid=karras, and the grid is trailing"),
        ("--sampler=ode --steps=3", "--steps is of --sampler=ddpm or ddim or euler"),
        ("--sampler=dpmpp_2m --churn=1", "--churn is of --sampler=heun, and the sampler is dpmpp_2m"),
        ("--sampler=ddpm --eta=0.5", "--eta is of --sampler=ddim, and the sampler is ddpm"),
        ("--variance=fixed_large", "--variance is of --sampler=ddpm, and the sampler is ddim"),
        ("--sampler=ddpm --variance=large", "--variance=large: choose one of fixed_small, fixed_large"),
        ("--eta=1.5", "--eta=1.5: it can be at most 1"),
        ("--truncation=2", "--truncation=2: this family of generators has no such option"),
        ("--temperature=2,1", "--temperature=2,1: this family of generators has no such option"),
        ("--labels=csv", "--labels=csv: --out="),
        ("--checkpoint=7", "2, 4"),
        ("--num=0", "--num"),
        ("--seed=-1", "--seed is -1: a seed is a whole number from 0 to 2^64 - 1"),
        ("--seed=18446744073709551616", "a seed is a whole number from 0"),
    ],
)
def test_impossible_samples_are_refused(tmp_path, diffusion, sample, words, error):
    with pytest.raises(errors.UserError) as caught:
        sample(f"--workdir={diffusion}", f"--out={tmp_path / 'grid.png'}", *words.split())
    assert error in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "grid.png").exists()


def test_no_option_is_ignored_by_a_family_that_has_none():
    """Whatever option is added to whatever family."""
    built = {name: algorithms.find(name) for name in algorithms.names()}
    declared = {option: field for one in built.values() for option, field in keys.fields(one.Request).items()}
    assert {"sampler", "steps", "temperature", "truncation"} <= declared.keys() and all(
        one.meaning for one in declared.values()
    )
    for one in built.values():
        for option in declared.keys() - keys.fields(one.Request).keys():
            with pytest.raises(errors.UserError, match=f"--{option}=1: this family"):
                requests.typed({option: "1"}, one, {})


def test_a_sweep_is_every_combination():
    words = ["steps:10", "20", "sampler:ddpm", "ddim"]
    assert drawing_flags.sweep(words) == [
        {"steps": steps, "sampler": sampler} for steps in ("10", "20") for sampler in ("ddpm", "ddim")
    ]
    assert drawing_flags.sweep(["temperature:0.5", "1"]) == [{"temperature": "0.5"}, {"temperature": "1"}]
    for one, several in (("0.5", "0.5,1"), (0.5, [0.5, 1])):
        assert requests.typed({"temperature": one}, vae.Vae, {}) == {"temperature": (0.5,)}
        assert requests.typed({"temperature": several}, vae.Vae, {}) == {"temperature": (0.5, 1)}
    assert drawing_flags.sweep([]) == [{}]
    assert drawing_flags.sweep(["label:cat", "2"]) == [{"label": "cat"}, {"label": "2"}]


def test_a_class_has_a_name_and_a_number():
    spec = images.Spec((8, 8, 1), ("cat", "dog", "1"))
    assert [spec.label_of(word) for word in ("cat", "dog", "0", "2")] == [0, 1, 0, 2]
    assert spec.label_of("1") == 2  # the class that is called so
    assert requests.typed({"label": "dog", "steps": "5"}, diffusion_lib.Diffusion, spec) == {"label": 1, "steps": 5}
    assert images.Spec((8, 8, 1), images.unnamed(3)).label_of("2") == 2
    for word in ("cow", "3", "-1", "", "²"):
        with pytest.raises(
            errors.UserError, match=f"^--from={word}: there is no such class; choose one of cat, dog, 1, or 0 to 2"
        ):
            spec.label_of(word, "from")
    with pytest.raises(errors.UserError, match="--label=3: the images of this run have no labels"):
        images.Spec((8, 8, 1)).label_of("3")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("steps:ten", "--steps=ten: write a whole number"),
        ("steps:", "--steps=: write a whole number"),
        ("steps:0", "--steps=0: it must be at least 1"),
        ("eta:nan", "--eta=nan: write a number"),
        ("clip:maybe", "--clip=maybe: write true or false"),
        ("height:1,2", "--sweep=height:1,2: write such as steps:10,20; keys are "),
        ("10,20", "--sweep=10,20: write such as steps:10,20; keys are "),
        ("index:3", "--sweep=index:3: write such as steps:10,20; keys are "),
    ],
)
def test_impossible_sweeps_are_refused(words, error):
    with pytest.raises(errors.UserError) as caught:
        (written,) = drawing_flags.sweep(words.split(","))
        requests.typed(written, diffusion_lib.Diffusion, {})
    assert error in str(caught.value) and "\n" not in str(caught.value)


def test_labels_are_drawn_in_shares():
    """Of the first n images a class has its share, give or take three, and each is a function of its number."""
    shares = np.array([0.9, 0.0, 0.07, 0.03])
    found = sampling.labels(np.arange(20_000), 4, shares=shares)
    assert found.dtype == np.int32
    counts = np.cumsum(found[:, None] == np.arange(4), 0)
    assert np.abs(counts - np.arange(1, 20_001)[:, None] * shares).max() < 3 and not (found == 1).any()
    np.testing.assert_array_equal(sampling.labels(np.arange(700, 900), 4, shares=shares), found[700:900])
    np.testing.assert_array_equal(sampling.labels(np.arange(9), 4, label=1, shares=shares), 1)
    np.testing.assert_array_equal(sampling.labels(np.arange(9), 4), np.arange(9) % 4)
    assert sampling.labels(np.arange(9), 0, shares=None) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, (0.5,)), (1, (1.0,)), ([0.5, 1.0], (0.5, 1.0)), (np.float32(0.5), (0.5,)), (jnp.array([0.5, 1.0]), (0.5, 1.0))],
)
def test_values_from_python_are_as_good_as_text(value, expected):
    assert requests.typed({"temperature": value}, vae.Vae, None) == {"temperature": expected}
    assert requests.typed({"steps": np.int64(5), "clip": True}, diffusion_lib.Diffusion, None) == {"steps": 5, "clip": True}


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"steps": 2.5}, "--steps=2.5: write a whole number"),
        ({"steps": True}, "--steps=True: write a whole number"),
        ({"steps": [2]}, "write a whole number"),
        ({"steps": "9" * 400}, "write a whole number"),
        ({"clip": 1}, "--clip=1: write true or false"),
        ({"eta": "half"}, "--eta=half: write a number"),
        ({"sampler": 3}, "--sampler=3: write text"),
        ({"label": 2.5}, "--label=2.5: give the name or the number of a class"),
        ({"label": True}, "--label=True: give the name or the number of a class"),
    ],
)
def test_values_of_another_type_are_refused(written, words):
    with pytest.raises(errors.UserError, match=words):
        requests.typed(written, diffusion_lib.Diffusion, images.Spec((28, 28, 1), ("a", "b", "c")))
