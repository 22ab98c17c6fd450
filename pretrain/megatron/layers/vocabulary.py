"""Logits over a vocabulary that is padded and split over tensor parallel ranks.

Shape legend: V local vocabulary, padding rows included; ... any shape, the same in and out.
"""

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import (
    reduce_from_tensor_model_parallel_region,
    vocab_parallel_cross_entropy,
)
from torch import Tensor

from pretrain.training.cross_entropy import cross_entropy_in_place


def without_padding(logits: Tensor, vocab_size: int, tensor_rank: int) -> Tensor:
    """Set the logits of padding rows to minus infinity, in place.

    Args:
        logits: [..., V].
        vocab_size: ids of the whole vocabulary, without padding.
        tensor_rank: which part of the vocabulary these logits are of.
    """
    first_padding = vocab_size - tensor_rank * logits.shape[-1]
    if first_padding < logits.shape[-1]:
        logits[..., max(first_padding, 0) :] = float("-inf")
    return logits


def cross_entropy(
    logits: Tensor, labels: Tensor, tensor_size: int, tensor_rank: int = 0, z_loss: float | None = None
) -> Tensor:
    """Negative log-likelihood of each label, [...] float32.

    Args:
        logits: [..., V]; overwritten.
        labels: [...] int64, ids of the whole vocabulary.
        tensor_size: tensor parallel ranks that the vocabulary is split over.
        tensor_rank: which part of the vocabulary these logits are of.
        z_loss: weight of the squared logarithm of the softmax's denominator in the gradient; the value is
            without it.
    """
    if z_loss is not None:
        # That logarithm is the loss plus the label's logit, which must be read before it is overwritten.
        label_logits = _at_labels(logits, labels, tensor_size, tensor_rank)
        losses = cross_entropy(logits, labels, tensor_size)
        penalty = z_loss * (losses + label_logits).square()
        return losses + (penalty - penalty.detach())
    if tensor_size > 1 or logits.is_cuda:
        return vocab_parallel_cross_entropy(logits, labels.contiguous())  # type: ignore[no-any-return]
    # megatron's own makes three times as many passes over the logits, and three all-reduces.
    flat = cross_entropy_in_place(logits.flatten(0, -2).float(), labels.flatten())
    return flat.view(labels.shape)


def _at_labels(logits: Tensor, labels: Tensor, tensor_size: int, tensor_rank: int) -> Tensor:
    """The logit of each label, [...] float32, whichever rank has it."""
    local = labels - tensor_rank * logits.shape[-1]
    here = (local >= 0) & (local < logits.shape[-1])
    columns = torch.where(here, local, 0).flatten()
    rows = torch.arange(len(columns), device=columns.device)
    # `gather` would keep the logits for its backward pass.
    found = logits.flatten(0, -2)[rows, columns].view(labels.shape).float()
    if tensor_size == 1:
        return found
    # megatron would add up a copy of what is not contiguous, and return what it was given.
    own = torch.where(here, found, 0.0).contiguous()
    summed: Tensor = reduce_from_tensor_model_parallel_region(own)
    return summed


@torch.no_grad()
def most_likely(logits: Tensor, tensor_rank: int, group: dist.ProcessGroup) -> Tensor:
    """The id with the largest logit, [...] int64; the smallest id if several have it.

    Args:
        logits: [..., V].
        tensor_rank: which part of the vocabulary these logits are of.
        group: tensor parallel ranks that the vocabulary is split over.
    """
    ids = logits.argmax(-1)
    if group.size() == 1:
        return ids
    own = logits.gather(-1, ids[..., None])[..., 0].float()
    largest = own.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX, group)
    ids = torch.where(own == largest, ids + tensor_rank * logits.shape[-1], torch.iinfo(torch.int64).max)
    dist.all_reduce(ids, dist.ReduceOp.MIN, group)
    return ids
