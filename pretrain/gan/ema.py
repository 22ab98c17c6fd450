"""A moving average of G's weights, from which samples are drawn (Yazici et al. 2019).

Each rank averages the fp32 weights that it updates, so the average is sharded as they are.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pretrain.gan.zero_shards import ZeroShard


class Ema:
    """The average: one tensor for each ZeRO shard."""

    def __init__(self, parts: Sequence[ZeroShard], decay: float) -> None:
        self._masters = [part.master for part in parts]
        self._decay = decay
        self.tensors: list[Tensor] = [master.clone() for master in self._masters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after step `step`, counted from 0."""
        # The decay is smaller in early steps, so that the initial weights are soon forgotten.
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.tensors, self._masters, 1 - decay)
