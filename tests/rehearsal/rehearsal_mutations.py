"""Mistakes that cost a GPU cluster a job or its speed. Each must turn a rehearsal red."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from pretrain.gpt import spec
from pretrain.megatron import pipeline
from pretrain.megatron.optimizer import Optimizer
from pretrain.training.step_sync import StepSync

CASE = "gpt PP2 last"
"""The case in which each of them is made."""


def _stays(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor


def _not_pinned(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)


def _read(whole: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reading(*args: Any) -> Tensor:
        found = whole(*args)
        assert float(found.sum()) > 0
        return found

    return reading


def _summed_on_cpu(whole: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def summing(*args: Any) -> Tensor:
        dist.all_reduce(torch.ones(1), group=parallel_state.get_data_parallel_group())
        return whole(*args)

    return summing


def _synchronised(reduce: Callable[[StepSync], None]) -> Callable[[StepSync], None]:
    def waiting(gate: StepSync) -> None:
        torch.cuda.current_stream().synchronize()
        reduce(gate)

    return waiting


def _norm_by_norm(optimizer: Optimizer) -> Tensor:
    optimizer._megatron.prepare_grads()
    norms = [float(gradient.norm()) for gradient in optimizer._megatron.get_main_grads_for_grad_norm()]
    return torch.tensor(norms, dtype=torch.float64, device="cuda").norm()


MUTATIONS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "tokens stay on the CPU": lambda: patch.object(spec, "to_device", _stays),
    "tokens and masks are not pinned": lambda: patch.object(spec, "to_device", _not_pinned),
    "a number is read in each step": lambda: patch.object(
        pipeline.PipelineModel, "_divisors", _read(pipeline.PipelineModel._divisors)
    ),
    "label counts are summed on the CPU": lambda: patch.object(
        pipeline.PipelineModel, "_divisors", _summed_on_cpu(pipeline.PipelineModel._divisors)
    ),
    "the stream is synchronised": lambda: patch.object(StepSync, "reduce", _synchronised(StepSync.reduce)),
    "gradient norms are read one by one": lambda: patch.object(Optimizer, "gradient_norm", _norm_by_norm),
}
