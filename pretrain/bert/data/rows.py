"""From segments of token shards to batches: special tokens, padding, masks."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_tools.tokenizer import BertIds
from pretrain.bert.data.masking import Masker
from pretrain.bert.data.pairs import NO_LABEL, Segments
from pretrain.bert.data.rng import Keys
from pretrain.data.batch import PADDING_SAMPLE
from pretrain.data.sources import TokenRange
from pretrain.errors import IntegrityError


@dataclass(frozen=True)
class BertBatch:
    """B samples of S tokens: [CLS] A [SEP] B [SEP], or [CLS] A [SEP], and padding.

    tokens: int64 [B, S], with masks in place. token_types: int64 [B, S], 0 up to the first [SEP], 1 for the
    second segment, 0 for padding. labels: int64 [B, S], the original token where one is to be predicted, else
    0. loss_mask: float32 [B, S], 1 where a token was chosen for prediction. masked: bool [B, S], where a
    chosen token reads [MASK]; the other chosen ones were replaced by a random token or left as they are.
    padding_mask: bool [B, S], True for real tokens. next_sentence: int64 [B], 0 if the second segment follows
    the first one, 1 if it comes from another document, -1 without label (`data.nsp: false`, or padding).
    sample_ids: global sample of each row, `pretrain.data.batch.PADDING_SAMPLE` for a row that only fills the
    batch and has no label. frequent_token: the most frequent token of the data, which a baseline predicts
    everywhere.
    """

    tokens: Tensor
    token_types: Tensor
    labels: Tensor
    loss_mask: Tensor
    masked: Tensor
    padding_mask: Tensor
    next_sentence: Tensor
    sample_ids: tuple[int, ...]
    frequent_token: int


@dataclass(frozen=True, slots=True)
class BertRow:
    """One sample that is being put into a batch."""

    sample_id: int
    source: TokenRange
    segments: Segments


def room(sequence_length: int, nsp: bool) -> int:
    """Tokens of text in a sample: the sequence without [CLS] and one [SEP], or two with pairs."""
    return sequence_length - (3 if nsp else 2)


def make_bert_batch(
    rows: Sequence[BertRow | None], keys: Keys, sequence_length: int, masker: Masker, frequent_token: int
) -> BertBatch:
    """Stack rows; None is a row that only fills the batch. `keys` [B] decide the masks.

    Raises IntegrityError if a token id is not in the vocabulary.
    """
    tokens = np.full((len(rows), sequence_length), masker.ids.pad, np.int64)
    lengths = np.zeros((2, len(rows), 1), np.int64)  # up to the first segment's [SEP], and in all
    for number, row in enumerate(rows):
        if row is not None:
            lengths[:, number, 0] = _fill(tokens[number], row, masker.ids)
    if int(tokens.max()) >= len(masker.special):
        _refuse_ids(rows, len(masker.special))
    positions = np.arange(sequence_length)
    real = positions < lengths[1]
    masked = masker(tokens, keys)
    return BertBatch(
        tokens=torch.from_numpy(masked.inputs),
        token_types=torch.from_numpy((real & (positions >= lengths[0])).astype(np.int64)),
        labels=torch.from_numpy(masked.labels),
        loss_mask=torch.from_numpy(masked.chosen.astype(np.float32)),
        masked=torch.from_numpy(masked.masked),
        padding_mask=torch.from_numpy(real),
        next_sentence=torch.tensor([NO_LABEL if row is None else row.segments.label for row in rows]),
        sample_ids=tuple(PADDING_SAMPLE if row is None else row.sample_id for row in rows),
        frequent_token=frequent_token,
    )


def _fill(
    target: "np.ndarray[tuple[int], np.dtype[np.int64]]", row: BertRow, ids: BertIds
) -> tuple[int, int]:
    """Write one sample. Returns where its first segment ends, [SEP] included, and where the sample ends."""
    reader, (start, stop) = row.source.reader, row.segments.first
    first = stop - start + 2
    target[0] = ids.cls
    target[1 : first - 1] = reader.read(start, stop)
    target[first - 1] = ids.sep
    if row.segments.second is None:
        # A stretch may span the ends of documents.
        target[1:first][target[1:first] == reader.index.eod_id] = ids.sep
        return first, first
    start, stop = row.segments.second
    end = first + stop - start + 1
    target[first : end - 1] = reader.read(start, stop)
    target[end - 1] = ids.sep
    return first, end


def _refuse_ids(rows: Sequence[BertRow | None], vocab_size: int) -> None:
    for row in rows:
        for start, stop in filter(None, () if row is None else (row.segments.first, row.segments.second)):
            assert row is not None
            found = row.source.reader.read(start, stop)
            if len(found) and int(found.max()) >= vocab_size:
                at = int(found.argmax())
                path = row.source.path
                raise IntegrityError(
                    f"{path}: token {start + at:,} is id {int(found[at])}, but its tokenizer has "
                    f"{vocab_size} ids, 0 to {vocab_size - 1}; run `pretrain data verify {shlex.quote(path)}`"
                )
