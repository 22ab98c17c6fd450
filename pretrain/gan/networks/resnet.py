"""The residual networks of SNGAN (Miyato et al. 2018, appendix B.4), for any power of two from 16 on."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.gan.networks.batch_norm import BatchNorm
from pretrain.gan.networks.condition import Head, Latent
from pretrain.gan.networks.shape import SMALLEST, GanShape, widths, with_gain
from pretrain.gan.networks.spectral import Layers


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2)


class _UpBlock(nn.Module):
    """Norm, ReLU, double, convolve; norm, ReLU, convolve; plus the doubled input.

    There is no bias where a later norm takes it away again: its gradient would be nothing but rounding
    errors.
    """

    def __init__(self, in_: int, out: int, norm: bool) -> None:
        super().__init__()
        self.norm1 = BatchNorm(in_) if norm else nn.Identity()
        self.norm2 = BatchNorm(out) if norm else nn.Identity()
        self.conv1 = nn.Conv2d(in_, out, 3, 1, 1, bias=not norm)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=not norm)
        self.shortcut = with_gain(nn.Conv2d(in_, out, 1, bias=False), 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, 2H, 2W]."""
        hidden: Tensor = self.conv1(_double(F.relu(self.norm1(x))))
        hidden = self.conv2(F.relu(self.norm2(hidden)))
        # A 1 x 1 convolution and doubling commute; in this order it costs a quarter.
        return hidden + _double(self.shortcut(x))


class ResnetGenerator(nn.Module):
    """Noise -> 4 x 4 -> a block for each doubling -> image."""

    def __init__(self, shape: GanShape) -> None:
        super().__init__()
        wide = widths(shape, shape.model.generator_channels)
        norm = shape.model.batch_norm
        self.latent = Latent(shape)
        self.first = nn.Linear(self.latent.size, wide[0] * SMALLEST**2, bias=not norm)
        self.blocks = nn.ModuleList(_UpBlock(a, b, norm) for a, b in pairwise(wide))
        self.norm = BatchNorm(wide[-1]) if norm else nn.Identity()
        self.out = with_gain(nn.Conv2d(wide[-1], shape.channels, 3, 1, 1), 1.0)

    def forward(self, z_BL: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """[B, latent] -> images [B, C, H, W] in [-1, 1]."""
        hidden = self.first(self.latent(z_BL, labels_B)).view(len(z_BL), -1, SMALLEST, SMALLEST)
        for block in self.blocks:
            hidden = block(hidden)
        return torch.tanh(self.out(F.relu(self.norm(hidden))))


class _DownBlock(nn.Module):
    """ReLU, convolve, ReLU, convolve, halve; plus the halved input."""

    def __init__(self, layers: Layers, in_: int, out: int, *, down: bool, first: bool) -> None:
        super().__init__()
        self.conv1 = layers.conv(in_, out, 3)
        self.conv2 = layers.conv(out, out, 3)
        self.shortcut = with_gain(layers.conv(in_, out, 1, bias=False), 1.0)
        self.down, self.first = down, first

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H/2, W/2], or of the same size."""
        hidden: Tensor = x if self.first else F.relu(x)
        hidden = self.conv2(F.relu(self.conv1(hidden)))
        if self.down:
            hidden, x = F.avg_pool2d(hidden, 2), F.avg_pool2d(x, 2)
        shortcut: Tensor = self.shortcut(x)
        return hidden + shortcut


class ResnetDiscriminator(nn.Module):
    """Image -> a block for each halving -> one more block -> output from the summed features."""

    def __init__(self, shape: GanShape) -> None:
        super().__init__()
        wide = widths(shape, shape.model.discriminator_channels)[::-1]
        layers = Layers(shape.model.spectral_norm)
        ins = [shape.channels, *wide[1:]]
        self.blocks = nn.ModuleList(
            _DownBlock(layers, a, b, down=True, first=index == 0)
            for index, (a, b) in enumerate(zip(ins, wide[1:], strict=False))
        )
        self.last = _DownBlock(layers, wide[-1], wide[-1], down=False, first=False)
        self.head = Head(shape, layers, wide[-1], wide[-1])

    def forward(self, x_BCHW: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Images -> outputs [B]; above 0 is real."""
        hidden = x_BCHW
        for block in self.blocks:
            hidden = block(hidden)
        features_BF = F.relu(self.last(hidden)).sum((2, 3))
        answer_B: Tensor = self.head(features_BF, features_BF, labels_B)
        return answer_B
