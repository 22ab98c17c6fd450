"""Residual networks without normalisation, after R3GAN (Huang et al. 2024, "The GAN is dead; long live the
GAN!", section 3).

Inverted bottlenecks with grouped convolutions, leaky ReLU, bilinear resampling, and a learned 4 x 4 basis
that the noise weighs. The last layer of every branch starts at zero (Fixup, Zhang et al. 2019), so that
training starts from a nearly linear network. For the relativistic loss with R1 and R2.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.gan.networks.condition import Head, Latent
from pretrain.gan.networks.shape import SMALLEST, GanShape, widths, with_gain
from pretrain.gan.networks.spectral import Layers

EXPANSION = 2
GROUP = 16
"""Channels in a group of a grouped convolution."""
BLOCKS = 2
"""Residual blocks at each resolution."""


def _groups(channels: int) -> int:
    return channels // math.gcd(channels, GROUP)


class _Block(nn.Module):
    """1 x 1 up, 3 x 3 grouped, 1 x 1 down; plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = EXPANSION * channels
        self.up = nn.Conv2d(channels, inner, 1)
        self.middle = nn.Conv2d(inner, inner, 3, 1, 1, groups=_groups(inner))
        self.down = with_gain(nn.Conv2d(inner, channels, 1, bias=False), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        hidden = F.leaky_relu(self.up(x), 0.2)
        branch: Tensor = self.down(F.leaky_relu(self.middle(hidden), 0.2))
        return x + branch


class _Stage(nn.Module):
    """Resample, change the channels, then the blocks of one resolution."""

    def __init__(self, in_: int, out: int, factor: float) -> None:
        super().__init__()
        self.factor = factor
        change = nn.Conv2d(in_, out, 1, bias=False) if in_ != out else nn.Identity()
        self.change = with_gain(change, 1.0)
        self.blocks = nn.Sequential(*(_Block(out) for _ in range(BLOCKS)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, factor H, factor W]."""
        if self.factor > 1:
            x = F.interpolate(self.change(x), scale_factor=self.factor, mode="bilinear")
        elif self.factor < 1:
            x = self.change(F.avg_pool2d(x, 2))
        else:
            x = self.change(x)
        hidden: Tensor = self.blocks(x)
        return hidden


class ModernGenerator(nn.Module):
    """Noise -> a weighted basis of 4 x 4 -> a stage for each resolution -> image."""

    def __init__(self, shape: GanShape) -> None:
        super().__init__()
        wide = widths(shape, shape.model.generator_channels)
        self.latent = Latent(shape)
        self.basis = nn.Parameter(torch.empty(wide[0], SMALLEST, SMALLEST))
        self.weigh = with_gain(nn.Linear(self.latent.size, wide[0], bias=False), 1.0)
        ins = [wide[0], *wide[:-1]]
        self.stages = nn.ModuleList(
            _Stage(a, b, 2 if index else 1) for index, (a, b) in enumerate(zip(ins, wide, strict=True))
        )
        self.out = with_gain(nn.Conv2d(wide[-1], shape.channels, 1), 1.0)

    def forward(self, z_BL: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """[B, latent] -> images [B, C, H, W], meant to be in [-1, 1]."""
        weights_BC = self.weigh(self.latent(z_BL, labels_B))
        hidden = self.basis[None] * weights_BC[:, :, None, None]
        for stage in self.stages:
            hidden = stage(hidden)
        image: Tensor = self.out(hidden)
        return image


class ModernDiscriminator(nn.Module):
    """Image -> a stage for each resolution -> 4 x 4 folded into one -> output."""

    def __init__(self, shape: GanShape) -> None:
        super().__init__()
        wide = widths(shape, shape.model.discriminator_channels)[::-1]
        # A bias here would shift all outputs alike, which the relativistic loss cannot see.
        self.first = with_gain(nn.Conv2d(shape.channels, wide[0], 1, bias=False), 1.0)
        ins = [wide[0], *wide[:-1]]
        self.stages = nn.ModuleList(
            _Stage(a, b, 0.5 if index else 1) for index, (a, b) in enumerate(zip(ins, wide, strict=True))
        )
        fold = nn.Conv2d(wide[-1], wide[-1], SMALLEST, groups=wide[-1], bias=False)
        self.fold = with_gain(fold, 1.0)
        self.head = Head(shape, Layers(spectral=False), wide[-1], wide[-1])

    def forward(self, x_BCHW: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Images -> outputs [B]; above 0 is real."""
        hidden = self.first(x_BCHW)
        for stage in self.stages:
            hidden = stage(hidden)
        features_BF = self.fold(hidden).flatten(1)
        answer_B: Tensor = self.head(features_BF, features_BF, labels_B)
        return answer_B
