"""A classifier of noisy images, which guides a diffusion (Dhariwal & Nichol 2021): experiments.sample --classifier=WORKDIR.

''       the bundled Fashion-MNIST images on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
fashion  all of Fashion-MNIST
"""

from configs import classifier
from configs import variants


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "fashion": _fashion})


def _bundled():
    c = classifier.trained("noisy_classifier")
    c.network.dropout = 0.1
    return c


def _smoke():
    return classifier.for_seconds(_bundled())


def _fashion():
    return classifier.for_all_of_fashion(_bundled())
