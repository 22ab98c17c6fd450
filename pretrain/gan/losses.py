"""The games: what D and G each minimise. All are means over images, in fp32."""

import torch.nn.functional as F
from torch import Tensor

from pretrain.config.sections.gan import GanLossConfig

USES_REALS = ("relativistic",)
"""Losses whose generator step needs answers to real images too."""


def discriminator_loss(loss: GanLossConfig, real_B: Tensor, fake_B: Tensor) -> Tensor:
    """D's loss from its answers to real and to generated images."""
    real_B, fake_B = real_B.float(), fake_B.float()
    match loss.kind:
        case "minimax" | "non_saturating":
            return F.softplus(-real_B).mean() + F.softplus(fake_B).mean()
        case "hinge":
            return F.relu(1 - real_B).mean() + F.relu(1 + fake_B).mean()
        case "wasserstein":
            return fake_B.mean() - real_B.mean()
        case "relativistic":
            return F.softplus(fake_B - real_B).mean()


def generator_loss(loss: GanLossConfig, fake_B: Tensor, real_B: Tensor | None) -> Tensor:
    """G's loss from D's answers to generated images; `real_B` for the losses of `USES_REALS`."""
    fake_B = fake_B.float()
    match loss.kind:
        case "minimax":
            return -F.softplus(fake_B).mean()
        case "non_saturating":
            return F.softplus(-fake_B).mean()
        case "hinge" | "wasserstein":
            return -fake_B.mean()
        case "relativistic":
            assert real_B is not None, "the relativistic loss compares with real images"
            return F.softplus(real_B.float() - fake_B).mean()
