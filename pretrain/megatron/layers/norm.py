"""LayerNorm and RMSNorm for megatron-core's norm slots.

megatron's own wrapper of the torch norms refuses sequence parallelism. There, each tensor parallel rank sees
a part of the sequence, so the gradients of norms must be summed over the group. megatron does that for
parameters tagged `sequence_parallel`, and these are tagged.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
    set_tensor_model_parallel_attributes,
)
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


class ZeroCenteredRMSNorm(RMSNorm):
    """The same with 1 + weight in place of the weight, in fp32, as Gemma has it."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; the last dimension is normalised."""
        weight = 1 + self.weight.float()
        return F.rms_norm(x.float(), self.normalized_shape, weight, self.eps).to(x.dtype)


class WholeNorm(torch.nn.Module):
    """RMSNorm over all heads of queries or keys, which tensor parallel ranks share.

    Args:
        config: megatron-core's.
        hidden_size: H, of one head.
        eps: added to the mean of squares.
        heads: of the whole layer.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float, heads: int) -> None:
        super().__init__()
        self.eps, self.tensor_parallel = eps, config.tensor_model_parallel_size > 1
        self.width = heads * hidden_size
        local = self.width // config.tensor_model_parallel_size
        self.weight = torch.nn.Parameter(torch.empty(local, dtype=config.params_dtype))
        set_tensor_model_parallel_attributes(self.weight, self.tensor_parallel, 0, 1)

    def forward(self, x_SBNH: Tensor) -> Tensor:
        """The same shape; N local heads."""
        flat = x_SBNH.flatten(2).float()
        squares = flat.square().sum(-1, keepdim=True)
        if self.tensor_parallel:
            # Each rank's output depends on the squares of all, so both passes sum over the ranks.
            squares = copy_to_tensor_model_parallel_region(reduce_from_tensor_model_parallel_region(squares))
        normed = flat * torch.rsqrt(squares / self.width + self.eps) * self.weight
        return normed.to(x_SBNH.dtype).view_as(x_SBNH)


def _tag(norm: torch.nn.Module, config: TransformerConfig) -> None:
    for parameter in norm.parameters():
        parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


def norm_class(model: TextModelConfig) -> type[LayerNorm] | type[RMSNorm]:
    """The class for the model's norm slots."""
    if getattr(model, "zero_centered_norm", False):
        return ZeroCenteredRMSNorm
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


class OutputNormResidual(PostNormResidual):
    """The same slot, with the norm of what the sublayer adds (OLMo 2)."""

    def forward(
        self, training: bool, fused: bool
    ) -> Callable[[tuple[Tensor, Tensor | None], Tensor, float], Tensor]:
        def add(output: tuple[Tensor, Tensor | None], residual: Tensor, dropout: float) -> Tensor:
            x, bias = output
            return residual + F.dropout(self.norm(x if bias is None else x + bias), dropout, training)

        return add
