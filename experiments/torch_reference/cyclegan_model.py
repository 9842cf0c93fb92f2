"""CycleGAN in eager PyTorch as its users write it; this module alone imports torch when it is imported.

Layers, losses and the order of a step are those of the authors' code (junyanz/pytorch-CycleGAN-and-pix2pix: models/networks.py
with instance normalisation and without dropout, models/cycle_gan_model.py, util/image_pool.py). Networks and losses have the
names that algorithms/cyclegan.py gives them. The layers start as PyTorch's own do: no time depends on that.
"""

import random

import torch
from torch import nn
from torch.nn import functional

from experiments.torch_reference import pytorch


def _norm_relu(width):
    return nn.InstanceNorm2d(width), nn.ReLU(inplace=True)


class _ResidualBlock(nn.Sequential):
    """reflect, conv3, norm, ReLU, reflect, conv3, norm, and the input added."""

    def __init__(self, width):
        first = nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), *_norm_relu(width)
        super().__init__(*first, nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width))

    def forward(self, x):
        return x + super().forward(x)


class ResNetGenerator(nn.Sequential):
    """(n, in_channels, h, w) in [-1, 1] -> (n, out_channels, h, w) in [-1, 1], h and w multiples of 4."""

    def __init__(self, in_channels, out_channels, channels, blocks):
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(in_channels, channels, 7), *_norm_relu(channels)]
        for width in (2 * channels, 4 * channels):
            layers += [nn.Conv2d(width // 2, width, 3, stride=2, padding=1), *_norm_relu(width)]
        layers += [_ResidualBlock(4 * channels) for _ in range(blocks)]
        for width in (2 * channels, channels):
            up = nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1)
            layers += [up, *_norm_relu(width)]
        super().__init__(*layers, nn.ReflectionPad2d(3), nn.Conv2d(channels, out_channels, 7), nn.Tanh())


class PatchDiscriminator(nn.Sequential):
    """(n, in_channels, h, w) in [-1, 1] -> (n, 1, h', w') logits of patches."""

    def __init__(self, in_channels, channels, layers):
        widths = [channels * min(2**i, 8) for i in range(layers + 1)]
        modules = [nn.Conv2d(in_channels, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        for i in range(1, layers + 1):
            conv = nn.Conv2d(widths[i - 1], widths[i], 4, stride=2 if i < layers else 1, padding=1)
            modules += [conv, nn.InstanceNorm2d(widths[i]), nn.LeakyReLU(0.2, inplace=True)]
        super().__init__(*modules, nn.Conv2d(widths[-1], 1, 4, padding=1))


class ImagePool:
    """Generated images of earlier steps; `size` of them at most, and with 0 it hands back what it is given."""

    def __init__(self, size):
        self._size = size
        self._images = []

    def query(self, batch):
        """(n, c, h, w) images for the discriminator, of those given and those kept."""
        if not self._size:
            return batch
        returned = []
        for image in batch:
            if len(self._images) < self._size:
                self._images.append(image)
            elif random.random() < 0.5:
                place = random.randrange(self._size)
                image, self._images[place] = self._images[place], image
            returned.append(image)
        return torch.stack(returned)


class CycleGan:
    """A pair of translations in training.

    Attributes:
      networks: {'generator': {'ab', 'ba'}, 'discriminator': {'a', 'b'}}, nn.ModuleDicts that mirror TrainState.params.
      average: torch.optim.swa_utils.AveragedModel of the generators.
    """

    def __init__(self, config, algorithm, device):
        """`config` and `algorithm` are those of a recipe that torch_reference.cyclegan.check accepts."""
        of = {name: shape[-1] for name, shape in algorithm.shapes.items()}
        c, d = config.network, config.discriminator
        generators = {way: ResNetGenerator(of[way[0]], of[way[1]], c.channels, c.blocks) for way in ("ab", "ba")}
        discriminators = {name: PatchDiscriminator(of[name], d.channels, d.layers) for name in ("a", "b")}
        self.networks = {
            "generator": nn.ModuleDict(generators).to(device),
            "discriminator": nn.ModuleDict(discriminators).to(device),
        }
        self.average = pytorch.moving_average(self.networks["generator"], config.ema.decay)
        self._optimizers = {name: pytorch.optimizer(config.optimizer, n.parameters()) for name, n in self.networks.items()}
        self._pools = {name: ImagePool(config.cyclegan.pool) for name in ("a", "b")}
        self._lambdas = {"a": config.cyclegan.lambda_a, "b": config.cyclegan.lambda_b}
        self._identity = config.cyclegan.identity
        self._autocast = pytorch.autocast(algorithm.discriminator, device)

    def optimize_parameters(self, real):
        """One step: both generators at once, then both discriminators, then the moving average.

        Args:
          real: {'a': (n, c, h, w), 'b': (n, c', h, w)} float in [-1, 1].

        Returns:
          {name: () tensor}, the losses before the step, under the names of our metrics.
        """
        self.networks["discriminator"].requires_grad_(False)  # their gradients would be computed for nothing
        self._optimizers["generator"].zero_grad()
        with self._autocast:
            fake, losses = self._generator_losses(real)
        losses["loss"] = sum(losses.values())
        losses["loss"].backward()
        self._optimizers["generator"].step()

        self.networks["discriminator"].requires_grad_(True)
        self._optimizers["discriminator"].zero_grad()
        for name in ("b", "a"):
            shown = self._pools[name].query(fake[name].detach())
            with self._autocast:
                loss = self._discriminator_loss(name, real[name], shown)
            loss.backward()
            losses[f"discriminator_{name}"] = loss
        self._optimizers["discriminator"].step()

        self.average.update_parameters(self.networks["generator"])
        return losses

    def _generator_losses(self, real):
        """(the translations that the discriminators are to see, {name: term})."""
        fake = {"b": self._generate("ab", real["a"]), "a": self._generate("ba", real["b"])}
        back = {"a": self._generate("ba", fake["b"]), "b": self._generate("ab", fake["a"])}
        losses = {}
        for name, way in (("a", "ba"), ("b", "ab")):
            weight = self._lambdas[name]
            if self._identity:
                same = self._generate(way, real[name])
                losses[f"identity_{name}"] = self._identity * weight * functional.l1_loss(same, real[name])
            logits = self._logits(name, fake[name])
            losses[f"adversarial_{name}"] = functional.mse_loss(logits, torch.ones_like(logits))
            losses[f"cycle_{name}"] = weight * functional.l1_loss(back[name], real[name])
        return fake, losses

    def _discriminator_loss(self, name, real, fake):
        on_real, on_fake = self._logits(name, real), self._logits(name, fake)
        of_real = functional.mse_loss(on_real, torch.ones_like(on_real))
        return 0.5 * (of_real + functional.mse_loss(on_fake, torch.zeros_like(on_fake)))

    def _generate(self, way, image):
        return self.networks["generator"][way](image).float()

    def _logits(self, name, image):
        return self.networks["discriminator"][name](image).float()
