"""Log-likelihoods of continuations of contexts, for many texts at once, on any parallel dims.

Shape legend: N continuations, B texts of a micro-batch, S columns, V local vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.utils import get_attr_wrapped_model
from torch import Tensor

from pretrain.data.batch import PADDING_SAMPLE, Batch, plain_positions
from pretrain.gpt.spec import LocalGptBatch
from pretrain.megatron.layers.vocabulary import cross_entropy, most_likely, without_padding
from pretrain.megatron.parallel_dims import world_sum
from pretrain.megatron.pipeline import PipelineModel
from pretrain.megatron.score import MICRO_BATCHES_PER_CALL


@dataclass(frozen=True)
class Continuation:
    """A context and its continuation, as the ids of both."""

    ids: Sequence[int]
    """At most `batch.sequence_length` + 1."""
    scored: int
    """How many ids at the end are the continuation; fewer than all."""


@dataclass(frozen=True)
class Likelihood:
    """The likelihood of a continuation under a model."""

    nll: float
    """Negative log-likelihood in nats, summed over its tokens."""
    greedy: bool
    """Whether every token is the likeliest one."""


def score_continuations(
    model: PipelineModel, asked: Sequence[Continuation], advance: Callable[[int], None] = lambda _: None
) -> list[Likelihood]:
    """Score each continuation once; all ranks call this together and get the same result.

    Args:
        model: this rank's part of a GPT.
        asked: the same on every rank.
        advance: called with the number of continuations that all replicas have finished, for a progress bar.
    """
    dims, rows = model.layout, model.config.batch.micro_size
    found_N2 = torch.zeros(len(asked), 2, dtype=torch.float64)
    # Sorted by length, so that texts of similar length share a batch and little of it is padding.
    order = sorted(range(len(asked)), key=lambda number: -len(asked[number].ids))
    batches = [order[first : first + rows] for first in range(0, len(order), rows)]
    round_size = MICRO_BATCHES_PER_CALL * dims.data_size
    for first in range(0, len(batches), round_size):
        together = batches[first : first + round_size]
        if mine := together[dims.data_rank :: dims.data_size]:
            width = _width(model, max(len(asked[number].ids) for batch in mine for number in batch) - 1)
            outputs = model.outputs([_batch(asked, numbers, rows, width) for numbers in mine], _judge)
            if dims.is_last_stage and dims.tensor_rank == 0:
                for numbers, output_B2 in zip(mine, outputs, strict=True):
                    found_N2[numbers] = output_B2[: len(numbers)].cpu()
        advance(sum(map(len, together)))
    # context-parallel ranks each have a part of the sum
    summed = world_sum(found_N2.to(dims.device)).tolist()
    return [Likelihood(nll, misses == 0) for nll, misses in summed]


def _width(model: PipelineModel, longest: int) -> int:
    """Number of columns for the longest text, rounded up so that the ranks can divide them."""
    parallel = model.config.parallel
    # A context-parallel rank takes two chunks of the sequence, one from each end (zigzag), so that causal
    # attention is balanced.
    parts = 2 * parallel.context if parallel.context > 1 else 1
    parts *= parallel.tensor if parallel.sequence else 1
    return -(-longest // parts) * parts


def _batch(asked: Sequence[Continuation], numbers: Sequence[int], rows: int, width: int) -> Batch:
    """Texts padded on the right; rows with a zero loss mask fill up where there are too few texts."""
    stored = torch.zeros(rows, width + 1, dtype=torch.int64)
    mask_BS = torch.zeros(rows, width)
    for row, number in enumerate(numbers):
        ids = asked[number].ids
        stored[row, : len(ids)] = torch.tensor(ids)
        mask_BS[row, len(ids) - 1 - asked[number].scored : len(ids) - 1] = 1
    spare = [PADDING_SAMPLE] * (rows - len(numbers))
    positions = plain_positions(rows, width)
    return Batch(stored[:, :-1], stored[:, 1:], mask_BS, positions, None, (*numbers, *spare))


def _judge(chunk: Any, local: LocalGptBatch) -> Tensor:
    """Run a micro-batch through one chunk; the last gives [B, 2] float64: nats, and tokens that are not the
    argmax."""
    output: Tensor = chunk(local.tokens, local.position_ids, local.attention_mask)
    gpt = get_attr_wrapped_model(chunk, "true_vocab_size", return_model_obj=True)
    if not gpt.post_process:
        return output
    logits_BSV = without_padding(output, gpt.true_vocab_size, gpt.tensor_rank)
    group = parallel_state.get_tensor_model_parallel_group()
    missed_BS = most_likely(logits_BSV, gpt.tensor_rank, group) != local.labels
    nll_BS = cross_entropy(logits_BSV, local.labels, group.size())
    counts_BS = local.loss_mask > 0
    nll_B = torch.where(counts_BS, nll_BS.double(), 0.0).sum(1)
    return torch.stack([nll_B, (missed_BS & counts_BS).sum(1).double()], 1)
