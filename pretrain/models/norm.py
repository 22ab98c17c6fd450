"""LayerNorm and RMSNorm for megatron-core's norm slots.

megatron's own wrapper of the torch norms refuses sequence parallelism. There each tensor parallel rank sees
a part of the sequence, so the gradients of norms must be summed over the group: megatron does so for
parameters tagged `sequence_parallel`, and these are.
"""

import torch
from megatron.core.transformer.transformer_config import TransformerConfig


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
