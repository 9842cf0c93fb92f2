"""DCGAN in eager PyTorch as its users write it; this module alone of the GAN's imports torch when it is imported.

The layers are those of networks/dcgan.py. A step goes as in PyTorch's own example (pytorch/examples: dcgan/main.py): the
discriminator on real images and on generated ones, its update, then the generator through the discriminator as it is by then.
algorithms/gan.py takes both gradients at the same discriminator instead, and so computes D(G(z)) once where this does it
twice. R1 is added as in its authors' code (LMescheder/GAN_stability: gan_training/train.py), images are moved as in
DiffAugment's (mit-han-lab/data-efficient-gans: DiffAugment_pytorch.py). The layers start as PyTorch's own do: no time depends
on that.
"""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional

from experiments.torch_reference import pytorch
from imagegen_jax.networks import dcgan


class Crop(nn.Module):
    """The first rows and columns of maps."""

    def __init__(self, height, width):
        super().__init__()
        self._size = height, width

    def forward(self, x):
        return x[:, :, : self._size[0], : self._size[1]]


class Generator(nn.Sequential):
    """(n, latent) noise -> (n, c, h, w) in [-1, 1]."""

    def __init__(self, image_shape, latent, widths):
        *shape, channels = image_shape
        coarsest, *finer = zip(*(dcgan.sides(size, len(widths)) for size in shape))
        layers = [nn.Linear(latent, math.prod(coarsest) * widths[0]), nn.Unflatten(1, (widths[0], *coarsest))]
        for inputs, outputs, size in zip(widths, (*widths[1:], channels), finer):
            layers += [nn.BatchNorm2d(inputs), nn.LeakyReLU(0.2, inplace=True)]
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), Crop(*size)]
        super().__init__(*layers, nn.Tanh())


class Discriminator(nn.Sequential):
    """(n, c, h, w) in [-1, 1] -> (n, 1) logits."""

    def __init__(self, image_shape, widths):
        *shape, channels = image_shape
        layers = []
        for inputs, outputs in itertools.pairwise((channels, *widths)):
            layers += [nn.ZeroPad2d((0, shape[1] % 2, 0, shape[0] % 2))]  # a last row and column where the sides are odd
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
            shape = [-(-side // 2) for side in shape]
        super().__init__(*layers, nn.Flatten(), nn.Linear(math.prod(shape) * widths[-1], 1))


def translate(x):
    """(n, c, h, w) -> the same, each image moved by up to an eighth of its sides; what comes in is grey."""
    rows, columns = (
        (torch.arange(side, device=x.device) + _shifts(len(x), side, x.device) + 1).clamp(0, side + 1) for side in x.shape[2:]
    )
    padded = functional.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1).contiguous()
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def _shifts(n, side, device):
    return torch.randint(-(side // 8), side // 8 + 1, (n, 1), device=device)


class Training:
    """A GAN in training.

    Attributes:
      networks: {'generator', 'discriminator'}, as TrainState.params has them.
      average: torch.optim.swa_utils.AveragedModel of the generator.
    """

    def __init__(self, config, algorithm, device):
        """`config` and `algorithm` are those of a recipe that torch_reference.gan.check accepts."""
        shape, optimizer, ratio = algorithm.image_shape, config.optimizer, config.discriminator.lr_ratio
        self.networks = {
            "generator": Generator(shape, config.network.latent, config.network.widths).to(device),
            "discriminator": Discriminator(shape, config.discriminator.widths).to(device),
        }
        self.average = pytorch.moving_average(self.networks["generator"], config.ema.decay)
        self._optimizers = {
            name: pytorch.optimizer(optimizer, self.networks[name].parameters(), of_lr)
            for name, of_lr in (("generator", 1.0), ("discriminator", ratio))
        }
        self._latent = config.network.latent
        self._moved = "translation" in config.augment.policy
        self._real_target = 1 - config.gan.label_smoothing
        # A penalty that is due at every so many updates counts so many times there; 0 for none.
        self._every = config.gan.penalty_every if config.gan.penalty == "r1" else 0
        self._penalty_weight = config.gan.penalty_weight * config.gan.penalty_every
        self._updates = 0
        self._autocast = pytorch.autocast(algorithm.generator, device)

    def optimize_parameters(self, real):
        """One step: the discriminator, then the generator, then the moving average.

        Args:
          real: (n, c, h, w) float in [-1, 1].

        Returns:
          {name: () tensor}, the losses before the update of each, under the names of our metrics.
        """
        with self._autocast:
            fake = self.networks["generator"](torch.randn(len(real), self._latent, device=real.device))
        losses = self._update_discriminator(real, fake.detach())

        self.networks["discriminator"].requires_grad_(False)  # their gradients would be computed for nothing
        self._optimizers["generator"].zero_grad()
        losses["loss"] = _cross_entropy(self._logits(fake), 1.0)
        losses["loss"].backward()
        self._optimizers["generator"].step()
        self.average.update_parameters(self.networks["generator"])
        return losses

    def _update_discriminator(self, real, fake):
        """{name: () tensor} of its losses; its penalty is there at the updates at which it is due."""
        self.networks["discriminator"].requires_grad_(True)
        self._optimizers["discriminator"].zero_grad()
        due = bool(self._every) and self._updates % self._every == 0
        real = real.detach().requires_grad_(due)
        on_real = self._logits(real)
        loss = _cross_entropy(on_real, self._real_target)
        loss.backward(retain_graph=due)
        losses = {}
        if due:
            (gradient,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
            losses["penalty"] = self._penalty_weight * gradient.square().sum((1, 2, 3)).mean() / 2
            losses["penalty"].backward()
        on_fake = _cross_entropy(self._logits(fake), 0.0)
        on_fake.backward()
        self._optimizers["discriminator"].step()
        self._updates += 1
        return losses | {"discriminator": loss + on_fake}

    def _logits(self, image):
        """(n, 1) logits of what the discriminator is shown of images."""
        with self._autocast:
            return self.networks["discriminator"](translate(image) if self._moved else image).float()


def _cross_entropy(logits, target):
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
