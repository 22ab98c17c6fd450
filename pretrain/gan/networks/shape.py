"""Sizes that all architectures share."""

from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from pretrain.config.sections.gan import GanModelConfig

M = TypeVar("M", bound=nn.Module)

SMALLEST = 4
"""Side of the smallest feature map."""


@dataclass(frozen=True)
class GanShape:
    """What a network is built for."""

    model: GanModelConfig
    channels: int
    """1: grey, 3: RGB."""
    classes: int
    """Classes of a conditional model; 0 without labels."""
    head_bias: bool
    """Whether D's answer has a bias. A loss that sees only differences of answers gives it no gradient but
    rounding errors, which Adam would make steps of."""

    @property
    def size(self) -> int:
        return self.model.image_size

    @property
    def image_numbers(self) -> int:
        return self.channels * self.size**2


def widths(shape: GanShape, full: int) -> list[int]:
    """Channels at each resolution from 4 x 4 up to full size.

    Args:
        shape: the images.
        full: channels at full size; each halving doubles them, up to `max_channels`.
    """
    levels = (shape.size // SMALLEST).bit_length() - 1
    return [min(shape.model.max_channels, full * 2**level) for level in range(levels, -1, -1)]


def with_gain(layer: M, gain: float) -> M:
    """Mark a layer that no ReLU follows: its initial weights are scaled by `gain` / sqrt(fan-in)."""
    layer.gain = gain  # type: ignore[assignment]
    return layer
