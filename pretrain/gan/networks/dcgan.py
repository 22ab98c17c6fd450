"""Transposed convolutions (Radford et al. 2016), for any power of two from 16 on.

As in the paper: 4 x 4 kernels of stride 2, ReLU in G, leaky ReLU in D. Different from the paper: a 3 x 3
convolution at full resolution in both, and no batch normalisation in D, which would let real and generated
images see each other.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.gan.networks.batch_norm import BatchNorm
from pretrain.gan.networks.condition import Head, Latent
from pretrain.gan.networks.shape import SMALLEST, GanShape, widths, with_gain
from pretrain.gan.networks.spectral import Layers


class DcganGenerator(nn.Module):
    """Noise -> 4 x 4 -> doubled until full size -> image."""

    def __init__(self, shape: GanShape) -> None:
        super().__init__()
        wide = widths(shape, shape.model.generator_channels)
        norm = shape.model.batch_norm
        self.latent = Latent(shape)
        self.first = nn.Linear(self.latent.size, wide[0] * SMALLEST**2, bias=not norm)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1, bias=not norm) for a, b in pairwise(wide))
        self.norms = nn.ModuleList(BatchNorm(width) if norm else nn.Identity() for width in wide)
        self.out = with_gain(nn.Conv2d(wide[-1], shape.channels, 3, 1, 1), 1.0)

    def forward(self, z_BL: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """[B, latent] -> images [B, C, H, W] in [-1, 1]."""
        hidden = self.first(self.latent(z_BL, labels_B)).view(len(z_BL), -1, SMALLEST, SMALLEST)
        hidden = F.relu(self.norms[0](hidden))
        for up, norm in zip(self.ups, self.norms[1:], strict=True):
            hidden = F.relu(norm(up(hidden)))
        return torch.tanh(self.out(hidden))


class DcganDiscriminator(nn.Module):
    """Image -> halved until 4 x 4 -> output."""

    def __init__(self, shape: GanShape) -> None:
        super().__init__()
        wide = widths(shape, shape.model.discriminator_channels)[::-1]
        layers = Layers(shape.model.spectral_norm)
        self.first = layers.conv(shape.channels, wide[0], 3)
        self.downs = nn.ModuleList(layers.conv(a, b, 4, stride=2) for a, b in pairwise(wide))
        self.head = Head(shape, layers, wide[-1] * SMALLEST**2, wide[-1])

    def forward(self, x_BCHW: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Images -> outputs [B]; above 0 is real."""
        hidden = F.leaky_relu(self.first(x_BCHW), 0.2)
        for down in self.downs:
            hidden = F.leaky_relu(down(hidden), 0.2)
        answer_B: Tensor = self.head(hidden.flatten(1), hidden.mean((2, 3)), labels_B)
        return answer_B
