"""The pipeline order: the order in which a stage runs its chunks, and so how many micro-batches it has
outstanding.

One forward, one backward (Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU
Clusters Using Megatron-LM", section 2.2), as megatron-core's schedules run it, interleaved or not.
"""

from collections.abc import Iterator
from typing import NamedTuple


class Pass(NamedTuple):
    """One micro-batch through one chunk."""

    chunk: int
    forward: bool


def passes(pipeline: int, stage: int, chunks: int, micro_batches: int) -> Iterator[Pass]:
    """All passes of one step on pipeline stage `stage`, in their order.

    Args:
        pipeline: stages.
        stage: from 0.
        chunks: model chunks per stage; more than one interleaves.
        micro_batches: of one step and replica; with several chunks a multiple of `pipeline`.
    """
    total = chunks * micro_batches
    ahead = pipeline - stage - 1 if chunks == 1 else 2 * (pipeline - stage - 1) + (chunks - 1) * pipeline
    ahead = min(ahead, total)
    for index in range(total + ahead):
        if index < total:
            yield Pass(_chunk(index, pipeline, chunks), forward=True)
        if index >= ahead:
            yield Pass(chunks - 1 - _chunk(index - ahead, pipeline, chunks), forward=False)


def _chunk(index: int, pipeline: int, chunks: int) -> int:
    """The chunk of pass number `index` of one direction: as many micro-batches as stages, in turn."""
    return index // pipeline % chunks


def bubble(pipeline: int, chunks: int, micro_batches: int) -> float:
    """Share of a step that a stage waits for others: (p - 1) / (v m + p - 1), all passes being equal."""
    idle = pipeline - 1
    return idle / (chunks * micro_batches + idle)
