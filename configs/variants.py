"""What the recipes share: which there are, how a variant is chosen, and how long small ones train."""

import pathlib

from imagegen_jax import errors


def recipes():
    """Names of the recipes: the modules of this folder that have a get_config."""
    paths = sorted(pathlib.Path(__file__).parent.glob("*.py"))
    return [path.stem for path in paths if "\ndef get_config(" in path.read_text()]


def choose(recipe, variant, variants):
    """The config of a variant of a recipe, whose get_config(variant) this is.

    Args:
      recipe: the recipe's __file__.
      variant: what the person wrote behind the path.
      variants: {name: () -> ConfigDict}; '' is what the path alone means.

    Raises:
      errors.UserError: there is no such variant.
    """
    if variant not in variants:
        path = "/".join(pathlib.Path(recipe).parts[-2:])
        raise errors.UserError(f"{path} has no variant '{variant}': choose one of {', '.join(filter(None, variants))}")
    return variants[variant]()


def for_minutes(c, num):
    """How the autoencoders' recipes train on the bundled images: with a look at the run, and a checkpoint, every 5 epochs.

    Args:
      c: a config, which is changed.
      num: images in a grid.
    """
    c.batch_size = 64
    c.optimizer.lr = 2e-3
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = "100 steps"
    c.ema.decay = 0.999
    c.checkpoint.every = "5 epochs"
    c.sample.every = "5 epochs"
    c.sample.num = num
    c.sample.batch_size = num
    c.eval.every = "5 epochs"
    c.eval.num = 0
    c.eval.batch_size = 100


def for_seconds(c):
    """What makes such a recipe a matter of seconds, beside smaller networks."""
    c.batch_size = 8
    c.duration = "20 steps"
    c.sample.num = 20
    c.sample.batch_size = 10
    c.log.every = "5 steps"
    c.checkpoint.every = "10 steps"
    c.sample.every = "10 steps"
    c.eval.every = "10 steps"
    c.eval.num = 64
    c.eval.batch_size = 32


def for_all_of_fashion(c, epochs):
    """What turns such a recipe to all of Fashion-MNIST, for so many epochs."""
    c.data.source = "idx:/usr/share/datasets/fashion-mnist"
    c.batch_size = 128
    c.duration = f"{epochs} epochs"
    c.log.every = "100 steps"


def ddpm_plus_plus(c, dropout):
    """The network DDPM++ of Karras et al. 2022 for CIFAR-10."""
    c.network.multipliers = (2, 2, 2)
    c.network.blocks = 4
    c.network.attention_levels = (1,)
    c.network.resample_filter = (1, 1)
    c.network.skip_scale = 0.5**0.5
    c.network.dropout = dropout


def edm_solver(c):
    """Drawing as Karras et al. 2022 do for CIFAR-10: Heun's method on their grid, in 18 steps at most."""
    c.sampler.name = "heun"
    c.sampler.grid = "karras"
    c.sampler.clip = False
    c.sampler.steps = min(c.sampler.steps, 18)
