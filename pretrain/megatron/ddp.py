"""megatron-core's data-parallel wrapper of a chunk, without the cost of zeroing and copying gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from torch import Tensor

from pretrain.cpu.linear import CLAIM


class DDP(DistributedDataParallel):  # type: ignore[misc]
    """The first micro-batch of a step overwrites the gradients of the step before.

    megatron-core zeroes the buffer and then adds every micro-batch to it: two more passes over memory.
    Products on a CPU write into the buffer directly. `begin` and `complete` enclose the micro-batches of a
    step. Without them, `zero_grad_buffer` works as in megatron-core.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self._stale: set[Tensor] = set()
        super().__init__(*arguments, **more)
        for parameter in self.params_with_grad:
            setattr(parameter, CLAIM, partial(self._claim, parameter))

    def _claim(self, parameter: Any) -> tuple[Tensor, bool] | None:
        if parameter._backward_hooks:  # they want to see the gradient, as those of a probe
            return None
        first = parameter in self._stale
        self._stale.discard(parameter)
        return parameter.main_grad, first

    def begin(self) -> None:
        """Begin a step: the gradients in the buffer no longer count."""
        for group in self.bucket_groups:
            group.reset()
        self._stale = set(self.params_with_grad)

    @torch.no_grad()
    def complete(self) -> None:
        """End a step: parameters that no micro-batch used get a gradient of zero."""
        while self._stale:
            unused: Any = self._stale.pop()
            unused.main_grad.zero_()

    def _make_backward_post_hook(self, parameter: torch.nn.Parameter) -> Callable[..., None]:
        """The hook that megatron-core calls when a micro-batch's gradient of a parameter is complete."""
        total: Any = parameter

        @torch.no_grad()
        def take(*_: Any) -> None:
            first = parameter in self._stale
            self._stale.discard(parameter)
            if parameter.grad is None:
                if first:
                    total.main_grad.zero_()
            elif first:
                total.main_grad.copy_(parameter.grad)
            else:
                total.main_grad.add_(parameter.grad)
            parameter.grad = None
            if self.ddp_config.overlap_grad_reduce:
                self.param_to_bucket_group[parameter].register_grad_ready(parameter, self.force_all_reduce)

        return take
