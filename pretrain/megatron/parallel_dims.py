"""Parallel dimensions: this rank's coordinates in the tensor, pipeline, context and data parallel groups."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from pretrain.config.sections import ParallelConfig
from pretrain.distributed.world import DistContext


@dataclass(frozen=True)
class ParallelDims:
    """This rank's coordinates. A size of 1 means that this kind of parallelism is off."""

    world: DistContext
    parallel: ParallelConfig
    tensor_rank: int
    pipeline_rank: int
    context_rank: int
    data_rank: int
    data_size: int

    @property
    def device(self) -> torch.device:
        """Where this rank's tensors live."""
        return self.world.device

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank embeds tokens."""
        return self.pipeline_rank == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank computes the loss."""
        return self.pipeline_rank == self.parallel.pipeline - 1

    @property
    def chunks(self) -> int:
        """Model chunks on this rank."""
        return self.parallel.virtual_pipeline or 1

    def describe(self) -> str:
        """Short name of the whole layout, such as TP2 x PP2 x DP4."""
        p = self.parallel
        sizes = {"TP": p.tensor, "PP": p.pipeline, "VPP": self.chunks, "CP": p.context, "DP": self.data_size}
        name = " x ".join(f"{kind}{size}" for kind, size in sizes.items() if size > 1)
        return (name or "one process") + (" + SP" if p.sequence else "")


def build_parallel_dims(world: DistContext, parallel: ParallelConfig) -> ParallelDims:
    """Create megatron's process groups and find this rank in them.

    The caller has checked that the sizes divide the world (`config.rules`).
    """
    with patch.object(parallel_state, "create_group", _without_gloo) if world.on_gpu else nullcontext():
        parallel_state.initialize_model_parallel(
            parallel.tensor,
            parallel.pipeline,
            parallel.virtual_pipeline,
            context_parallel_size=parallel.context,
            create_gloo_process_groups=False,  # only megatron's own checkpoints need them
        )
    return ParallelDims(
        world=world,
        parallel=parallel,
        tensor_rank=parallel_state.get_tensor_model_parallel_rank(),
        pipeline_rank=parallel_state.get_pipeline_model_parallel_rank(),
        context_rank=parallel_state.get_context_parallel_rank(),
        data_rank=parallel_state.get_data_parallel_rank(),
        data_size=parallel_state.get_data_parallel_world_size(),
    )


_CREATE_GROUP = parallel_state.create_group


def _without_gloo(*args: Any, backend: str | None = None, **kwargs: Any) -> Any:
    """A group of megatron-core's, for tensors on GPUs alone.

    By default it takes over both backends of the world. Each group's gloo would connect every rank to every
    other, and nothing in these groups is sent from the host.
    """
    return _CREATE_GROUP(*args, backend=backend or "nccl", **kwargs)


def world_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum a small float64 tensor over all ranks, in place; the same bits on every rank."""
    dist.all_reduce(values)
    return values
