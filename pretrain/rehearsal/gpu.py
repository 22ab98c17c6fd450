"""A machine with one pretended GPU, and on it one rank of a world of any size."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch.testing._internal.distributed.fake_pg import FakeStore

from pretrain.cpu import megatron as cpu_backend
from pretrain.distributed.world import DistContext, forget_layout
from pretrain.rehearsal.device import FakeGpu
from pretrain.rehearsal.events import Events
from pretrain.rehearsal.shim import pretend_gpu
from pretrain.rehearsal.torch_cuda import replacements


@dataclass(frozen=True)
class _Rank(DistContext):
    """A rank that hears from no other, so it decides by itself what rank 0 would decide."""

    @property
    def is_first(self) -> bool:
        return True


@contextmanager
def pretended_gpu() -> Iterator[Events]:
    """Until the end of the block this process has a GPU, without values; collectives return at once.

    To be used in a process that has run nothing on its CPU before: what makes megatron-core work there stays,
    and autograd counts GPUs in its first backward pass.

    Yields:
        What the GPU has been made to wait for so far.

    Raises:
        UserError: there is no C++ compiler (`pretrain.rehearsal.shim`).
    """
    if torch.cuda.current_device is cpu_backend.cpu_device:
        raise RuntimeError("a GPU can be pretended only where megatron-core does not run on the CPU")
    events = Events()
    gpu = FakeGpu(events)
    with ExitStack() as stack:
        pretend_gpu(True)
        stack.callback(pretend_gpu, False)
        for where, name, replacement in [*replacements(events), *_groups(gpu)]:
            stack.enter_context(patch.object(where, name, replacement))
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.enter_context(gpu)
        yield events


@contextmanager
def rehearsed_world(rank: int, size: int) -> Iterator[tuple[DistContext, Events]]:
    """Be rank `rank` of `size`, each on a pretended GPU; see `pretended_gpu`."""
    with pretended_gpu() as events:
        store = FakeStore()
        dist.init_process_group(store=store, rank=rank, world_size=size)
        try:
            yield _Rank(rank, size, 0, torch.device("cuda", 0), store), events
        finally:
            forget_layout()
            dist.destroy_process_group()


def _groups(gpu: FakeGpu) -> Iterator[tuple[Any, str, Any]]:
    """(where, name, replacement) for groups in which only this rank is present."""
    init, new = dist.init_process_group, dist.new_group

    def init_world(*_: Any, rank: int, world_size: int, **__: Any) -> None:
        init("fake", store=FakeStore(), rank=rank, world_size=world_size)

    def new_group(*args: Any, backend: str | None = None, **kwargs: Any) -> Any:
        group = new(*args, backend="fake", **kwargs)
        if backend == "nccl" and isinstance(group, dist.ProcessGroup):  # and this rank is in it
            gpu.has_no_cpu(group)
        return group

    for where in (dist, c10d):
        yield where, "init_process_group", init_world
        yield where, "new_group", new_group
        yield where, "all_gather_object", _everyone_agrees


def _everyone_agrees(answers: list[Any], own: Any, group: Any = None) -> None:
    answers[:] = [own] * len(answers)
