"""LayerNorm and RMSNorm for megatron-core's norm slots.

megatron's own wrapper of the torch norms refuses sequence parallelism. There, each tensor parallel rank sees
a part of the sequence, so the gradients of norms must be summed over the group. megatron does that for
parameters tagged `sequence_parallel`, and these are tagged.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from pretrain.config.sections import TextModelConfig


class LayerNorm(torch.nn.LayerNorm):
    """Ba et al. 2016. The constructor's arguments are the slot's."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        _tag(self, config)


class RMSNorm(torch.nn.RMSNorm):
    """Zhang & Sennrich 2019. The constructor's arguments are the slot's."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        _tag(self, config)


def _tag(norm: torch.nn.Module, config: TransformerConfig) -> None:
    for parameter in norm.parameters():
        parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


def norm_class(model: TextModelConfig) -> type[LayerNorm] | type[RMSNorm]:
    """The class for the model's norm slots."""
    return RMSNorm if model.normalization == "rmsnorm" else LayerNorm


class PostNormResidual(torch.nn.Module):
    """A layer's bias-dropout-add slot, with the norm after the sum (Vaswani et al. 2017, section 3.1).

    Args:
        config: megatron-core's.
        norm: the class of the norm.
    """

    def __init__(self, config: TransformerConfig, norm: type[LayerNorm] | type[RMSNorm]) -> None:
        super().__init__()
        self.norm = norm(config, config.hidden_size, config.layernorm_epsilon)

    def forward(
        self, training: bool, fused: bool
    ) -> Callable[[tuple[Tensor, Tensor | None], Tensor, float], Tensor]:
        """The function that the layer calls with (output, bias), residual and dropout probability."""

        def add(output: tuple[Tensor, Tensor | None], residual: Tensor, dropout: float) -> Tensor:
            x, bias = output
            x = F.dropout(x if bias is None else x + bias, dropout, training)
            normed: Tensor = self.norm(residual + x)
            return normed

        return add
