"""The flags of editing, which one command has for all its verbs.

Those of drawing are the fields of damages, methods and the families' requests: an option that is declared there is a flag.
"""

from absl import flags

from imagegen_jax import keys
from imagegen_jax.diffusion import inverse_problems
from imagegen_jax.generation import damages
from imagegen_jax.generation import drawing_flags
from imagegen_jax.generation import output
from imagegen_jax.generation import requests
from imagegen_jax.generation import translation


def define():
    """Declares them."""
    text, number, words = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_list
    text("workdir", None, "Folder of the run.")
    text("input", None, "A folder, or files separated by commas; or the run's own images, test:0,5 or train:0,5; see above.")
    text(
        "out",
        None,
        f"translate: a folder. By a diffusion alone: a folder, .png or .npz. Others: {output.FORMATS}; interpolate: also .gif.",
    )
    flags.DEFINE_bool("overwrite", False, "Replace a folder that holds earlier results, and all that is in it.")
    text("checkpoint", None, "Step of the checkpoint, or best; by default the latest.")
    number("batch_size", None, "Images drawn, or (un)coded, at once; by default the run's sample.batch_size.")
    text("label", None, "The class of files and random latents, by name or number, for a run with labels.")
    text("prompt", None, "By a diffusion that is told texts: what all images are to show.")
    flags.DEFINE_enum("on_bad_image", "error", ["error", "skip"], "translate: where a file cannot be read.")
    text("direction", None, "translate: one of the run's directions, such as ab or ba.")
    number("tile", 512, "translate: larger images are translated in square tiles with this side, in pixels.")
    flags.DEFINE_bool("tiled", False, "Repair: files keep their own size, and are drawn in overlapping tiles of the run's.")
    number("overlap", None, "Pixels that neighbouring tiles share; translate: by default at most 64, --tiled: a quarter.")
    number("most_pixels", translation.MOST_PIXELS, "translate: files with more are unreadable.")
    number("num", 9, "interpolate: images from one to the next, with both; traverse: images a row.")
    flags.DEFINE_float("range", 2.5, "traverse: how far to go to either side, in deviations of each dimension.")
    words("dimensions", None, "traverse: which, such as 0,3,7; by default the 10 that vary most.")
    text("from", None, "attribute: the class to come from, by name or number.")
    text(
        "to",
        None,
        "attribute: the class to go to, likewise; outpaint --tiled: width and height of the result, such as 84x56, by default "
        "twice those of the input.",
    )
    words(
        "strength",
        None,
        "attribute: how far to go, 1 being from one mean to the other, by default 0.5,1,1.5; vary: how much noise, 0.6 of all.",
    )
    words("weights", None, "blend: of each image, such as 0.3,0.7; by default all alike.")
    number("samples", 1, "By a diffusion: how many are drawn of each image; several also show their spread, pixel by pixel.")
    number("seed", 0, "By a diffusion: what is drawn of image i depends on the seed and i alone, whatever the batch size.")
    flags.DEFINE_bool(
        "score",
        None,
        "Repair: the inputs are the true images, which are damaged first and then scored; by default of the run's own images.",
    )
    text("features", None, "Repair: features of the perceptual distance, as evaluate has them; by default fashion, if it fits.")
    for name, (kind, meaning) in (_of_repair() | drawing_flags.declared()).items():
        if name not in flags.FLAGS:  # outpaint shares --to
            (flags.DEFINE_bool if kind is bool else text)(name, None, meaning)


def drawing():
    """{name: value} of the families' options that are given, as they are written."""
    return _given([requests.PROMPT, *drawing_flags.declared()])


def given():
    """The same, and of damages and methods."""
    return _given([requests.PROMPT, *(_of_repair() | drawing_flags.declared())])


def _given(names):
    return {name: value for name in names if (value := flags.FLAGS[name].value) is not None}


def _of_repair():
    """{name: (type, what --help says)} of the fields of damages and of methods."""
    found = {}
    for cls in (*damages.DAMAGES.values(), inverse_problems.Method):
        for name, field in keys.fields(cls).items():
            _, meanings = found.get(name, (None, {}))
            found[name] = field.kinds[0], meanings | {field.meaning: None}
    return {name: (kind, " ".join(meanings)) for name, (kind, meanings) in found.items()}
