"""Scores a run, or a folder of images, and writes down everything that the numbers depend on.

python -m experiments.evaluate --workdir=runs/ddpm --num=2000
python -m experiments.evaluate --samples=drawn/ --reference=fashion_mnist_10k --out=scores.json

A score is one JSON object: the scores, the same scores of training images and of random pixels, and the protocol, which
names the features, the reference and the images. A run's go to eval/ in its folder, with a picture of some of its images beside
the training images nearest to them, <score>.neighbours.png.
"""

from absl import flags

from configs import classifier
from imagegen_jax import command_line
from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax.algorithms import cyclegan
from imagegen_jax.api import augmenting
from imagegen_jax.api import composing
from imagegen_jax.api import runs
from imagegen_jax.api import scoring
from imagegen_jax.evaluation import features
from imagegen_jax.evaluation import scorer
from imagegen_jax.evaluation import scoring as scoring_lib
from imagegen_jax.generation import drawing_flags

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run whose images are scored.")
_SAMPLES = flags.DEFINE_string("samples", None, "Images to score instead: a folder, or an .npz with uint8 NHWC under 'images'.")
flags.DEFINE_string(
    "reference",
    None,
    "What they are compared with: what config.data.source takes, a folder, an .npz of images or of statistics (mu, sigma); "
    "by default the data of the run.",
)
flags.DEFINE_enum("reference_split", "test", scoring.SPLITS, "Which images of the reference.")
flags.DEFINE_integer("num", 2000, "How many images are scored; of --samples, at most.")
flags.DEFINE_list("metrics", None, f"Of {', '.join([*scoring_lib.METRICS, scorer.HELDOUT])}; by default all that can be had.")
_FEATURES = flags.DEFINE_string("features", "fashion", f"What images are compared in: {', '.join(features.NAMES)}.")
_INCEPTION = flags.DEFINE_string("inception", None, "FILE of --features=inception, .pth or .safetensors.")
_VGG = flags.DEFINE_string("vgg", None, "FILE of --features=vgg, .pth or .safetensors.")
flags.DEFINE_string("resize", None, "How images are resized for these two; by default as their first users did.")
flags.DEFINE_integer("seed", 0, "Image i of a run depends on the seed and on i alone.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Step of the checkpoint, best or all; by default the latest.")
_EMA = flags.DEFINE_flag(command_line.EmaFlag("Score"))
flags.DEFINE_integer("batch_size", None, "Images drawn at once; by default the run's sample.batch_size.")
flags.DEFINE_integer(
    "importance_samples", None, "Held-out likelihoods of a VAE also by the importance-weighted bound of so many samples."
)
flags.DEFINE_string(
    "likelihood",
    None,
    "Held-out likelihoods of a diffusion, with their standard errors: bound (variational) or ode (of the probability flow).",
)
flags.DEFINE_integer(
    "likelihood_samples",
    None,
    "Terms, times or probes of it an image; by default 32 of bound and 1 of ode. T of ddpm: all terms.",
)
flags.DEFINE_integer("likelihood_num", None, "Test images whose likelihood is measured; by default all.")
drawing_flags.define()
flags.adopt_module_key_flags(drawing_flags)  # for --help
_SWEEP = flags.DEFINE_list("sweep", [], "Score each combination, such as steps:10,20,50 or steps:10,20,sampler:ddpm,ddim.")
flags.DEFINE_enum(
    "class_shares",
    None,
    scoring.SHARES,
    "How often each class is drawn: as often as in the reference (data, the default), or all alike.",
)
flags.DEFINE_enum("direction", "ab", cyclegan.DIRECTIONS, "Of a CycleGAN: which translations are scored.")
flags.DEFINE_bool(
    "reconstructions",
    False,
    "Of a run that encodes and decodes: score its reconstructions of test images against these, and tell mean and deviation of "
    "the latents.",
)
_COMPOSITIONS = flags.DEFINE_integer(
    "compositions",
    None,
    "Of a run that is told captions of tinted images or of emoji: whether so many images of each combination of a colour and a "
    "class, or of a figure and a skin tone, show what their prompts say, alone.",
)
_AUGMENTATION = flags.DEFINE_list(
    "augmentation",
    None,
    "Of a run that is told labels: what its images are worth as training data, alone and beside real ones: so many of each "
    "class, such as 100,1000, and all. Trains classifiers as configs/classifier.py does.",
)
_AUGMENTATION_SEEDS = flags.DEFINE_integer("augmentation_seeds", 3, "Classifiers trained on each set.")
_AUGMENTATION_STEPS = flags.DEFINE_integer("augmentation_steps", 1000, "Steps of each.")
_ANCHORS = flags.DEFINE_bool("anchors", True, "Score training images and random pixels too, to give the numbers a scale.")
_OUT = flags.DEFINE_string("out", None, "Also write the scores here, a path ending in .json.")


# The flags that are arguments of scoring.reports as they are.
_ARGUMENTS = (
    "num", "reference", "reference_split", "metrics", "resize", "seed", "batch_size", "importance_samples", "likelihood",
    "likelihood_samples", "likelihood_num", "class_shares", "direction",
    "reconstructions",
)  # fmt: skip


def main():
    """Checks everything; collects the reference; then collects, scores and shows each set of images."""
    if bool(_WORKDIR.value) == bool(_SAMPLES.value):
        raise errors.UserError("give either --workdir, a run whose images are scored, or --samples, images that exist")
    if _OUT.value and not _OUT.value.endswith(".json"):
        raise errors.UserError(f"--out={_OUT.value}: give a path ending in .json")
    asked = {name: flags.FLAGS[name].value for name in _ARGUMENTS} | drawing_flags.given()
    asked["sweep"] = drawing_flags.sweep(_SWEEP.value) if _SWEEP.value else None
    file = {"inception": _INCEPTION.value, "vgg": _VGG.value}.get(_FEATURES.value)
    named = f"{_FEATURES.value}:{file}" if file else _FEATURES.value
    if _COMPOSITIONS.value is not None:
        _check_alone("compositions", "seed", "batch_size")
        return _tell(_composed(named), composing.text)
    if _AUGMENTATION.value is not None:
        _check_alone("augmentation", "seed", "batch_size", "num")
        return _tell(_augmented(), augmenting.text)
    scored = _SAMPLES.value or runs.load_each(_WORKDIR.value, _CHECKPOINT.value, _EMA.value)
    found = []
    for report in scoring.reports(
        scored, features=named, reference_scores=_ANCHORS.value, latents=drawing_flags.latents(), **asked
    ):
        print(scoring.text(report), flush=True)
        found.append(report)
    scoring.save(found, _OUT.value, _WORKDIR.value)


def _check_alone(report, *heeded):
    """Raises errors.UserError where a flag is given that this report does not heed."""
    for name in {*_ARGUMENTS, "sweep", "anchors"} - {*heeded}:
        if flags.FLAGS[name].present:
            raise errors.UserError(f"--{name} is of other scores than --{report}: leave it out, or score twice")


def _tell(report, text):
    """Prints and saves a report that stands alone."""
    print(text(report))
    scoring.save([report], _OUT.value, _WORKDIR.value)


def _composed(features):
    if _SAMPLES.value or _COMPOSITIONS.value < 1:
        raise errors.UserError("--compositions: give how many images of each combination, 1 or more, and --workdir")
    trained = runs.load(_WORKDIR.value, _CHECKPOINT.value, _EMA.value)
    picture = _OUT.value and files.to_path(_OUT.value).with_suffix(".png")
    options = dict(features=features, seed=flags.FLAGS.seed, batch_size=flags.FLAGS.batch_size, picture=picture)
    return composing.evaluate(trained, _COMPOSITIONS.value, **options, **drawing_flags.given())


def _augmented():
    if _SAMPLES.value:
        raise errors.UserError("--augmentation draws images of a run: give --workdir, and leave --samples out")
    if not all(size.isdecimal() and int(size) for size in _AUGMENTATION.value):
        raise errors.UserError(
            f"--augmentation={','.join(_AUGMENTATION.value)}: write how many real images of each class, as 100,1000"
        )
    errors.check_at_least({"augmentation_steps": _AUGMENTATION_STEPS.value}, augmentation_steps=1)
    config = classifier.trained("classifier")
    config.duration = f"{_AUGMENTATION_STEPS.value} steps"
    config.optimizer.warmup = f"{_AUGMENTATION_STEPS.value // 20} steps"
    asked = dict(seeds=_AUGMENTATION_SEEDS.value, seed=flags.FLAGS.seed, batch_size=flags.FLAGS.batch_size)
    asked["num"] = flags.FLAGS.num if flags.FLAGS["num"].present else None
    trained = runs.load(_WORKDIR.value, _CHECKPOINT.value, _EMA.value)
    options = drawing_flags.given() | {"latents": drawing_flags.latents()}
    return augmenting.evaluate(trained, config, tuple(map(int, _AUGMENTATION.value)), **asked, **options)


if __name__ == "__main__":
    command_line.run(main)
