"""A world of any size on pretended GPUs, of which this process is one rank."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch.testing._internal.distributed.fake_pg import FakeStore

from pretrain.cpu import megatron as cpu_backend
from pretrain.distributed.world import DistContext
from pretrain.rehearsal.device import FakeGpu
from pretrain.rehearsal.events import Events
from pretrain.rehearsal.shim import pretend_gpu
from pretrain.rehearsal.torch_cuda import replacements


@contextmanager
def rehearsed_world(rank: int, size: int) -> Iterator[tuple[DistContext, Events]]:
    """Be rank `rank` of `size`, on a GPU without values. Collectives return at once.

    Yields:
        The world, and what a GPU would have waited for so far.

    Raises:
        UserError: there is no C++ compiler (`pretrain.rehearsal.shim`).
    """
    events, store = Events(), FakeStore()
    with ExitStack() as stack:
        stack.callback(pretend_gpu, False)
        pretend_gpu(True)
        for where, name, replacement in replacements(events):
            stack.enter_context(patch.object(where, name, replacement))
        if cpu_backend.install():
            raise RuntimeError("unreachable")
        stack.enter_context(patch.object(dist, "all_gather_object", _everyone_agrees))
        swap = torch.__future__.get_swap_module_params_on_conversion()
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swap)
        torch.__future__.set_swap_module_params_on_conversion(True)
        dist.init_process_group("fake", store=store, rank=rank, world_size=size)
        stack.callback(dist.destroy_process_group)
        stack.callback(parallel_state.destroy_model_parallel)
        stack.enter_context(FakeGpu(events))
        yield DistContext(rank, size, 0, torch.device("cuda", 0), store), events


def _everyone_agrees(answers: list[Any], own: Any, group: Any = None) -> None:
    answers[:] = [own] * len(answers)
