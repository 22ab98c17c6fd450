"""The input of a model: one micro-batch of one rank, as torch tensors on the CPU."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pretrain.errors import IntegrityError

PADDING_SAMPLE = -1


@dataclass(frozen=True)
class Batch:
    """B samples of S tokens; S is the whole sequence, not yet split over context-parallel ranks.

    tokens: int64 [B, S]. labels: int64 [B, S], the tokens shifted by one. loss_mask: float32 [B, S], 1 where
    the label counts. position_ids: int64 [B, S]. document_ids: int64 [B, S] with
    `data.reset_at_document_end`, else None: number of the document within the sample, which attention must
    not leave. sample_ids: global sample (or window) of each row, PADDING_SAMPLE for a masked row that only
    fills up the shape. Tensors may be views that share memory or repeat it, so do not write to them.
    """

    tokens: Tensor
    labels: Tensor
    loss_mask: Tensor
    position_ids: Tensor
    document_ids: Tensor | None
    sample_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One sample on its way into a batch.

    stream: integers [up to S + 1], inputs and the last label. starts: int64, positions in it at which a
    document begins, None if documents do not matter. score_from: first input position whose label counts.
    path, position: where the stream was read, for messages.
    """

    sample_id: int
    stream: npt.NDArray[np.integer]
    starts: npt.NDArray[np.int64] | None
    score_from: int
    path: str
    position: int


def padding_row(reset: bool) -> BatchRow:
    """A row of padding, none of whose labels counts."""
    return BatchRow(PADDING_SAMPLE, np.zeros(0, np.uint8), np.zeros(0, np.int64) if reset else None, 0, "", 0)


def make_batch(rows: Sequence[BatchRow], sequence_length: int, vocab_size: int) -> Batch:
    """Stack rows; those shorter than `sequence_length` + 1 are padded with token 0, masked.

    Raises IntegrityError when a token id is not below `vocab_size`.
    """
    # Cheapest: one copy in the narrow dtype of the shards, then one conversion of all rows.
    stored = np.zeros((len(rows), sequence_length + 1), np.result_type(*(row.stream.dtype for row in rows)))
    for target, row in zip(stored, rows, strict=True):
        target[: len(row.stream)] = row.stream
    if int(stored.max()) >= vocab_size:
        _refuse_ids(rows, vocab_size)
    positions, documents = _positions(rows, sequence_length)
    return Batch(
        *inputs_and_labels(stored),
        loss_mask=_loss_mask(rows, sequence_length),
        position_ids=positions,
        document_ids=documents,
        sample_ids=tuple(row.sample_id for row in rows),
    )


def inputs_and_labels(stored: npt.NDArray[np.integer]) -> tuple[Tensor, Tensor]:
    """Tokens and labels, int64 [B, S] each, of rows of S + 1."""
    stream = stored.astype(np.int64)
    return torch.from_numpy(stream[:, :-1]), torch.from_numpy(stream[:, 1:])


def every_label(rows: int, sequence_length: int) -> Tensor:
    """The loss mask, float32 [B, S], if all labels count: one number repeated."""
    return torch.ones(()).expand(rows, sequence_length)


def plain_positions(rows: int, sequence_length: int) -> Tensor:
    """Position ids, int64 [B, S], if documents do not matter: one row repeated."""
    return torch.arange(sequence_length).expand(rows, sequence_length)


def _refuse_ids(rows: Sequence[BatchRow], vocab_size: int) -> None:
    row = next(row for row in rows if len(row.stream) and int(row.stream.max()) >= vocab_size)
    at = int(row.stream.argmax())
    raise IntegrityError(
        f"{row.path}: token {row.position + at:,} is id {int(row.stream[at])}, but its tokenizer has "
        f"{vocab_size} ids, 0 to {vocab_size - 1}; run `pretrain data verify {shlex.quote(row.path)}`"
    )


def _loss_mask(rows: Sequence[BatchRow], sequence_length: int) -> Tensor:
    """The loss mask, float32 [B, S]."""
    if all(len(row.stream) > sequence_length and row.score_from == 0 for row in rows):
        return every_label(len(rows), sequence_length)
    mask = torch.zeros(len(rows), sequence_length)
    for target, row in zip(mask, rows, strict=True):
        target[row.score_from : max(0, len(row.stream) - 1)] = 1
    return mask


def _positions(rows: Sequence[BatchRow], sequence_length: int) -> tuple[Tensor, Tensor | None]:
    """Position ids and document ids, int64 [B, S]; the latter None if documents do not matter."""
    if any(row.starts is None for row in rows):
        return plain_positions(len(rows), sequence_length), None
    found = [_documents(row.starts, sequence_length) for row in rows if row.starts is not None]
    positions, documents = (torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True))
    return positions, documents


def _documents(
    starts: npt.NDArray[np.int64], sequence_length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions that restart at each document start, and the document's number at each position.

    The document that reaches into the sample is number 0, whether the sample begins with its start or not.
    """
    begins = np.zeros(sequence_length, dtype=np.int64)
    begins[starts[(starts > 0) & (starts < sequence_length)]] = 1
    documents = np.cumsum(begins)
    indices = np.arange(sequence_length, dtype=np.int64)
    last_start = np.maximum.accumulate(np.where(begins == 1, indices, 0))
    return indices - last_start, documents
