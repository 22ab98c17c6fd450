"""Penalties on the gradient of D's output with respect to its images.

Each takes a second derivative, so D is called as a plain module whose weights are whole on this rank.
DeepSpeed's stage 3 cannot do that; `pretrain check` says so.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pretrain.config.sections.gan import GanLossConfig

Answer = Callable[[Tensor], Tensor]
"""D with its augmentation and labels: images [B, C, H, W] -> answers [B]."""


def is_due(loss: GanLossConfig, update: int) -> bool:
    """Whether update number `update` of D, counted from 0, has penalties."""
    return bool(loss.r1 or loss.r2 or loss.gradient_penalty) and update % (loss.penalty_every or 1) == 0


def penalty(loss: GanLossConfig, answer: Answer, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """The weighted sum of all penalties of the config, for a step in which they are due.

    mix: [B, 1, 1, 1] in [0, 1), interpolates between real and generated images.
    """
    total = torch.zeros((), device=real.device)
    if loss.r1:
        total = total + loss.r1 / 2 * _zero_centred(answer, real)
    if loss.r2:
        total = total + loss.r2 / 2 * _zero_centred(answer, fake)
    if loss.gradient_penalty:
        total = total + loss.gradient_penalty * _one_centred(answer, mix * real + (1 - mix) * fake)
    # Lazy regularisation: a penalty in every n-th update counts n times.
    return total * (loss.penalty_every or 1)


def _zero_centred(answer: Answer, images: Tensor) -> Tensor:
    """Mescheder et al. 2018, equation 9: the mean squared gradient norm."""
    return _squared_norms(answer, images).mean()


def _one_centred(answer: Answer, between: Tensor) -> Tensor:
    """Gulrajani et al. 2017, equation 3, at random points between pairs of real and generated images."""
    # The square root has no derivative at 0.
    return ((_squared_norms(answer, between) + 1e-12).sqrt() - 1).square().mean()


def _squared_norms(answer: Answer, images: Tensor) -> Tensor:
    """|d answer / d image|^2 of each image, [B] in fp32, differentiable in D's weights."""
    images = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(answer(images).float().sum(), images, create_graph=True)
    return gradient.float().square().sum((1, 2, 3))
