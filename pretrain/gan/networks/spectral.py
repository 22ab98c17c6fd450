"""Spectral normalisation (Miyato et al. 2018): layers whose weight is divided by its largest singular value.

The estimate's vectors move only when `advance` is called, once for each update of D (algorithm 1), and not in
the forward pass as in torch's version. So training does not depend on the number of micro-batches, on the
penalties' extra passes or on evaluations. The vectors are fp32 buffers, whatever the weights are.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Spectral(nn.Module):
    """Common part of layers with a normalised weight [out, ...]."""

    if TYPE_CHECKING:
        weight: Tensor
        u: Tensor
        v: Tensor

    def _add_vectors(self) -> None:
        self.register_buffer("u", torch.zeros(self.weight.shape[0]))
        self.register_buffer("v", torch.zeros(self.weight[0].numel()))

    def normalised(self) -> Tensor:
        """The weight over its estimated largest singular value, differentiable in the weight."""
        matrix = self.weight.flatten(1).float()
        # Autocast would turn the products into bf16.
        sigma = torch.dot(self.u, torch.mv(matrix, self.v).float())
        return self.weight / sigma.to(self.weight.dtype)

    @torch.no_grad()
    def advance(self, weight: Tensor, iterations: int) -> None:
        """Power iterations of the whole weight."""
        matrix = weight.detach().flatten(1).float()
        for _ in range(iterations):
            self.v.copy_(F.normalize(torch.mv(matrix.t(), self.u), dim=0))
            self.u.copy_(F.normalize(torch.mv(matrix, self.v), dim=0))


class SpectralConv2d(_Spectral, nn.Conv2d):
    """A convolution with a normalised weight."""

    def __init__(self, in_: int, out: int, kernel: int, stride: int, padding: int, bias: bool) -> None:
        nn.Conv2d.__init__(self, in_, out, kernel, stride, padding, bias=bias)
        self._add_vectors()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, out, H', W']."""
        return F.conv2d(x, self.normalised(), self.bias, self.stride, self.padding)


class SpectralLinear(_Spectral, nn.Linear):
    """A linear layer with a normalised weight."""

    def __init__(self, in_: int, out: int, bias: bool) -> None:
        nn.Linear.__init__(self, in_, out, bias=bias)
        self._add_vectors()

    def forward(self, x: Tensor) -> Tensor:
        """[B, in] -> [B, out]."""
        return F.linear(x, self.normalised(), self.bias)


class SpectralEmbedding(_Spectral, nn.Embedding):
    """An embedding with a normalised table."""

    def __init__(self, count: int, size: int) -> None:
        nn.Embedding.__init__(self, count, size)
        self._add_vectors()

    def forward(self, ids: Tensor) -> Tensor:
        """[B] -> [B, size]."""
        return F.embedding(ids, self.normalised())


class Layers:
    """Makes a discriminator's layers, with or without spectral normalisation."""

    def __init__(self, spectral: bool) -> None:
        self._spectral = spectral

    def conv(self, in_: int, out: int, kernel: int, stride: int = 1, bias: bool = True) -> nn.Module:
        """A convolution that keeps the size, or divides it by the stride."""
        padding = (kernel - 1) // 2
        if self._spectral:
            return SpectralConv2d(in_, out, kernel, stride, padding, bias)
        return nn.Conv2d(in_, out, kernel, stride, padding, bias=bias)

    def linear(self, in_: int, out: int, bias: bool = True) -> nn.Module:
        return SpectralLinear(in_, out, bias) if self._spectral else nn.Linear(in_, out, bias=bias)

    def embedding(self, count: int, size: int) -> nn.Module:
        return SpectralEmbedding(count, size) if self._spectral else nn.Embedding(count, size)


def advance(module: nn.Module, iterations: int = 1, weights: Mapping[str, Tensor] | None = None) -> None:
    """Power iterations of every normalised layer in a module.

    Args:
        module: whose layers.
        iterations: of each.
        weights: used in place of the module's own, by name, where this rank does not hold all of those.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _Spectral):
            layer.advance(layer.weight if weights is None else weights[f"{name}.weight"], iterations)
