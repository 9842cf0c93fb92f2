"""A classifier, whose features and decisions score the images of the other recipes.

''       the bundled Fashion-MNIST images; its weights come with the package (experiments.evaluate --features=fashion)
smoke    the same in seconds, to see that everything works
fashion  all of Fashion-MNIST
folder   your own images, on --config.data.source=folder:PATH with one sub-folder a class
"""

from configs import variants
from imagegen_jax import config


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "fashion": _fashion, "folder": _folder})


def _bundled():
    c = trained("classifier")
    # So that its features see grain and blur, at which those of a classifier alone hardly change.
    c.network.multiscale = True
    c.network.detail = 64.0
    c.classifier.degradation = 0.3
    c.classifier.estimate_weight = 4.0
    return c


def trained(algorithm):
    """How classifiers of the bundled images are trained: a config of `algorithm`."""
    c = config.default(algorithm)
    c.data.flip = True
    c.batch_size = 64
    c.duration = "24 epochs"
    c.optimizer.name = "adamw"
    c.optimizer.lr = 2e-3
    c.optimizer.weight_decay = 0.05
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = "1 epochs"
    c.ema.decay = 0.99
    c.log.every = "25 steps"
    c.checkpoint.every = "4 epochs"
    c.eval.every = "4 epochs"
    c.eval.num = 0
    return c


def for_seconds(c):
    """The config c with all that makes it a matter of seconds."""
    c.batch_size = 8
    c.duration = "8 steps"
    c.optimizer.warmup = "2 steps"
    c.network.widths = (8, 16)
    c.log.every = "2 steps"
    c.checkpoint.every = "4 steps"
    c.eval.every = "4 steps"
    c.eval.num = 16
    return c


def for_all_of_fashion(c):
    """The config c, of all of Fashion-MNIST."""
    c.data.source = "idx:/usr/share/datasets/fashion-mnist"
    c.batch_size = 128
    c.log.every = "100 steps"
    return c


def _smoke():
    return for_seconds(_bundled())


def _fashion():
    return for_all_of_fashion(_bundled())


def _folder():
    c = _bundled()
    c.data.source = ""
    c.data.image_size = 64
    c.network.widths = (32, 64, 128, 256)
    return c
