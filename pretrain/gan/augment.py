"""DiffAugment (Zhao et al. 2020): random changes of all images that D sees, differentiable in the pixels.

The random numbers are drawn for the global batch and then sliced, so an image's change does not depend on the
number of processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.config.sections.gan import Augmentation

SHIFT = 1 / 8
"""Largest translation, as a share of the side."""
HOLE = 1 / 2
"""Side of the hole, as a share of the image's."""
NUMBERS = 7
"""Random numbers for one image."""


@dataclass(frozen=True)
class Changes:
    """Random numbers in [0, 1) that decide how each image of a batch is changed, [B, NUMBERS]."""

    kinds: Sequence[Augmentation]
    numbers: Tensor

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        brightness, saturation, contrast, *places = self.numbers.to(x_BCHW.dtype).unbind(1)
        if "color" in self.kinds:
            x_BCHW = _color(x_BCHW, brightness, saturation, contrast)
        if "translation" in self.kinds:
            x_BCHW = _translation(x_BCHW, *places[:2])
        if "cutout" in self.kinds:
            x_BCHW = _cutout(x_BCHW, *places[2:])
        return x_BCHW


def _color(x: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Brightness +-0.5, saturation x 0 to 2 (RGB), contrast x 0.5 to 1.5, as in the paper's code."""
    shape = (-1, 1, 1, 1)
    x = x + (brightness - 0.5).view(shape)
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (2 * saturation).view(shape) + grey
    level = x.mean((1, 2, 3), keepdim=True)
    return (x - level) * (contrast + 0.5).view(shape) + level


def _whole(numbers: Tensor, count: int) -> Tensor:
    """Whole numbers from 0 to count - 1."""
    return (numbers.float() * count).long().clamp(max=count - 1)


def _translation(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """A shift of up to an eighth; what enters is black."""
    height, width = x.shape[2:]
    most = max(1, round(height * SHIFT))
    padded = F.pad(x, [most] * 4, value=-1.0)
    rows = _whole(down, 2 * most + 1)[:, None] + torch.arange(height, device=x.device)
    columns = _whole(right, 2 * most + 1)[:, None] + torch.arange(width, device=x.device)
    images = torch.arange(len(x), device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cutout(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """A square hole half as wide as the image, anywhere in it, filled with the middle of the value range."""
    rows, columns = _hole(down, x.shape[2]), _hole(right, x.shape[3])
    return x.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0.0)


def _hole(numbers: Tensor, side: int) -> Tensor:
    """Which pixels of a side lie in each hole, [B, side]. Its centre may be on an edge, as in the paper."""
    size = int(side * HOLE + 0.5)
    first = _whole(numbers, side + 1 - size % 2) - size // 2
    places = torch.arange(side, device=numbers.device) - first[:, None]
    return (places >= 0) & (places < size)
