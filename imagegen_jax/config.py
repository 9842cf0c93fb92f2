"""Every key of a config, documented once, with its default.

A recipe (configs/*.py) starts from one of these and states only what it changes. The config is locked: a key that is not
here is an error that names the nearest one. `--config.optimizer.lr=1e-4` overrides anything.

A duration is a string: '2000 steps', '40 epochs', or a bare number of steps. '0' means never.
"""

import json
import math
import pathlib
import re

from ml_collections import config_dict

from imagegen_jax import distributions
from imagegen_jax import errors
from imagegen_jax import losses
from imagegen_jax import rng
from imagegen_jax.adversarial import augmentation
from imagegen_jax.adversarial import penalties
from imagegen_jax.diffusion import parametrisations
from imagegen_jax.diffusion import samplers
from imagegen_jax.diffusion import schedules
from imagegen_jax.diffusion import weightings
from imagegen_jax.networks import cyclegan_nets
from imagegen_jax.networks import gan_blocks
from imagegen_jax.networks import vae_nets


def common():
    """The keys that every family has."""
    c = config_dict.ConfigDict()
    c.algorithm = ""  # which family: a key of imagegen_jax.algorithms.ALGORITHMS
    c.seed = 0  # of everything random: initialisation, data order, augmentation, training noise
    c.batch_size = 64  # images a step over all devices and hosts
    c.duration = "2000 steps"  # length of the training
    c.init_from = ""  # WORKDIR[:STEP] or WORKDIR:best of a run: start with its parameters, as far as names and shapes agree
    c.init_from_regex = ""  # only those whose path, such as 'params/unet/conv_in/kernel', it is found in

    c.data = data = config_dict.ConfigDict()
    data.source = "fashion_mnist_10k"  # bundled; or a TFDS name, folder:PATH, idx:PATH
    data.data_dir = ""  # where TFDS keeps prepared data sets; '' for TFDS's own choice
    data.train_split = "train"  # as TFDS names them ('train[:90%]' works there); in a folder, a sub-folder
    data.test_split = "test"
    data.image_size = 0  # side of the square that the model sees; 0 keeps the source's own shape
    data.load_size = 0  # resize to this first and crop image_size from it at random; 0: no random crop
    data.channels = 0  # 1, 3 or 4; 0 keeps the source's own
    data.flip = False  # mirror each training image with probability 1/2
    data.rotate = 0.0  # degrees, at most 180, by which each training image is turned at random, either way; 0: not at all
    data.balance = False  # training images of each class equally often, however many there are
    data.on_bad_image = "error"  # 'error' stops and names the file; 'skip' counts it and reads its successor
    data.workers = 2  # threads that decode, each a batch at a time
    data.prefetch = 4  # decoded batches that wait for the device

    c.optimizer = optimizer = config_dict.ConfigDict()
    optimizer.name = "adam"  # adam, adamw or lion
    optimizer.lr = 2e-4  # at its peak
    optimizer.b1 = 0.9
    optimizer.b2 = 0.999
    optimizer.eps = 1e-8  # adam and adamw
    optimizer.weight_decay = 0.0  # adamw and lion
    optimizer.schedule = "constant"  # constant, linear or cosine (both fall until the end of the training)
    optimizer.lr_end = 0.0  # to this (linear and cosine)
    optimizer.warmup = "0 steps"  # linear rise from 0
    optimizer.hold = "0 steps"  # the decay begins here, if the warm-up is over
    # What becomes of a decay that has begun when the run is continued with another duration: 'error' asks which; 'continue'
    # keeps the schedule and, after it, its last rate; 'restart' begins the whole schedule anew, for the steps that are left.
    optimizer.on_new_duration = "error"
    optimizer.clip_norm = 1.0  # global norm of the gradient; 0: no clipping
    optimizer.accumulate = 1  # pieces in which a batch's gradient is computed, to save memory

    c.ema = ema = config_dict.ConfigDict()
    ema.decay = 0.9999  # of the moving average of the parameters
    ema.warmup = True  # decay at step t at most (1 + t) / (10 + t)

    c.sharding = sharding = config_dict.ConfigDict()
    sharding.rules = ((".*", "replicate"),)  # first match of (regex of a state array's path, replicate | fsdp) decides
    sharding.min_size = 2**14  # arrays with fewer elements are replicated whatever the rules say

    c.checkpoint = checkpoint = config_dict.ConfigDict()
    checkpoint.every = "500 steps"
    checkpoint.keep = 2  # the latest so many
    checkpoint.keep_every = "0"  # of each such duration the first checkpoint stays for good
    checkpoint.best_metric = ""  # also keep the best by this, such as 'eval/loss', of those at whose step it is measured

    c.log = log = config_dict.ConfigDict()
    log.every = "50 steps"  # means since the last line go to metrics.jsonl and TensorBoard

    c.sample = sample = config_dict.ConfigDict()
    sample.every = "500 steps"  # a grid from fixed noise goes to samples/<step>.png
    sample.num = 64
    sample.batch_size = 16  # images drawn at once

    c.eval = evaluation = config_dict.ConfigDict()
    evaluation.every = "500 steps"  # held-out metrics of the moving average on the test split
    evaluation.num = 1024  # test images, always the same random ones; 0 for all
    evaluation.batch_size = 64
    evaluation.samples = 0  # images drawn, or translated, at each of these for eval/fid, kid, duplicates; 0 for none
    evaluation.features = "fashion"  # for those: fashion, run:WORKDIR, inception:FILE, vgg:FILE or pixels
    return c


def diffusion():
    """The keys of algorithms/diffusion.py on the U-Net of networks/unet.py."""
    c = common()
    c.algorithm = "diffusion"

    c.network = network = config_dict.ConfigDict()
    network.channels = 128  # width at full resolution
    network.multipliers = (1, 2, 2, 2)  # width of each level; each halves the resolution
    network.blocks = 2  # residual blocks a level
    network.attention_levels = (1,)  # levels with self-attention, 0 the finest
    network.heads = 1
    network.dropout = 0.1
    network.groups = 32  # of GroupNorm
    network.patch_size = 1  # pixels a side that the network takes as one
    network.dtype = "float32"  # or bfloat16, of the computation
    network.remat = False  # recompute activations in the backward pass to save memory

    c.diffusion = diffusion = config_dict.ConfigDict()
    diffusion.schedule = "linear"  # linear, cosine or sigmoid
    diffusion.length = 1000  # steps
    diffusion.parametrisation = "eps"  # what the network predicts: eps, x0 or v
    diffusion.weighting = "simple"  # simple, snr or min_snr
    diffusion.gamma = 5.0  # of min_snr
    diffusion.stratified = False  # spread the timesteps of a batch evenly

    c.sampler = sampler = config_dict.ConfigDict()
    sampler.name = "ddpm"  # ddpm or ddim
    sampler.steps = 1000  # network evaluations an image
    sampler.variance = "fixed_small"  # of ddpm: fixed_small or fixed_large
    sampler.eta = 0.0  # of ddim: noise of a step, 0 (none) to 1 (as ddpm with fixed_small)
    sampler.clip = True  # hold x0 within [-1, 1]
    return c


def cyclegan():
    """The keys of algorithms/cyclegan.py. The data section has two domains in place of one.

    Its defaults are the published setting (Zhu et al. 2017, section 5.2 and appendix 7).
    """
    c = common()
    c.algorithm = "cyclegan"
    c.batch_size = 1
    c.duration = "200 epochs"  # of the larger domain

    data = c.data
    del data.train_split, data.test_split
    data.source = ""  # of both domains, unless the next two say otherwise
    data.source_a = ""
    data.source_b = ""  # 'edges:SPEC' is any other source as drawings of its edges
    data.train_split_a = "trainA"
    data.train_split_b = "trainB"
    data.test_split_a = "testA"
    data.test_split_b = "testB"

    c.optimizer.b1 = 0.5
    c.optimizer.schedule = "linear"
    c.optimizer.hold = "100 epochs"
    c.optimizer.clip_norm = 0.0

    c.network = network = config_dict.ConfigDict()
    network.name = "resnet"  # of the generators: resnet or unet
    network.channels = 64
    network.blocks = 9  # residual blocks (resnet)
    network.upsampling = "transposed"  # transposed or resize (resnet)
    network.levels = 8  # halvings (unet)
    network.dtype = "float32"  # or bfloat16, of the computation of all four networks
    network.remat = False  # recompute the generators' activations in the backward pass to save memory

    c.discriminator = discriminator = config_dict.ConfigDict()
    discriminator.name = "patch"  # patch or pixel
    discriminator.channels = 64
    discriminator.layers = 3  # convolutions of stride 2 (patch); 3 judge 70x70 pixels, 2 34x34, 1 16x16

    c.cyclegan = cyclegan = config_dict.ConfigDict()
    cyclegan.loss = "least_squares"  # of losses.BOUNDED
    cyclegan.lambda_a = 10.0  # weight of |G_ba(G_ab(a)) - a|
    cyclegan.lambda_b = 10.0  # weight of |G_ab(G_ba(b)) - b|
    cyclegan.identity = 0.5  # weight of |G_ba(a) - a| and |G_ab(b) - b|, as a share of those; 0 for none
    cyclegan.pool = 50  # generated images that each discriminator may see again
    cyclegan.paired_test = False  # test image i of a is the true translation of test image i of b
    return c


def baseline():
    """The keys of algorithms/baseline.py, which takes no gradients: there is no optimizer and no moving average."""
    c = common()
    c.algorithm = "baseline"
    del c.optimizer, c.ema

    c.baseline = baseline = config_dict.ConfigDict()
    baseline.name = "histogram"  # random, histogram or templates
    baseline.templates = 32  # how many (templates)
    return c


def classifier():
    """The keys of algorithms/classifier.py."""
    c = common()
    c.algorithm = "classifier"

    c.network = network = config_dict.ConfigDict()
    network.widths = (32, 64, 96)  # channels of each level; each halves the resolution, and the last is that of the features
    network.groups = 8  # of GroupNorm
    network.dropout = 0.3
    network.multiscale = False  # features of every level, which see texture beside class
    network.detail = 0.0  # shown beside the image: how pixels differ from those around, up to so many grey levels; 0: not shown

    c.classifier = classifier = config_dict.ConfigDict()
    classifier.label_smoothing = 0.1
    classifier.degradation = 0.0  # share of images that are blurred, and given noise, which is to be estimated beside the class
    classifier.estimate_weight = 1.0  # of the estimates' squared error, beside the cross-entropy of classes
    return c


def _coder():
    """The keys of an encoder and a decoder (networks/vae_nets.py), which autoencoders and VAEs share."""
    c = common()
    c.network = network = config_dict.ConfigDict()
    network.name = "conv"  # linear, dense, conv or pythae
    network.latent = 32  # dimensions of a code
    network.widths = (32, 64)  # of each hidden layer (dense); channels of each level, each halving the resolution (conv)
    network.blocks = 1  # residual blocks a level (conv)
    network.groups = 8  # of GroupNorm (conv)
    network.dtype = "float32"  # or bfloat16, of the computation
    return c


def autoencoder():
    """The keys of algorithms/autoencoder.py."""
    c = _coder()
    c.algorithm = "autoencoder"
    return c


def vae():
    """The keys of algorithms/vae.py."""
    c = _coder()
    c.algorithm = "vae"

    c.likelihood = likelihood = config_dict.ConfigDict()
    likelihood.name = "logistic"  # p(x | z): gaussian, bernoulli or logistic
    likelihood.scale = "pixel"  # of gaussian and logistic: fixed, shared (one learned number) or pixel (from the decoder)
    likelihood.sigma = 0.1  # of 'fixed', and where the other two begin; on the scale of [-1, 1]

    c.vae = vae = config_dict.ConfigDict()
    vae.beta = 1.0  # weight of the KL divergence
    vae.warmup = "0 steps"  # the weight rises linearly from 0
    vae.free_bits = 0.0  # nats of each latent channel that cost nothing
    vae.conditional = False  # on labels, which encoder and decoder are told
    vae.conditional_prior = False  # and the prior too; a ladder's always is
    return c


def hvae():
    """The keys of algorithms/vae.py on the ladder of networks/ladder.py."""
    c = vae()
    network = c.network
    network.name = "ladder"
    del network.latent
    network.patch_size = 1  # pixels a side that the network takes as one
    network.widths = (32, 64, 128)  # channels at the resolution of patches, half of it, a quarter, ...
    network.latents = (2, 4, 8, 32)  # latent channels of each block there, then of the vector at the top; 0 for none
    return c


def vqvae():
    """The keys of algorithms/vqvae.py."""
    c = common()
    c.algorithm = "vqvae"

    c.network = network = config_dict.ConfigDict()
    network.widths = (32, 64)  # channels of each level; each halves the resolution
    network.blocks = 2  # residual blocks at the resolution of the codes
    network.groups = 8  # of GroupNorm
    network.dtype = "float32"  # or bfloat16, of the computation

    c.vqvae = vqvae = config_dict.ConfigDict()
    vqvae.codes = 128  # in the codebook
    vqvae.dimensions = 32  # of a code
    vqvae.commitment = 0.25  # weight of the encoder's distance to its codes
    vqvae.decay = 0.97  # of the codebook's moving averages
    vqvae.restart = 0.05  # a code whose average use falls below this share of an even one is replaced; 0: never
    return c


def code_prior():
    """The keys of algorithms/code_prior.py: a transformer over the codes of a VQ-VAE's run."""
    c = common()
    c.algorithm = "code_prior"

    c.foundation = foundation = config_dict.ConfigDict()
    foundation.workdir = ""  # folder of the VQ-VAE's run
    foundation.run = config_dict.ConfigDict()  # its config; filled in when this run begins

    c.network = network = config_dict.ConfigDict()
    network.width = 128
    network.layers = 4
    network.heads = 4
    network.dropout = 0.1
    network.dtype = "float32"  # or bfloat16, of the computation

    c.prior = prior = config_dict.ConfigDict()
    prior.conditional = False  # on labels
    return c


def gan():
    """The keys of algorithms/gan.py."""
    c = common()
    c.algorithm = "gan"
    c.optimizer.b1 = 0.5
    c.optimizer.clip_norm = 0.0
    c.ema.decay = 0.999

    c.network = network = config_dict.ConfigDict()
    network.name = "dcgan"  # of both networks: dcgan or resnet
    network.latent = 100  # dimensions of the noise
    network.widths = (512, 256, 128, 64)  # channels of the generator's levels, the coarsest first; each doubles the sides
    network.upsampling = "transposed"  # transposed or resize (dcgan)
    network.attention = 0  # side of the maps that have self-attention in both networks; 0 for none
    network.dtype = "float32"  # or bfloat16, of the computation of both

    c.discriminator = discriminator = config_dict.ConfigDict()
    discriminator.widths = (64, 128, 256)  # channels of its levels, the finest first; each halves the sides
    discriminator.plain = 2  # residual blocks after those (resnet)
    discriminator.norm = "none"  # none, batch (dcgan) or spectral
    discriminator.stddev = 0  # images of a group that is told how much its images differ; 0 for none
    discriminator.lr_ratio = 1.0  # its learning rate, as a multiple of optimizer.lr

    c.gan = gan = config_dict.ConfigDict()
    gan.loss = "non_saturating"  # a key of losses.ADVERSARIAL
    gan.label_smoothing = 0.0  # the target of real images is less than 1 by this
    gan.d_steps = 1  # updates of the discriminator a step; each takes its share of batch_size
    gan.penalty = "none"  # or a key of adversarial.penalties.PENALTIES
    gan.penalty_weight = 10.0
    gan.penalty_every = 1  # updates of the discriminator from one penalty to the next, which then counts so many times
    gan.conditional = False  # on labels, which both networks are told
    gan.conditioning = "projection"  # projection (and class-conditional normalisation), or concat (dcgan)
    gan.auxiliary = 0.0  # weight of labels that the discriminator guesses

    c.augment = augment = config_dict.ConfigDict()
    augment.policy = ()  # of adversarial.augmentation.TRANSFORMATIONS, what both kinds of images go through
    augment.adaptive = False  # with a probability that rises from 0 where the discriminator is too sure; otherwise always
    augment.target = 0.6  # mean sign of its logits on training images that is aimed at
    augment.span = 500_000  # images over which the probability can rise from 0 to 1
    return c


def vaegan(c=None):
    """The keys of algorithms/vaegan.py, in addition to those of a GAN's config, which is changed; by default gan()."""
    c = c or gan()
    c.algorithm = "vaegan"

    c.encoder = encoder = config_dict.ConfigDict()
    encoder.widths = (64, 128)  # channels of its levels, the finest first; each halves the sides

    c.vaegan = vaegan = config_dict.ConfigDict()
    vaegan.gamma = 1.0  # what reconstruction weighs to the decoder, beside deceiving the discriminator
    vaegan.beta = 1.0  # weight of the KL divergence
    return c


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


_FAMILIES = {
    "autoencoder": (autoencoder,),
    "baseline": (baseline,),
    "classifier": (classifier,),
    "code_prior": (code_prior,),
    "cyclegan": (cyclegan,),
    "diffusion": (diffusion,),
    "gan": (gan,),
    "vae": (vae, hvae),
    "vaegan": (vaegan,),
    "vqvae": (vqvae,),
}
_CHOICES = {
    "data.on_bad_image": ("error", "skip"),
    "optimizer.on_new_duration": ("error", "continue", "restart"),
    "data.channels": (0, 1, 3, 4),
    "network.dtype": ("float32", "bfloat16"),
    "diffusion.schedule": tuple(schedules.CURVES),
    "diffusion.parametrisation": parametrisations.NAMES,
    "diffusion.weighting": weightings.NAMES,
    "sampler.name": samplers.NAMES,
    "sampler.variance": samplers.VARIANCES,
    "likelihood.name": tuple(distributions.LIKELIHOODS),
    "likelihood.scale": distributions.SCALES,
    "network.upsampling": cyclegan_nets.UPSAMPLINGS,
    "discriminator.name": ("patch", "pixel"),
    "cyclegan.loss": losses.BOUNDED,  # nothing holds the slope of its discriminators, as the Wasserstein loss needs it
    "discriminator.norm": ("none", "batch", "spectral"),
    "gan.loss": tuple(losses.ADVERSARIAL),
    "gan.penalty": ("none", *penalties.PENALTIES),
    "gan.conditioning": gan_blocks.CONDITIONINGS,
    "baseline.name": ("random", "histogram", "templates"),
}
# Those of a key that means something else in each family.
_NETWORKS = {
    "autoencoder": vae_nets.NAMES,
    "cyclegan": ("resnet", "unet"),
    "gan": ("dcgan", "resnet"),
    "vae": (*vae_nets.NAMES, "ladder"),
    "vaegan": ("dcgan", "resnet"),
}
_AT_LEAST = {
    "seed": 0,
    "batch_size": 1,
    "data.image_size": 0,
    "data.load_size": 0,
    "data.rotate": 0,
    "data.workers": 1,
    "data.prefetch": 1,
    "optimizer.accumulate": 1,
    "optimizer.lr": 0,
    "optimizer.lr_end": 0,
    "optimizer.weight_decay": 0,
    "optimizer.b1": 0,
    "optimizer.b2": 0,
    "optimizer.eps": 0,
    "optimizer.clip_norm": 0,
    "ema.decay": 0,
    "sharding.min_size": 0,
    "checkpoint.keep": 1,
    "sample.num": 1,
    "sample.batch_size": 1,
    "eval.num": 0,
    "eval.batch_size": 1,
    "eval.samples": 0,
    "network.channels": 2,
    "network.blocks": 1,
    "network.heads": 1,
    "network.groups": 1,
    "network.patch_size": 1,
    "network.dropout": 0,
    "diffusion.length": 1,
    "diffusion.gamma": 0,
    "sampler.steps": 1,
    "sampler.eta": 0,
    "network.levels": 1,
    "discriminator.channels": 1,
    "discriminator.layers": 1,
    "cyclegan.lambda_a": 0,
    "cyclegan.lambda_b": 0,
    "cyclegan.identity": 0,
    "cyclegan.pool": 0,
    "network.latent": 1,
    "network.width": 1,
    "network.layers": 1,
    "likelihood.sigma": 1e-6,
    "vae.beta": 0,
    "vae.free_bits": 0,
    "vqvae.codes": 2,
    "vqvae.dimensions": 1,
    "vqvae.commitment": 0,
    "vqvae.decay": 0,
    "vqvae.restart": 0,
    "classifier.label_smoothing": 0,
    "network.attention": 0,
    "discriminator.plain": 0,
    "discriminator.stddev": 0,
    "discriminator.lr_ratio": 0,
    "gan.label_smoothing": 0,
    "gan.d_steps": 1,
    "gan.penalty_weight": 0,
    "gan.penalty_every": 1,
    "gan.auxiliary": 0,
    "augment.target": -1,
    "augment.span": 1,
    "vaegan.gamma": 0,
    "vaegan.beta": 0,
    "baseline.templates": 1,
}
_AT_MOST = {
    "data.rotate": 180,
    "seed": rng.SEEDS - 1,
    "sampler.eta": 1,
    "gan.label_smoothing": 0.5,
    "augment.target": 1,
    "classifier.label_smoothing": 1,
    "ema.decay": 1,
    "vqvae.decay": 1,
    "vqvae.restart": 1,
}
_BELOW = {
    "network.dropout": 1,
    "optimizer.b1": 1,
    "optimizer.b2": 1,
}
# Of keys with several numbers, what each is at least.
_EACH_AT_LEAST = {
    "discriminator.widths": 1,
    "encoder.widths": 1,
    "network.widths": 1,
    "network.multipliers": 1,
    "network.latents": 0,
}
_DURATIONS = (
    "duration",
    "optimizer.warmup",
    "optimizer.hold",
    "checkpoint.every",
    "checkpoint.keep_every",
    "log.every",
    "sample.every",
    "eval.every",
    "vae.warmup",
)

# What may change between two starts of one run: how long, how often, how fast, where from. All else is the experiment.
# A batch in other pieces has the same mean loss; dropout draws other masks in them, from the same distribution.
_FREE = (
    "duration",
    "data.data_dir",
    "data.on_bad_image",
    "data.workers",
    "data.prefetch",
    "foundation.workdir",
    "optimizer.accumulate",
    "optimizer.on_new_duration",
    "network.remat",
    "sharding",
    "checkpoint",
    "log",
    "sample",
    "eval",
    "sampler",
    "cyclegan.paired_test",
)


def check(config):
    """Raises errors.UserError for the first value that cannot be."""
    _check_whole_numbers(config)
    families = _FAMILIES.get(config.algorithm)
    if families and all(set(family()) != set(config) for family in families):
        raise errors.UserError(f"config.algorithm is {config.algorithm!r}, whose recipe starts from another default than this")
    flat = flatten(config)
    _check_values(config.algorithm, flat)
    for key in (key for key in _DURATIONS if key in flat):
        amount, _ = parse_duration(key, flat[key])
        if not amount and key in ("duration", "log.every"):
            raise errors.UserError(f"config.{key} is {flat[key]!r}: it must be more than 0")
    if "multipliers" in config.get("network", {}):
        _check_unet(config.network)
    for objection, holds in _objections(config, flat).items():
        if holds:
            raise errors.UserError(objection)


def _check_values(family, flat):
    """Raises errors.UserError for the first value that is wrong by itself."""
    of_family = {"network.name": _NETWORKS[family]} if family in _NETWORKS else {}
    for key, choices in (_CHOICES | of_family).items():
        if key in flat and flat[key] not in choices:
            listed = ", ".join(str(choice) for choice in choices)
            raise errors.UserError(f"config.{key} is {flat[key]!r}: choose one of {listed}")
    for key, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise errors.UserError(f"config.{key} is {value}: it must be a finite number")
    for key, least in _AT_LEAST.items():
        if key in flat and flat[key] < least:
            raise errors.UserError(f"config.{key} is {flat[key]!r}: it must be at least {least}")
    for key, most in _AT_MOST.items():
        if key in flat and flat[key] > most:
            raise errors.UserError(f"config.{key} is {flat[key]!r}: it can be at most {most}")
    for key, bound in _BELOW.items():
        if key in flat and flat[key] >= bound:
            raise errors.UserError(f"config.{key} is {flat[key]!r}: it must be less than {bound}")
    for key, least in _EACH_AT_LEAST.items():
        if any(number < least for number in flat.get(key, ())):
            raise errors.UserError(f"config.{key} is {tuple(flat[key])}: each must be at least {least}")
    for name in flat.get("augment.policy", ()):
        if name not in augmentation.TRANSFORMATIONS:
            listed = ", ".join(augmentation.TRANSFORMATIONS)
            raise errors.UserError(f"config.augment.policy has {name!r}: choose of {listed}")


def _check_unet(network):
    """Raises errors.UserError where the levels of a U-Net do not fit together."""
    levels = len(network.multipliers)
    if not levels:
        raise errors.UserError("config.network.multipliers is (): give one for each level, such as (1, 2)")
    if any(level not in range(levels) for level in network.attention_levels):
        raise errors.UserError(
            f"config.network.attention_levels is {tuple(network.attention_levels)}: choose of 0 to {levels - 1}, since "
            f"config.network.multipliers has {levels}"
        )
    for level in {*network.attention_levels, levels - 1}:  # there is attention in the middle, too
        width = network.channels * network.multipliers[level]
        if width % network.heads:
            raise errors.UserError(
                f"config.network.heads is {network.heads}: it must divide the {width} channels of level {level}, which has "
                "attention"
            )


def needs_whole_batches(config):
    """Whether the objective is no mean over examples, so that pieces of a batch (optimizer.accumulate) make another one."""
    flat = flatten(config)
    return "discriminator" in config or flat.get("network.name") == "pythae" or flat.get("vae.free_bits", 0) > 0


def _objections(config, flat):
    """{what is said of values that do not go together: whether they are there}."""
    accumulate = flat.get("optimizer.accumulate", 1)
    coder = config.algorithm in ("autoencoder", "vae", "vqvae")
    ladder = flat.get("network.name") == "ladder"
    steps, length = flat.get("sampler.steps", 0), flat.get("diffusion.length", 0)
    rate, end = flat.get("optimizer.lr", 0), flat.get("optimizer.lr_end", 0)
    decay = flat.get("optimizer.weight_decay", 0)
    wide = coder and flat.get("network.name") not in ("linear", "dense", "pythae")
    taken = f"config.network.name={flat.get('network.name')}"
    return {
        f"config.optimizer.lr_end is {end}: it can be at most config.optimizer.lr ({rate})": end > rate,
        f"config.optimizer.weight_decay is {decay}: config.optimizer.name=adam has none, choose adamw or lion": (
            decay and flat["optimizer.name"] == "adam"
        ),
        f"config.optimizer.accumulate is {accumulate}: it must divide config.batch_size ({config.batch_size})": (
            config.batch_size % accumulate
        ),
        f"config.optimizer.accumulate is {accumulate}: it must be 1 here, where the loss is no mean over images (two players, "
        "batch normalisation, free bits)": accumulate > 1 and needs_whole_batches(config),
        f"config.sampler.steps is {steps}: it can be at most config.diffusion.length ({length})": steps > length,
        "config.eval.samples is 1: distances between sets of images need 2 at least, and 0 measures none": (
            flat["eval.samples"] == 1
        ),
        "config.network.widths is (): give one at least": wide and not flat["network.widths"],
        f"{taken} is of configs/hvae.py: start from that recipe": ladder and "network.latents" not in flat,
        f"{taken} is of configs/vae.py: start from that recipe": not ladder and "network.latents" in flat,
    }


def completed(saved):
    """A saved config laid over today's defaults of its family, so that a run from before a key existed has its default.

    Args:
      saved: the ConfigDict of a config.json. That of the run that it stands on is completed likewise.

    Returns:
      A ConfigDict; `saved` itself where its family is unknown.
    """
    families = _FAMILIES.get(saved.get("algorithm"), ())
    if not families:
        return saved
    keys = set(flatten(saved))
    # A family with several sets of keys is recognised by those that were saved.
    config = min((family() for family in families), key=lambda family: len(keys ^ set(flatten(family))))
    with config.unlocked():
        config.update(saved)
        if "foundation" in config and config.foundation.run:
            config.foundation.run = completed(config.foundation.run)
    return config


def _check_whole_numbers(config):
    """Raises errors.UserError for what is no whole number in a key that holds several, of which config_flags looks at none."""
    for key, value in flatten(config).items():
        several = key.split(".")[-1] in ("attention_levels", "latents", "multipliers", "widths")
        if several and any(type(number) is not int for number in value):
            raise errors.UserError(f"config.{key} is {tuple(value)}: give whole numbers, such as (1, 2)")


def parse_duration(key, text):
    """('2000', '2000 steps' or '40 epochs' of config.<key>) -> (amount, 'steps' or 'epochs')."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *(steps?|epochs?)?", str(text).strip())
    if not match:
        raise errors.UserError(f"config.{key} is {text!r}: write a duration as '2000 steps' or '40 epochs'")
    return float(match[1]), "epochs" if (match[2] or "").startswith("epoch") else "steps"


def in_steps(config, key, records):
    """The duration config.<key> in steps, given the number of training images."""
    amount, unit = parse_duration(key, flatten(config)[key])
    steps = round(amount * records / config.batch_size) if unit == "epochs" else round(amount)
    return max(steps, 1) if amount else 0


def flatten(config):
    """A config as {'optimizer.lr': 2e-4, ...}, its tuples as lists, as JSON has them."""
    flat = {}

    def visit(prefix, value):
        if isinstance(value, dict):
            for key, item in value.items():
                visit(f"{prefix}.{key}" if prefix else key, item)
        else:
            flat[prefix] = value

    visit("", json.loads(config.to_json()))
    return flat


def contradictions(saved, config):
    """Keys that make two configs different experiments, as ['seed: 0 in the run, 1 asked for', ...]."""
    old, new = flatten(saved), flatten(config)
    free = [key for key in _FREE if key != "optimizer.accumulate" or not needs_whole_batches(saved)]
    return [
        f"{key}: {old.get(key)!r} in the run, {new.get(key)!r} asked for"
        for key in sorted(old.keys() | new.keys())
        if _placeless(old.get(key)) != _placeless(new.get(key))
        and not any(key == one or key.startswith(one + ".") for one in free)
    ]


def _placeless(value):
    """'folder:/a/b' as 'folder:': images may move, and their fingerprint says whether they are the same."""
    return re.sub(r"^((?:edges:)*(?:folder|idx):).*", r"\1", value, flags=re.DOTALL) if isinstance(value, str) else value
