"""Batch normalisation over the images of all ranks.

`torch.nn.SyncBatchNorm` refuses tensors on the CPU. Here, forward and backward, two sums per channel go
through one all-reduce, on whatever device the tensors are.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class BatchNorm(nn.Module):
    """Ioffe & Szegedy 2015, algorithm 1, over batch, height and width of all ranks; computed in fp32.

    In training it normalises by the batch and updates a running average; in evaluation it normalises by that
    average. All ranks hold equally many images.
    """

    def __init__(self, channels: int, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.momentum, self.epsilon = momentum, epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C] or [B, C, H, W]."""
        values = x.float()
        if self.training:
            mean_C, variance_C = self._batch_statistics(values)
        else:
            mean_C, variance_C = self.running_mean, self.running_var
        scale_C = torch.rsqrt(variance_C + self.epsilon) * self.weight.float()
        shift_C = self.bias.float() - mean_C * scale_C
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        return (values * scale_C.view(shape) + shift_C.view(shape)).to(x.dtype)

    def _batch_statistics(self, values: Tensor) -> tuple[Tensor, Tensor]:
        size = _ranks()
        axes = [axis for axis in range(values.dim()) if axis != 1]
        count = size * values.numel() // values.shape[1]
        # Two rounds: E[x^2] - E[x]^2 would lose digits, so the variance is taken around the known mean.
        mean_C = _sum_over_ranks(values.sum(axes), size) / count
        centred = values - mean_C.view(1, -1, *(1 for _ in values.shape[2:]))
        variance_C = _sum_over_ranks(centred.square().sum(axes), size) / count
        with torch.no_grad():
            unbiased = variance_C * (count / max(1, count - 1))
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return mean_C, variance_C


def _ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _sum_over_ranks(local: Tensor, size: int) -> Tensor:
    return local if size == 1 else _AllReduce.apply(local)  # type: ignore[no-untyped-call]


class _AllReduce(torch.autograd.Function):
    """Sum over ranks. Each rank's loss depends on the sum, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
