"""Everything random in a step, as a function of (seed, update): drawn for the global batch, then sliced.

So a resumed run draws what an uninterrupted one draws, and no image depends on the number of processes.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pretrain.gan.augment import NUMBERS
from pretrain.seeds import stream_seed

Who = Literal["generator", "discriminator"]


@dataclass(frozen=True)
class Draw:
    """Random numbers for images, on the CPU."""

    latents: Tensor
    """[B, latent], standard normal."""
    mix: Tensor
    """[B, 1, 1, 1], uniform in [0, 1), for the gradient penalty."""
    real_changes: Tensor
    """[B, NUMBERS], uniform, for augmentation."""
    fake_changes: Tensor
    """[B, NUMBERS], uniform."""

    def part(self, rows: slice) -> "Draw":
        """The numbers of some of the images."""
        return Draw(self.latents[rows], self.mix[rows], self.real_changes[rows], self.fake_changes[rows])


def draw(seed: int, who: Who, update: int, size: int, latent_size: int) -> Draw:
    """The random numbers of a global batch.

    Args:
        who: whose update it is.
        update: its number, counted from 0.
        size: images in the global batch.
        latent_size: numbers of noise for an image.
    """
    random = torch.Generator().manual_seed(stream_seed(seed, who, update))
    return Draw(
        latents=torch.randn(size, latent_size, generator=random),
        mix=torch.rand(size, 1, 1, 1, generator=random),
        real_changes=torch.rand(size, NUMBERS, generator=random),
        fake_changes=torch.rand(size, NUMBERS, generator=random),
    )


def fixed_latents(seed: int, count: int, latent_size: int) -> Tensor:
    """The noise of the sample grids, the same at every step: [count, latent]."""
    random = torch.Generator().manual_seed(stream_seed(seed, "samples"))
    return torch.randn(count, latent_size, generator=random)
