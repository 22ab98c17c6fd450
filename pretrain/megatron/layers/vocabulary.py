"""Logits over a vocabulary that is padded and split over tensor parallel ranks.

Shape legend: V local vocabulary, padding rows included; ... any shape, the same in and out.
"""

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
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


def cross_entropy(logits: Tensor, labels: Tensor, tensor_size: int) -> Tensor:
    """Negative log-likelihood of each label, [...] float32.

    Args:
        logits: [..., V]; overwritten.
        labels: [...] int64, ids of the whole vocabulary.
        tensor_size: tensor parallel ranks that the vocabulary is split over.
    """
    if tensor_size > 1 or logits.is_cuda:
        losses: Tensor = vocab_parallel_cross_entropy(logits, labels.contiguous())
        return losses
    # megatron's own makes three times as many passes over the logits, and three all-reduces.
    flat = cross_entropy_in_place(logits.flatten(0, -2).float(), labels.flatten())
    return flat.view(labels.shape)


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
