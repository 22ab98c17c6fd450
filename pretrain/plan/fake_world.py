"""Any rank of a world of any size in one process: torch's fake process group, and tensors without memory.

Collectives of the fake group return at once. Tensors are either on device meta, which is fastest, or in
torch's fake tensor mode on the CPU, which also chooses kernels as real tensors do (attention saves what a
fused kernel saves). The code that runs is that of training on a CPU; `pretrain.rehearsal` runs that of GPUs.
"""

import enum
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import CudaRNGStatesTracker
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from pretrain.cpu import megatron as cpu_backend
from pretrain.distributed.world import DistContext
from pretrain.megatron import pipeline as model


class Kind(enum.Enum):
    """What is used for tensors."""

    meta = "meta"
    """Only shapes."""
    fake = "fake"
    """Only shapes, on a simulated CPU."""


@contextmanager
def fake_world(rank: int, size: int, kind: Kind) -> Iterator[DistContext]:
    """Be rank `rank` of `size`.

    Yields:
        The world; tensors that are made in the context take no memory.

    Raises:
        RuntimeError: on a machine with visible GPUs, where megatron-core would use them.
    """
    if not cpu_backend.install() and torch.cuda.is_available():
        raise RuntimeError("a fake world needs CUDA_VISIBLE_DEVICES to be empty before torch is imported")
    store = FakeStore()
    dist.init_process_group("fake", store=store, rank=rank, world_size=size)
    try:
        with ExitStack() as stack:
            for target, name, stand_in in _stand_ins(kind):
                stack.enter_context(patch.object(target, name, stand_in))
            stack.enter_context(torch.device("meta") if kind is Kind.meta else FakeTensorMode())
            yield DistContext(rank, size, 0, torch.device("meta" if kind is Kind.meta else "cpu"), store)
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _stand_ins(kind: Kind) -> list[tuple[Any, str, Any]]:
    """What cannot run without values: (where, name, replacement)."""
    found: list[tuple[Any, str, Any]] = [
        # As if every rank of the group had the same object.
        (dist, "all_gather_object", _everyone_agrees),
        (model, "initialise", lambda *_: None),
        (CudaRNGStatesTracker, "fork", lambda self, name="": nullcontext()),
        (CudaRNGStatesTracker, "add", lambda self, name, seed: None),
        # Module.to() would swap fake parameters, which fails because they are weakly referenced.
        (torch.utils, "swap_tensors", _take_data),
    ]
    if kind is Kind.meta:
        plain = torch.Tensor.type
        found += [
            (torch.cuda, "current_device", lambda: "meta"),
            (torch.Tensor, "type", lambda self, *args: _as_on_cuda(plain(self, *args))),
        ]
    return found


def _everyone_agrees(answers: list[Any], own: Any, group: Any = None) -> None:
    answers[:] = [own] * len(answers)


def _take_data(parameter: torch.Tensor, other: torch.Tensor) -> None:
    parameter.data = other.data


def _as_on_cuda(answer: Any) -> Any:
    """The type name of a meta tensor, changed to what megatron-core's optimizers compare it with."""
    return answer.replace("cuda.cuda.meta", "cuda") if isinstance(answer, str) else answer
