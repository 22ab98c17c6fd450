"""Fully connected networks (Goodfellow et al. 2014, section 5), with leaky ReLU in both."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.gan.networks.batch_norm import BatchNorm
from pretrain.gan.networks.condition import Head, Latent
from pretrain.gan.networks.shape import GanShape, with_gain
from pretrain.gan.networks.spectral import Layers

HIDDEN_LAYERS = 2
WIDTH = 16
"""Width of a hidden layer, in units of the channels."""


class MlpGenerator(nn.Module):
    """Noise -> two hidden layers -> image."""

    def __init__(self, shape: GanShape) -> None:
        super().__init__()
        width = WIDTH * shape.model.generator_channels
        norm = shape.model.batch_norm
        self.image = (shape.channels, shape.size, shape.size)
        self.latent = Latent(shape)
        sizes = [self.latent.size, *[width] * HIDDEN_LAYERS]
        self.layers = nn.ModuleList(nn.Linear(a, width, bias=not norm) for a in sizes[:-1])
        self.norms = nn.ModuleList(BatchNorm(width) if norm else nn.Identity() for _ in sizes[:-1])
        self.out = with_gain(nn.Linear(width, shape.image_numbers), 1.0)

    def forward(self, z_BL: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """[B, latent] -> images [B, C, H, W] in [-1, 1]."""
        hidden = self.latent(z_BL, labels_B)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden = F.leaky_relu(norm(layer(hidden)), 0.2)
        return torch.tanh(self.out(hidden)).view(-1, *self.image)


class MlpDiscriminator(nn.Module):
    """Image -> two hidden layers -> output."""

    def __init__(self, shape: GanShape) -> None:
        super().__init__()
        layers = Layers(shape.model.spectral_norm)
        width = WIDTH * shape.model.discriminator_channels
        sizes = [shape.image_numbers, *[width] * HIDDEN_LAYERS]
        self.layers = nn.ModuleList(layers.linear(a, width) for a in sizes[:-1])
        self.head = Head(shape, layers, width, width)

    def forward(self, x_BCHW: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Images -> outputs [B]; above 0 is real."""
        hidden = x_BCHW.flatten(1)
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), 0.2)
        answer_B: Tensor = self.head(hidden, hidden, labels_B)
        return answer_B
