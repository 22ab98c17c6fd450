"""The loss of a model on validation data: the one function behind validation and `pretrain eval`."""

from collections.abc import Callable
from functools import reduce
from itertools import islice
from operator import add
from typing import Any

from pretrain.data.dataset import ValidationDataset
from pretrain.megatron.pipeline import PipelineModel
from pretrain.training.metric_sums import MetricSums

MICRO_BATCHES_PER_CALL = 16
"""Enough to fill a pipeline, few enough to keep in memory."""


def score(
    model: PipelineModel, data: ValidationDataset[Any], advance: Callable[[int], None] = lambda _: None
) -> MetricSums:
    """Loss of every label of `data`, each once, over all ranks together.

    Args:
        model: this rank's part; all ranks call this with theirs.
        data: the same on every rank.
        advance: told the number of micro-batches done, for a progress bar.

    Returns:
        The sum over the whole world, the same on every rank.
    """
    layout = model.layout
    batches = data.micro_batches(layout.data_rank, layout.data_size, model.config.batch.micro_size)
    sums: list[MetricSums] = []
    while group := list(islice(batches, MICRO_BATCHES_PER_CALL)):
        sums.append(model.score(group))
        advance(len(group))
    return reduce(add, sums)
