"""One micro-batch of one rank for a fine-tuned BERT, as torch tensors on the CPU."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.bert.finetune.data.examples import NO_LABEL, LabelledExample
from pretrain.data.batch import PADDING_SAMPLE


@dataclass(frozen=True)
class LabelledBatch:
    """B examples of S tokens.

    tokens, token_types: int64 [B, S]. padding_mask: bool [B, S], True for real tokens. labels: int64, [B] for
    texts or [B, S] for tagged words, NO_LABEL where there is nothing to predict. sample_ids: global sample of
    each row, PADDING_SAMPLE for a row that only fills the batch and has no label.
    """

    tokens: Tensor
    token_types: Tensor
    padding_mask: Tensor
    labels: Tensor
    sample_ids: tuple[int, ...]


def stack(
    examples: Sequence[tuple[int, LabelledExample | None]], width: int, pad: int, *, tagged: bool
) -> LabelledBatch:
    """Pad examples, each with its sample id, to `width` tokens; None makes a row without a label."""
    tokens = torch.full((len(examples), width), pad)
    token_types = torch.zeros(len(examples), width, dtype=torch.int64)
    padding_mask = torch.zeros(len(examples), width, dtype=torch.bool)
    labels = torch.full((len(examples), width) if tagged else (len(examples),), NO_LABEL)
    for row, (_, example) in enumerate(examples):
        if example is None:
            padding_mask[row, 0] = True  # attention needs at least one key
            continue
        size = len(example.tokens)
        tokens[row, :size] = torch.tensor(example.tokens)
        token_types[row, :size] = torch.tensor(example.token_types)
        padding_mask[row, :size] = True
        if tagged:
            labels[row, :size] = torch.tensor(example.tags)
        else:
            labels[row] = example.label
    ids = tuple(PADDING_SAMPLE if example is None else sample for sample, example in examples)
    return LabelledBatch(tokens, token_types, padding_mask, labels, ids)
