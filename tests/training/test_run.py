"""What config.json keeps of the images, and which images a run goes on with."""

import json

import pytest

from configs import classifier
from imagegen_jax import errors
from imagegen_jax import images
from imagegen_jax.training import checkpoint
from imagegen_jax.training import run

SHAPE = (28, 28, 1)


def old(text, classes):
    """A config.json from before names were kept."""
    saved = json.loads(text)
    saved["images"] = {"": {"shape": SHAPE, "classes": classes}}
    return json.dumps(saved)


def test_names_of_classes_are_kept_and_decide(tmp_path):
    config, spec = classifier.get_config("smoke"), images.Spec(SHAPE, ("cat", "dog"))
    text = run.to_json(config, {"": spec})
    assert run.from_json(text)[1] == {"": spec}
    before = run.from_json(old(text, 2))[1][""]
    assert before.classes == 2 and before.known_names is None and before.name_of(1) == "1" and spec.name_of(1) == "dog"

    run.save_config(tmp_path, config, {"": spec})
    for other in (("cat", "wolf"), ("dog", "cat"), ("cat",), ()):
        with pytest.raises(errors.UserError, match="another experiment"):
            run.check_resumable(tmp_path, config, {"": images.Spec(SHAPE, other)})
    (tmp_path / "config.json").write_text(old(text, 2))
    run.check_resumable(tmp_path, config, {"": spec})
    with pytest.raises(errors.UserError, match="another experiment"):
        run.check_resumable(tmp_path, config, {"": images.Spec(SHAPE, ("cat", "dog", "wolf"))})


def test_an_old_run_whose_folders_were_numbered_as_text_is_not_continued_with_other_labels(tmp_path):
    config, names = classifier.get_config("smoke"), tuple(map(str, range(12)))
    (tmp_path / "config.json").write_text(old(run.to_json(config, {}), 12))
    run.check_resumable(tmp_path, config, {"": images.Spec(SHAPE, names)})
    config.data.source = "edges:folder:x"
    (tmp_path / "config.json").write_text(old(run.to_json(config, {}), 12))
    with pytest.raises(errors.UserError, match="in the run '10' comes before '2'"):
        run.check_resumable(tmp_path, config, {"": images.Spec(SHAPE, names)})


def test_the_images_of_a_run_decide_whether_it_goes_on():
    position = checkpoint.Position(step=1, seconds=0.0, records=10, fingerprint="0123456789ab")
    assert run.on_images(position, 10, "v2:abc").fingerprint == "v2:abc"  # from when names and sizes were compared
    now = run.on_images(position, 10, "v2:abc")
    assert run.on_images(now, 10, "v2:abc") == now
    with pytest.raises(errors.UserError, match="there are as many, but contents"):
        run.on_images(now, 10, "v2:abd")
    with pytest.raises(errors.UserError, match="trained on 10, there are 9 now; put back"):
        run.on_images(now, 9, "v2:abc")
