"""The pages for readers: their links lead to files, and what they show from Python runs."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_what_is_there(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", page.read_text())
    for path, anchor in targets:
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor[1:] in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles], anchor


def test_the_lines_from_python_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (lines,) = re.findall(
        r"^```python\n(import imagegen_jax\n.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    made = {}
    exec(lines, made)
    shape = made["images"].shape[1:]
    assert made["latents"].shape == (16, *made["run"].algorithm.latent_shape) and made["path"].shape == (2, 9, *shape)
    assert made["rows"].shape[1:] == (7, *shape) and made["changed"].shape == (16, 5, *shape)
    assert (tmp_path / "smoke.safetensors").exists()
