"""pix2pix: translation learned from pairs of images (Isola et al. 2017).

''       garments from drawings of their edges, of the bundled images, on a laptop's CPU, in minutes
smoke    the same in seconds, to see that everything works
facades  the paper's setting on --config.data.source=folder:PATH, with sub-folders trainA, trainB, testA and testB, whose files
         have equal names; of files with both images side by side see docs/cyclegan.md
"""

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
    c.discriminator.layers = 2
    c.optimizer.lr = 5e-4
    c.optimizer.hold = "1500 steps"
    c.ema.decay = 0.99
    c.checkpoint.every = "500 steps"
    c.sample.every = "500 steps"
    c.sample.num = 16
    c.eval.every = "500 steps"
    c.eval.num = 256
    return c


def _smoke():
    c = _bundled()
    c.batch_size = 8
    c.duration = "8 steps"
    c.optimizer.hold = "4 steps"
    c.network.channels = 8
    c.network.levels = 3
    c.discriminator.channels = 8
    c.sample.num = 8
    c.log.every = "2 steps"
    c.checkpoint.every = "4 steps"
    c.sample.every = "4 steps"
    c.eval.every = "4 steps"
    c.eval.num = 16
    return c


def _facades():
    c = config.default("pix2pix")  # whose networks, objective and optimiser are the paper's
    c.data.source = "folder:"
    c.data.image_size = 256
    c.data.load_size = 286
    c.data.channels = 3
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
