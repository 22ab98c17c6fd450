"""Linear maps whose weights no rank has to share.

In a layer's slots megatron's parallel layers compute the same at a tensor parallel size of one, but add the
bias in a pass of its own and go through more Python.
"""

from typing import Any

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from torch import Tensor

from pretrain.cpu.linear import linear


class Linear(torch.nn.Linear):
    """torch's, by `product.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        return linear(input, self.weight, self.bias)


class ColumnLinear(ColumnParallelLinear):  # type: ignore[misc]
    """In the slot of a column parallel layer."""

    def forward(self, input_SBI: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """[S, B, I] to [S, B, O], bias added, and none left to add."""
        return linear(input_SBI, self.weight, self.bias), None


class RowLinear(RowParallelLinear):  # type: ignore[misc]
    """In the slot of a row parallel layer."""

    def forward(self, input_SBI: Tensor) -> tuple[Tensor, None]:
        """[S, B, I] to [S, B, O], bias added, and none left to add."""
        return linear(input_SBI, self.weight, self.bias), None
