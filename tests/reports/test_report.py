"""The pages of runs: all that the folder holds is there, nothing is fetched, and scores of two protocols never meet."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
from PIL import Image
import pytest

from configs import baseline
from configs import cyclegan
from configs import ddpm
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax import reports
from imagegen_jax.reports import boards
from imagegen_jax.reports import history
from imagegen_jax.reports import run_page
from imagegen_jax.training import run
from imagegen_jax.training import sharding

ROOT = pathlib.Path(__file__).parent.parent.parent
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def score(fid, num=100, sha256="5f1c", step=20):
    """As experiments.evaluate writes it."""

    def measured(value):
        return {
            "fid": {"value": value, "interval": [value - 0.25, value + 0.25], "infinity": value / 2, "slope": 3.0},
            "kid": {"value": value / 1000, "deviation": 0.0002, "subset_size": 50, "interval": [0.001, 0.002]},
            "classes": {"coverage": 1.0, "classes": {"shirt <b>": {"share": 0.25, "share_of_reference": 0.125, "fid": 7.5}}},
        }

    return {
        "label": {"step": step},
        "scores": measured(fid) | {"memorisation": {"nearer": 0.5, "chance": 0.5, "interval": [0.4375, 0.5625]}},
        "anchors": {"training images": measured(0.5), "random pixels": measured(90.0)},
        "protocol": {
            "images": {"run": "run", "step": step, "sampler": {"name": "ddim", "steps": 5}, "num": num},
            "reference": {"source": "fashion_mnist_10k", "split": "test", "fingerprint": "4b86", "num": 2000},
            "features": {"features": "fashion", "sha256": sha256},
            "metrics": ["fid", "kid", "classes"],
            "quantised": "uint8",
            "versions": {"jax": "0.10.0"},
        },
        "warnings": ["100 images are few & far between"],
        "seconds": 75.0,
        "date": "2026-11-21T10:00:00+00:00",
        "machine": {"device_kind": "abacus", "device_count": 3, "cpu_count": 2, "system": "Linux", "jax_version": "0.10.0"},
    }


def write_png(path, shape=(11, 11), value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def small_diffusion():
    config = ddpm.get_config("smoke")
    config.network.channels, config.network.groups = 8, 4
    return config


def make_run(folder, scores=None, bare=False, config=None):
    """A run's folder: with its config alone, or with `scores` as {name: report} and everything else; a baseline by default."""
    run.save_config(folder, config or baseline.get_config("smoke"), images.Spec((28, 28, 1), images.unnamed(10)))
    if bare:
        return folder
    lines = [{"step": 0, "compile_seconds": 2.5, "step_flops": 1e6}]
    for step in (5, 10, 15, 20):
        shared = {"images_per_second": 80.0, "seconds": step * 6.0, "images_seen": step * 8}
        lines += [{"step": step, "loss": 10.0**-step, "grad_norm": 1 + step / 9} | shared]
    lines += [{"step": 20, "eval/loss": 0.25}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step in (10, 20):
        write_png(folder / "samples" / f"{step}.png", value=step)
    (folder / "eval").mkdir()
    for name, one in (scores or {}).items():
        (folder / "eval" / f"{name}.json").write_text(json.dumps(one))
    return folder


def plain(page):
    """The text that a reader sees."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def assert_self_contained(page):
    assert not re.search(r"https?:|//|<script|<link|@import|url\((?!#)", page.replace("<!doctype html>", ""))
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in re.findall(r'(?:src|href)="([^"]*)"', page))
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_the_page_of_a_run(tmp_path):
    folder = make_run(tmp_path / "run", {"20-fashion-ab": score(7.25)}, config=small_diffusion())
    write_png(folder / "eval" / "20-fashion-ab.neighbours.png")
    page = run_page.of_run(folder)
    assert_self_contained(page)
    text = plain(page)
    for words in (
        "algorithm diffusion",
        "fashion_mnist_10k (28x28x1)",
        "step 20 (config.duration: 20 steps)",
        "images seen 160",
        "time trained 2 min 0 s, after 2.5 s of compiling",
        "images a second 80 (median)",
        "3 abacus, 2 CPU cores",
        "network.channels 8 128",  # beside the default
        "optimizer.b1 0.9",  # among all keys
        "these images training images random pixels",
        "Fréchet distance ↓ 7.25 [7, 7.5] 0.5 [0.25, 0.75] 90 [89.8, 90.2]",
        "kernel distance x 1000 ↓ 7.25 [1, 2] ± 0.2",
        "nearer to training 0.5",
        "nearer to training, interval [0.438, 0.562]",
        "shirt &lt;b&gt; 0.25 0.125 7.5",
        "100 images are few &amp; far between",
        "protocol.images.sampler.name ddim",
        "protocol.features.sha256 5f1c",
        "settings.kid.subset_size 50",
        "time 1 min 15 s",
        "date 2026-11-21",
        "training images nearest to it",
    ):
        assert words in text, words
    assert page.count("<img ") == 3 and all(' alt="' in tag for tag in re.findall("<img [^>]*>", page))
    labels = re.findall(r'<svg role="img" aria-label="([^"]*)"', page)
    assert [label.split(":")[0] for label in labels] == ["loss", "eval/loss", "grad_norm", "images_per_second"]
    assert "from 1e-05 at step 5 to 1e-20 at step 20" in labels[0]


def test_parameters_are_those_of_the_networks(tmp_path):
    found = history.read(make_run(tmp_path / "run", bare=True, config=small_diffusion()))
    config, specs = run.load_config(tmp_path / "run")
    algorithm = run.build_algorithm(config, specs)
    shapes = run.abstract_state(algorithm, sharding.make_mesh(8), (), 0).params
    assert found.parameters == sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(shapes)) > 1000


def test_a_run_with_its_config_alone(tmp_path):
    page = run_page.of_run(make_run(tmp_path / "run", bare=True))
    assert_self_contained(page)
    assert "There are none yet" in page and "<img" not in page and "<svg" not in page and "config.duration" in page


def test_a_run_of_another_version(tmp_path):
    folder = make_run(tmp_path / "run", {"a": score(2.0)})
    saved = json.loads((folder / "config.json").read_text())
    del saved["config"]["baseline"]
    saved["config"]["algorithm"] = "alchemy"
    (folder / "config.json").write_text(json.dumps(saved))
    assert "alchemy" in run_page.of_run(folder) and history.read(folder).parameters is None


def test_metrics_of_a_killed_run(tmp_path):
    folder = make_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 21, "loss": NaN, "note": "text", "flag": true}\n[1]\n{"loss": 1}\n\xff\n{"step": 25, "lo')
    found = history.read(folder)
    assert found.skipped == 4 and found.step == 20 and "note" not in found.metrics and "flag" not in found.metrics
    np.testing.assert_array_equal(found.metrics["loss"][0], [5, 10, 15, 20])
    assert "4 unreadable lines" in run_page.of_run(folder)


def test_pictures_that_cannot_be_read_or_are_large(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "samples" / "15.png").write_bytes((folder / "samples" / "20.png").read_bytes()[:40])
    write_png(folder / "samples" / "30.png", (20, 4000))
    (folder / "samples" / "notes.png").write_text("no step")
    page = run_page.of_run(folder)
    assert "15.png cannot be read" in page and 'width="1600" height="8"' in page and page.count("<img ") == 3


def test_what_others_wrote_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>\"'&"
    one = score(3.0)
    one["label"]["samples"] = one["date"] = one["machine"]["system"] = evil
    one["protocol"]["images"][evil] = one["protocol"]["reference"]["source"] = evil
    one["scores"][evil] = one["anchors"][evil] = {"value": 1.5}
    folder = make_run(tmp_path / "a<b>&", {"a": one})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 30, evil: 1.0}) + "\n")
    for page in (run_page.of_run(folder), boards.of_runs([folder])):
        assert "<script" not in page and "&lt;script&gt;" in page and "a<b>" not in page
        assert "alert(1)</" not in page


def test_translations_have_the_names_of_their_columns(tmp_path):
    folder = make_run(tmp_path / "run")
    run.save_config(folder, cyclegan.get_config("smoke"), {name: images.Spec((28, 28, 1)) for name in "ab"})
    (folder / "samples").rename(folder / "panels")
    page = run_page.of_run(folder)
    for column in ("a", "G_ab(a)", "G_ba(G_ab(a))", "G_ba(a)", "b"):
        assert f"<span>{column}</span>" in page
    assert "a 28x28x1, b 28x28x1" in page and "Test images and what becomes of them" in page
    assert "Generated images" not in page


def test_long_curves_are_thinned(tmp_path):
    folder = make_run(tmp_path / "run", bare=True)
    lines = ({"step": step, "loss": float(step % 2)} for step in range(1, 5001))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = run_page.of_run(folder)
    assert len(page) < 60_000 and "from 1 at step 1 to 0 at step 5000; least 0, greatest 1" in page


def tables(page):
    """[the first cell of each row] of each leaderboard."""
    found = re.findall(r"<caption>By Fréchet.*?</table>", page, re.DOTALL)
    return [re.findall(r'<th scope="row">([^<]*)', board) for board in found]


def test_the_leaderboard_sorts_within_a_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(pathlib.Path("runs/worse"), {"a": score(9.0), "b": score(1.0, num=50), "c": score(2.0, sha256="other")})
    make_run(pathlib.Path("runs/better"), {"a": score(4.0), "late": [score(3.0, step=40)]})
    make_run(pathlib.Path("runs/unscored"))
    page = boards.of_runs(boards.find(["runs/*"]))
    assert_self_contained(page)
    assert tables(page) == [
        ["training images", "runs/better", "runs/better", "runs/worse", "random pixels"],
        ["training images", "runs/worse", "random pixels"],
        ["training images", "runs/worse", "random pixels"],
    ]
    text = plain(page)
    assert "left out: runs/unscored" in text and "2 min 0 s" in text
    assert text.count("100 images against 2000 of fashion_mnist_10k (test), in features fashion") == 2
    assert "step 40" in text and "runs/better, step 20" in page  # the picture's own step


def test_a_run_of_several_scores_has_a_leaderboard_of_its_own(tmp_path):
    page = run_page.of_run(make_run(tmp_path / "run", {"a": score(4.0), "b": score(3.0, step=10)}))
    assert len(tables(page)) == 1 and page.index("step 20: 100 images") < page.index("step 10: 100 images")


@pytest.mark.parametrize("damage", ["{", "[1]", "{}", '{"label": {}, "scores": {}, "protocol": {}}'])
def test_damaged_scores_are_named(tmp_path, damage):
    folder = make_run(tmp_path / "run", {"a": score(4.0)})
    (folder / "eval" / "torn.json").write_text(damage)
    with pytest.raises(errors.UserError, match="torn.json .*score again") as error:
        run_page.of_run(folder)
    assert "\n" not in str(error.value)


def test_what_cannot_be_compared(tmp_path, capsys):
    make_run(tmp_path / "run")
    (tmp_path / "notes.txt").touch()
    assert boards.find([f"{tmp_path}/*", str(tmp_path / "run")]) == [tmp_path / "run"]
    assert "skipped" in capsys.readouterr().err
    with pytest.raises(errors.UserError, match="there is no folder .*nothing"):
        boards.find([str(tmp_path / "nothing")])
    with pytest.raises(errors.UserError, match="no run among them"):
        boards.find([str(tmp_path / "notes.txt")])
    with pytest.raises(errors.UserError, match="no run among them"):
        boards.find([])  # of --compare alone
    with pytest.raises(errors.UserError, match="experiments.evaluate --workdir="):
        boards.of_runs([tmp_path / "run"])
    with pytest.raises(errors.UserError, match="not the folder of a run"):
        run_page.of_run(tmp_path)


def test_where_to(tmp_path):
    for out in ("page.txt", str(tmp_path), "page"):
        with pytest.raises(errors.UserError, match="ending in .html"):
            reports.leaderboard([], out)
    folder = make_run(tmp_path / "run", bare=True)
    (tmp_path / "file").touch()
    with pytest.raises(errors.UserError, match="cannot write it"):
        reports.report(folder, tmp_path / "file" / "page.html")
    reports.report(folder, tmp_path / "new" / "page.html")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_the_command(tmp_path):
    """Also with the words that a shell makes of a pattern."""
    folders = [make_run(tmp_path / name, {"a": score(fid)}) for name, fid in (("run", 4.0), ("other", 5.0))]
    for flags, page in (
        ([f"--workdir={folders[0]}"], folders[0] / "report.html"),
        (["--compare", *map(str, folders), f"--out={tmp_path}/c.html"], tmp_path / "c.html"),
    ):
        command = [sys.executable, "-m", "experiments.report", *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(page) and page.stat().st_size > 5_000


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [500, 1200])
def test_in_a_browser(tmp_path, width):
    """The page as Chromium makes it: pictures and curves are drawn, nothing is wider than the window, nothing is refused."""
    folder = make_run(tmp_path / "run", {"a": score(4.0), "b": score(5.0, num=50)})
    page = reports.report(folder, tmp_path / "page.html").read_text("utf-8")
    # What the page measures of itself is written where the dump shows it; the policy would forbid the script.
    probe = """<script>addEventListener('load', () => document.body.append(JSON.stringify({
        loaded: [...document.images].filter(i => i.complete && i.naturalWidth).length, images: document.images.length,
        curves: [...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().height > 50).length,
        overflow: document.documentElement.scrollWidth - innerWidth,
        drawn: [...document.querySelectorAll('svg path[clip-path]')].filter(p => p.getBBox().width > 0).length,
        tables: [...document.querySelectorAll('td')].length}) + '@end'))</script></body>"""
    probed = re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</body>", probe)
    (tmp_path / "probed.html").write_text(probed, "utf-8")

    def dump(name, *arguments):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path}/chrome"]
        arguments = [*flags, f"--window-size={width},900", *arguments, (tmp_path / name).as_uri()]
        return subprocess.run([BROWSER, *arguments], capture_output=True, text=True, timeout=120)

    found = json.loads(re.search(r'(\{"loaded".*?\})@end', dump("probed.html", "--dump-dom").stdout)[1])
    assert found["loaded"] == found["images"] == 4 and found["curves"] == 4 and found["drawn"] >= 4
    assert found["overflow"] <= 0 and found["tables"] > 50
    done = dump("page.html", f"--screenshot={tmp_path / 'shot.png'}")
    assert "Refused" not in done.stderr and "Content Security Policy" not in done.stderr
    with Image.open(tmp_path / "shot.png") as shot:
        assert shot.width == width and len(shot.convert("L").getcolors()) > 10
