"""Writes the tokens of one partition into WebDataset tars, block by block, in constant memory."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.atomic import sync_folder
from data_tools.errors import IntegrityError
from data_tools.index import Block, Shard, token_dtype
from data_tools.tar import TarFileWriter
from data_tools.tokenizer import Ids

BLOCK_TOKENS = 1 << 20
BLOCKS_PER_SHARD = 128


def npy_bytes(array: np.ndarray[Any, np.dtype[Any]]) -> tuple[bytes, int]:
    """An array as an .npy file, and the length of its header."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    data = buffer.getvalue()
    return data, len(data) - array.nbytes


class PartitionWriter:
    """Collects documents into blocks of `block_tokens`, and blocks into shards `PPPPPP-NNN.tar`.

    A shard gets its final name once it is complete and on disk; until then it has a temporary name in
    `scratch`.
    """

    def __init__(
        self,
        directory: Path,
        scratch: Path,
        partition: int,
        vocab_size: int,
        eod_id: int,
        block_tokens: int = BLOCK_TOKENS,
        sentences: bool = False,
    ) -> None:
        self._directory, self._scratch, self._partition = directory, scratch, partition
        self._vocab_size, self._eod = vocab_size, np.array([eod_id], np.int32)
        self._block_tokens = block_tokens
        self._dtype = np.dtype(token_dtype(vocab_size)).newbyteorder("<")
        self._block = np.empty(block_tokens, np.int32)
        self._used = 0
        self._docs: list[int] = []
        self._sents: list[int] | None = [] if sentences else None
        self._shards: list[Shard] = []
        self._tar: TarFileWriter | None = None
        self._blocks: list[Block] = []

    def start_document(self) -> None:
        if self._used == self._block_tokens:
            self._flush_block()
        self._docs.append(self._used)

    def add(self, ids: Ids, sentences: Ids | None = None) -> None:
        """Append tokens to the current document; `sentences` are the positions at which a sentence begins.

        Raises IntegrityError, when the block is written, for an id beyond the vocabulary.
        """
        while len(ids):
            if self._used == self._block_tokens:
                self._flush_block()
            count = min(len(ids), self._block_tokens - self._used)
            self._block[self._used : self._used + count] = ids[:count]
            if self._sents is not None and sentences is not None:
                self._sents += (sentences[sentences < count] + self._used).tolist()
                sentences = sentences[sentences >= count] - count
            self._used += count
            ids = ids[count:]

    def end_document(self) -> None:
        """Close the current document with the end-of-document token."""
        self.add(self._eod)

    def close(self) -> tuple[Shard, ...]:
        """Write what is left and return the partition's shards (none if it has no document)."""
        if self._used:
            self._flush_block()
        if self._tar is not None:
            self._close_shard()
        sync_folder(self._directory)
        return tuple(self._shards)

    def _flush_block(self) -> None:
        ids = self._block[: self._used]
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self._vocab_size:
            bad = high if high >= self._vocab_size else low
            raise IntegrityError(f"the tokenizer gave id {bad}, outside its vocabulary of {self._vocab_size}")
        if self._tar is None:
            stem = f"{self._partition:06d}-{len(self._shards):03d}"
            self._tar = TarFileWriter(self._directory, self._scratch, stem)
            self._blocks = []
        key = f"{self._tar.stem}-{len(self._blocks):06d}"
        docs = self._add_array(f"{key}.docs.npy", np.array(self._docs, "<i8"))
        sents = (
            None if self._sents is None else self._add_array(f"{key}.sents.npy", np.array(self._sents, "<i8"))
        )
        block = Block(
            key=key,
            docs_offset=docs,
            docs=len(self._docs),
            tokens_offset=self._add_array(f"{key}.tokens.npy", ids.astype(self._dtype)),
            tokens=self._used,
            sents_offset=sents,
            sents=None if self._sents is None else len(self._sents),
        )
        self._blocks.append(block)
        self._used, self._docs = 0, []
        self._sents = None if self._sents is None else []
        if len(self._blocks) == BLOCKS_PER_SHARD:
            self._close_shard()

    def _add_array(self, name: str, array: np.ndarray[Any, np.dtype[Any]]) -> int:
        """Append an .npy member; returns the byte offset of the array's data."""
        assert self._tar is not None
        data, header = npy_bytes(array)
        return self._tar.add(name, data) + header

    def _close_shard(self) -> None:
        assert self._tar is not None
        written = self._tar.close()
        self._shards.append(Shard(written.name, written.size, written.sha256, tuple(self._blocks)))
        self._tar = None
