"""Reads the `.bin` and `.idx` pairs of Megatron-LM's `preprocess_data.py`, by megatron-core's own reader.

The tokens are taken as they are. A document is what the pair says that it is; the end-of-document token that
closes it there, if any, is left to the writer of the shards.
"""

import os
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from data_tools.errors import UserError
from data_tools.sources import BIN, index_of
from data_tools.tokenizer import Tokenizer
from data_tools.tokenizers.codec import Ids


@lru_cache(maxsize=2)
def _open(path: str) -> Any:
    """The reader of a pair. Raises UserError for a damaged one."""
    with warnings.catch_warnings(action="ignore"):  # of packages that it would like to have
        from megatron.core.datasets.indexed_dataset import IndexedDataset
    try:
        pair = IndexedDataset(path.removesuffix(BIN), mmap=True)
        lengths, bounds = pair.sequence_lengths, pair.document_indices
        item = np.dtype(pair.index.dtype)
    except Exception as error:  # a damaged index may raise anything
        raise UserError(f"{index_of(path)}: is no index of Megatron: {str(error)[:200]}") from None
    if item.kind not in "iu":
        raise UserError(f"{index_of(path)}: its items are {item}, which are no token ids")
    ordered = (
        len(bounds) > 0 and bounds[0] == 0 and bounds[-1] == len(lengths) and np.all(np.diff(bounds) >= 0)
    )
    needed = int(lengths.sum(dtype=np.int64)) * item.itemsize
    if not ordered or needed != os.path.getsize(path):
        raise UserError(
            f"{path}: holds {os.path.getsize(path):,} bytes, and {index_of(path)} speaks of {needed:,}: "
            "it is cut off, or they are not a pair"
        )
    return pair


def document_bounds(path: str) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """The byte at which each document begins, and the end of the last: int64 [documents + 1]."""
    pair = _open(path)
    item = np.dtype(pair.index.dtype).itemsize
    starts = np.concatenate([[0], np.cumsum(pair.sequence_lengths, dtype=np.int64)]) * item
    return np.asarray(starts[pair.document_indices], np.int64)


def token_documents(path: str, first: int, last: int | None, tokenizer: Tokenizer) -> Iterator[Ids]:
    """The ids of documents [first, last), without the end of each.

    Raises UserError for an id outside of the tokenizer, and for an end within a document.
    """
    pair = _open(path)
    bounds = pair.document_indices
    for number in range(first, len(bounds) - 1 if last is None else last):
        parts = [pair[sequence] for sequence in range(bounds[number], bounds[number + 1])]
        found = np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)
        if len(found) and found[-1] == tokenizer.eod_id:
            found = found[:-1]
        wrong = found[(found < 0) | (found >= tokenizer.vocab_size)]
        if len(wrong):
            raise UserError(
                f"{path}: document {number:,} holds id {wrong[0]}, and the tokenizer has ids 0 to "
                f"{tokenizer.vocab_size - 1:,}: it was made with another one"
            )
        if np.any(found == tokenizer.eod_id):
            raise UserError(
                f"{path}: document {number:,} holds id {tokenizer.eod_id} in its midst, which ends a "
                "document in this tokenizer; name another by --end-of-document"
            )
        yield found.astype(np.int32)
