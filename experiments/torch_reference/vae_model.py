"""pythae's VAE in eager PyTorch as its users write it; this module alone of the VAE's imports torch when it is imported.

Layers and loss are those of the library (clementchadebec/benchmark_VAE: Encoder_Conv_VAE_MNIST and Decoder_Conv_AE_MNIST of
models/nn/benchmarks/mnist/convnets.py, models/vae/vae_model.py with the reconstruction loss 'bce'). Pixels are those of
algorithms/vae.py, drawn black or white and from -1 to 1 for the encoder, where pythae has grey ones from 0 to 1. The layers
start as PyTorch's own do: no time depends on that.
"""

import torch
from torch import nn
from torch.nn import functional

from experiments.torch_reference import pytorch


def _norm_relu(width):
    return nn.BatchNorm2d(width), nn.ReLU()


class Encoder(nn.Module):
    """(n, channels, 28, 28) in [-1, 1] -> mean and log variance, (n, latent) each."""

    def __init__(self, channels, latent):
        super().__init__()
        layers = []
        for inputs, width in ((channels, 128), (128, 256), (256, 512), (512, 1024)):
            layers += [nn.Conv2d(inputs, width, 4, stride=2, padding=1), *_norm_relu(width)]
        self.layers = nn.Sequential(*layers)
        self.embedding = nn.Linear(1024, latent)
        self.log_var = nn.Linear(1024, latent)

    def forward(self, x):
        features = self.layers(x).flatten(1)
        return self.embedding(features), self.log_var(features)


class Decoder(nn.Sequential):
    """(n, latent) -> (n, channels, 28, 28) probabilities of white."""

    def __init__(self, channels, latent):
        super().__init__(
            nn.Linear(latent, 1024 * 4 * 4),
            nn.Unflatten(1, (1024, 4, 4)),
            nn.ConvTranspose2d(1024, 512, 3, stride=2, padding=1),
            *_norm_relu(512),
            nn.ConvTranspose2d(512, 256, 3, stride=2, padding=1, output_padding=1),
            *_norm_relu(256),
            nn.ConvTranspose2d(256, channels, 3, stride=2, padding=1, output_padding=1),
            nn.Sigmoid(),
        )


class Vae(nn.Module):
    """(n, channels, 28, 28) in [-1, 1] -> (probabilities of white, mean, log variance)."""

    def __init__(self, channels, latent):
        super().__init__()
        self.encoder = Encoder(channels, latent)
        self.decoder = Decoder(channels, latent)

    def forward(self, x):
        mean, log_var = self.encoder(x)
        deviation = torch.exp(0.5 * log_var)
        return self.decoder(mean + deviation * torch.randn_like(deviation)), mean, log_var


class Training:
    """A VAE in training.

    Attributes:
      network: the Vae.
      average: torch.optim.swa_utils.AveragedModel of it.
    """

    def __init__(self, config, algorithm, device):
        """`config` and `algorithm` are those of a recipe that torch_reference.vae.check accepts."""
        self.network = Vae(algorithm.image_shape[-1], config.network.latent).to(device)
        self.average = pytorch.moving_average(self.network, config.ema.decay)
        self._optimizer = pytorch.optimizer(config.optimizer, self.network.parameters())
        self._clip_norm = config.optimizer.clip_norm
        self._autocast = pytorch.autocast(algorithm.network.encoder, device)

    def optimize_parameters(self, pixels):
        """One step, and then the moving average.

        Args:
          pixels: (n, c, 28, 28) float, each 0 or 1.

        Returns:
          {name: () tensor}, the losses before the step, under the names of our metrics.
        """
        with self._autocast:
            made, mean, log_var = self.network(2 * pixels - 1)
        made, mean, log_var = made.float(), mean.float(), log_var.float()
        distortion = functional.binary_cross_entropy(made.flatten(1), pixels.flatten(1), reduction="none").sum(-1).mean()
        kl = -0.5 * (1 + log_var - mean.pow(2) - log_var.exp()).sum(-1).mean()
        loss = distortion + kl
        self._optimizer.zero_grad()
        loss.backward()
        if self._clip_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self._clip_norm)
        self._optimizer.step()
        self.average.update_parameters(self.network)
        return {"loss": loss, "distortion": distortion, "kl": kl}
