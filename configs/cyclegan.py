"""CycleGAN: unpaired translation between two sets of images (Zhu et al. 2017).

''           garments and drawings of their edges, from two halves of the bundled images, on a laptop's CPU, in minutes
smoke        the same in seconds, to see that everything works
horse2zebra  the paper's setting, through TFDS
folder       the same on --config.data.source=folder:PATH, with sub-folders trainA, trainB, testA and testB
"""

from configs import variants
from imagegen_jax import config


def get_config(variant=""):
    """The config of a variant."""
    return variants.choose(__file__, variant, {"": _bundled, "smoke": _smoke, "horse2zebra": _horse2zebra, "folder": _folder})


def _bundled():
    c = config.default("cyclegan")
    c.data.source_a = "fashion_mnist_10k"
    c.data.source_b = "edges:fashion_mnist_10k"
    c.data.train_split_a = "train[:50%]"
    c.data.train_split_b = "train[50%:]"
    c.data.test_split_a = "test"
    c.data.test_split_b = "test"
    c.cyclegan.paired_test = True
    c.batch_size = 4
    c.duration = "4000 steps"
    c.network.channels = 32
    c.network.blocks = 4
    c.discriminator.channels = 64
    c.optimizer.hold = "2000 steps"
    return for_minutes(c)


def for_minutes(c):
    """The config of a translation of the bundled images, with a look at it, and a checkpoint, every 500 steps."""
    c.discriminator.layers = 2
    c.optimizer.lr = 5e-4
    c.ema.decay = 0.99
    c.checkpoint.every = "500 steps"
    c.sample.every = "500 steps"
    c.sample.num = 16
    c.eval.every = "500 steps"
    c.eval.num = 256
    return c


def _smoke():
    c = for_seconds(_bundled())
    c.network.blocks = 1
    c.cyclegan.pool = 12
    return c


def for_seconds(c):
    """What makes such a recipe a matter of seconds."""
    c.batch_size = 8
    c.duration = "8 steps"
    c.optimizer.hold = "4 steps"
    c.network.channels = 8
    c.discriminator.channels = 8
    c.sample.num = 8
    c.log.every = "2 steps"
    c.checkpoint.every = "4 steps"
    c.sample.every = "4 steps"
    c.eval.every = "4 steps"
    c.eval.num = 16
    return c


def published(name):
    """The authors' setting of CycleGAN or pix2pix; networks, objective and optimiser of that default are theirs already."""
    c = config.default(name)
    c.data.image_size = 256
    c.data.load_size = 286
    c.data.flip = True
    c.ema.decay = 0.999
    c.log.every = "100 steps"
    c.checkpoint.every = "5 epochs"
    c.sample.every = "5 epochs"
    c.sample.num = 8
    c.sample.batch_size = 4
    c.eval.every = "5 epochs"
    c.eval.num = 0
    c.eval.batch_size = 4
    return c


def _horse2zebra():
    c = published("cyclegan")
    c.data.source = "cycle_gan/horse2zebra"
    return c


def _folder():
    c = published("cyclegan")
    c.data.channels = 3
    return c
