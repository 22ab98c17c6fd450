"""Methods to multiply with weights on a CPU. Each sums in fp32, in an order of its own.

Shape legend: M rows, I inputs, O outputs of this rank.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

onednn: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # None in a build without oneDNN


class Method(Protocol):
    """The three products of a linear map x W^T + b; no operand is empty."""

    def has(self, dtype: torch.dtype) -> bool:
        """Whether it supports this dtype, in this build and on this processor."""
        ...

    def forward(self, x_MI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        """x W^T + b, [M, O]."""
        ...

    def input_gradient(self, gradient_MO: Tensor, weight_OI: Tensor) -> Tensor:
        """The gradient of x, [M, I]."""
        ...

    def weight_gradient(self, gradient_MO: Tensor, x_MI: Tensor) -> Tensor:
        """The gradient of W, [O, I]."""
        ...

    def sum_weight_gradient(self, gradient_MO: Tensor, x_MI: Tensor, sum_OI: Tensor, first: bool) -> None:
        """Add the gradient of W to a sum in fp32, or write it over what is there if it is the first."""
        ...


class Torch:
    """torch's own: MKL in fp32, oneDNN in bf16 if the processor has AVX-512, else torch's own loops."""

    def has(self, dtype: torch.dtype) -> bool:
        return True

    def forward(self, x_MI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        return F.linear(x_MI, weight_OI, bias_O)

    def input_gradient(self, gradient_MO: Tensor, weight_OI: Tensor) -> Tensor:
        return gradient_MO @ weight_OI

    def weight_gradient(self, gradient_MO: Tensor, x_MI: Tensor) -> Tensor:
        return gradient_MO.t() @ x_MI

    def sum_weight_gradient(self, gradient_MO: Tensor, x_MI: Tensor, sum_OI: Tensor, first: bool) -> None:
        if gradient_MO.dtype != sum_OI.dtype:
            _sum(self.weight_gradient(gradient_MO, x_MI), sum_OI, first)
            return
        # A beta of zero ignores what is in the sum, NaN included.
        torch.addmm(sum_OI, gradient_MO.t(), x_MI, beta=0 if first else 1, out=sum_OI)


def _sum(gradient_OI: Tensor, sum_OI: Tensor, first: bool) -> None:
    if first:
        sum_OI.copy_(gradient_OI)
    else:
        sum_OI.add_(gradient_OI)


class OneDnn:
    """oneDNN's inner product, which copies operands that are transposed."""

    def has(self, dtype: torch.dtype) -> bool:
        """bf16 only on processors with AVX-512."""
        if onednn is None or dtype not in (torch.float32, torch.bfloat16):
            return False
        return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    def forward(self, x_MI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        made: Tensor = onednn(x_MI, weight_OI, bias_O, "none", [], "")
        return made

    def input_gradient(self, gradient_MO: Tensor, weight_OI: Tensor) -> Tensor:
        return self.forward(gradient_MO, weight_OI.t(), None)

    def weight_gradient(self, gradient_MO: Tensor, x_MI: Tensor) -> Tensor:
        if gradient_MO.dtype != torch.float32:
            return gradient_MO.t() @ x_MI
        (rows, outputs), inputs = gradient_MO.shape, x_MI.shape[1]
        # oneDNN copies a transposed first operand, so use the order of operands that copies less.
        if inputs * (rows + outputs) < rows * outputs:
            return self.forward(x_MI.t(), gradient_MO.t(), None).t()
        return self.forward(gradient_MO.t(), x_MI.t(), None)

    def sum_weight_gradient(self, gradient_MO: Tensor, x_MI: Tensor, sum_OI: Tensor, first: bool) -> None:
        _sum(self.weight_gradient(gradient_MO, x_MI), sum_OI, first)


class Widened:
    """bf16 computed in fp32 by torch's own method and rounded at the end: the same sums as a product in
    bf16. A sum in fp32 gets them without rounding."""

    _own = Torch()

    def has(self, dtype: torch.dtype) -> bool:
        return dtype == torch.bfloat16

    def forward(self, x_MI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        bias = None if bias_O is None else bias_O.float()
        return self._own.forward(x_MI.float(), weight_OI.float(), bias).to(x_MI.dtype)

    def input_gradient(self, gradient_MO: Tensor, weight_OI: Tensor) -> Tensor:
        return self._own.input_gradient(gradient_MO.float(), weight_OI.float()).to(gradient_MO.dtype)

    def weight_gradient(self, gradient_MO: Tensor, x_MI: Tensor) -> Tensor:
        return self._own.weight_gradient(gradient_MO.float(), x_MI.float()).to(gradient_MO.dtype)

    def sum_weight_gradient(self, gradient_MO: Tensor, x_MI: Tensor, sum_OI: Tensor, first: bool) -> None:
        self._own.sum_weight_gradient(gradient_MO.float(), x_MI.float(), sum_OI, first)


METHODS: Mapping[str, Method] = MappingProxyType({"torch": Torch(), "onednn": OneDnn(), "widened": Widened()})
"""By the name that choices use; the first wins a tie."""
