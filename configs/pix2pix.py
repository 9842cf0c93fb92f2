"""pix2pix: translation learned from pairs of images (Isola et al. 2017).

''       garments from drawings of their edges, of the bundled images, on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
facades  the paper's setting on --config.data.source=folder:PATH, with sub-folders trainA, trainB, testA and testB, whose files
         have equal names; of files with both images side by side see docs/cyclegan.md
"""

from configs import cyclegan
from configs import variants
from imagegen_jax import config


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "facades": _facades})


def _bundled():
    c = config.default("pix2pix")
    c.data.source_a = "edges:fashion_mnist_10k"
    c.data.source_b = "fashion_mnist_10k"
    for domain in "ab":
        c.data[f"train_split_{domain}"] = "train"
        c.data[f"test_split_{domain}"] = "test"
    c.batch_size = 16
    c.duration = "3000 steps"
    c.network.channels = 32
    c.network.levels = 5
    c.discriminator.channels = 32
    c.optimizer.hold = "1500 steps"
    return cyclegan.for_minutes(c)


def _smoke():
    c = cyclegan.for_seconds(_bundled())
    c.network.levels = 3
    return c


def _facades():
    c = cyclegan.published("pix2pix")
    c.data.source = "folder:"
    c.data.channels = 3
    return c
