"""Linear layers for a tensor parallel size of one.

megatron's parallel layers compute the same there, but add the bias in a separate pass and run more Python.
"""

from typing import Any

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from torch import Tensor

from pretrain.cpu.linear import linear


class Linear(torch.nn.Linear):
    """torch's linear layer, computed by `pretrain.cpu.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        return linear(input, self.weight, self.bias)


class ColumnLinear(ColumnParallelLinear):  # type: ignore[misc]
    """Fills the slot of a column parallel layer."""

    def forward(self, input_SBI: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """[S, B, I] to [S, B, O] with the bias added, and None for the bias that is left to add."""
        return linear(input_SBI, self.weight, self.bias), None


class RowLinear(RowParallelLinear):  # type: ignore[misc]
    """Fills the slot of a row parallel layer."""

    def forward(self, input_SBI: Tensor) -> tuple[Tensor, None]:
        """[S, B, I] to [S, B, O] with the bias added, and None for the bias that is left to add."""
        return linear(input_SBI, self.weight, self.bias), None
