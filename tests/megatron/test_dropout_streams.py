"""Which ranks draw the same dropout masks: those that hold the same activations, and no others."""

from typing import Any

import pytest
import torch
from config_files import small_config
from megatron.core import tensor_parallel
from megatron.core.tensor_parallel.random import _MODEL_PARALLEL_RNG_TRACKER_NAME
from megatron.core.transformer.enums import AttnMaskType
from torch.distributed import HashStore

from pretrain.config.sections import ParallelConfig
from pretrain.cpu import megatron as cpu_backend
from pretrain.distributed.world import DistContext
from pretrain.megatron.layers.attention import SDPACoreAttention
from pretrain.megatron.layers.transformer import transformer_config
from pretrain.megatron.parallel_dims import ParallelDims
from pretrain.megatron.pipeline import seed_step

WORLD = DistContext(0, 1, 0, torch.device("cpu"), HashStore())


@pytest.fixture(autouse=True)
def backend() -> None:
    cpu_backend.install()


def draws(seed: int = 7, step: int = 3, **ranks: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Numbers from the default stream and from that of what tensor parallelism splits."""
    place = {"tensor_rank": 0, "pipeline_rank": 0, "context_rank": 0, "data_rank": 0, "data_size": 2} | ranks
    seed_step(seed, step, ParallelDims(WORLD, ParallelConfig(), **place))
    shared = torch.rand(4)
    with tensor_parallel.get_cuda_rng_tracker().fork():
        own = torch.rand(4)
    return tuple(shared.tolist()), tuple(own.tolist())


def test_tensor_parallel_ranks_share_one_stream_and_differ_in_the_other() -> None:
    first, second = draws(), draws(tensor_rank=1)
    assert first[0] == second[0], "activations outside of the split layers are the same on both"
    assert first[1] != second[1], "heads differ, and so must their masks"
    assert draws() == first, "a step that is repeated draws what it drew"


@pytest.mark.parametrize("other", ["data_rank", "context_rank", "pipeline_rank"])
def test_ranks_with_other_activations_have_other_masks(other: str) -> None:
    first, second = draws(), draws(**{other: 1})
    assert first[0] != second[0]
    assert first[1] != second[1]


@pytest.mark.parametrize("other", [{"seed": 8}, {"step": 4}])
def test_masks_change_with_the_seed_and_with_every_step(other: dict[str, int]) -> None:
    first, second = draws(), draws(**other)
    assert first[0] != second[0]
    assert first[1] != second[1]


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_masks_of_heads_come_from_the_stream_that_tensor_parallel_ranks_do_not_share(
    sequence_parallel: bool,
) -> None:
    """With sequence parallelism megatron runs the whole layer in that stream, so the default one is it."""
    config = transformer_config(small_config(model__dropout=0.5), torch.device("cpu"))
    config.sequence_parallel = sequence_parallel
    attention = SDPACoreAttention(config, 1, AttnMaskType.causal, "self").train()
    x: Any = [torch.randn(8, 2, 4, 8, generator=torch.Generator().manual_seed(n)) for n in range(3)]

    def attended(shared: int, own: int) -> torch.Tensor:
        tracker = tensor_parallel.get_cuda_rng_tracker()
        tracker.reset()
        tracker.add(_MODEL_PARALLEL_RNG_TRACKER_NAME, own)
        torch.manual_seed(shared)
        return attention(*x, None)

    assert torch.equal(attended(1, 1), attended(2, 1)) == (not sequence_parallel)
    assert torch.equal(attended(1, 1), attended(1, 2)) == sequence_parallel
