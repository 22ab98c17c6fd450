"""The loss of a model on validation data: the one function behind validation and `pretrain eval`."""

from collections.abc import Callable
from itertools import islice

from pretrain.data.text import ValidationData
from pretrain.model import LossSum, Model

MICRO_BATCHES_PER_CALL = 16
"""Enough to fill a pipeline, few enough to hold in memory."""


def score(model: Model, data: ValidationData, advance: Callable[[int], None] = lambda _: None) -> LossSum:
    """Loss of every label of `data`, each once, over all ranks together.

    Args:
        model: this rank's part; every rank calls with its own.
        data: the same on every rank.
        advance: told the number of micro-batches done, for a progress bar.

    Returns:
        The sum over the whole world, the same on every rank.
    """
    layout = model.layout
    batches = data.micro_batches(layout.data_rank, layout.data_size, model.config.batch.micro_size)
    nll, tokens = 0.0, 0
    while group := list(islice(batches, MICRO_BATCHES_PER_CALL)):
        part = model.score(group)
        nll, tokens = nll + part.nll, tokens + part.tokens
        advance(len(group))
    return LossSum(nll, tokens)
