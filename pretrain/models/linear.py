"""Linear maps of a layer whose weights no rank has to share, as torch's own: one product, bias included.

Megatron's parallel layers compute the same at a tensor parallel size of one, but add the bias in a pass of
its own and go through autograd functions in Python: 2 % of a step on a CPU at hidden 256.
"""

from typing import Any

import torch.nn.functional as F
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from torch import Tensor


class WholeColumn(ColumnParallelLinear):  # type: ignore[misc]
    """In the slot of a column parallel layer."""

    def forward(self, input_SBI: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """[S, B, I] to [S, B, O], bias added, and none left to add."""
        return F.linear(input_SBI, self.weight, self.bias), None


class WholeRow(RowParallelLinear):  # type: ignore[misc]
    """In the slot of a row parallel layer."""

    def forward(self, input_SBI: Tensor) -> tuple[Tensor, None]:
        """[S, B, I] to [S, B, O], bias added, and none left to add."""
        return F.linear(input_SBI, self.weight, self.bias), None
