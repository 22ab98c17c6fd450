"""Writes the tokens of one partition into WebDataset tars, block by block, in flat memory.

The tars are what `webdataset.TarWriter(..., mtime=0)` writes, byte for byte (a test compares them), but
written with the standard library: importing webdataset imports torch, which would cost every worker two
seconds and hundreds of megabytes.
"""

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_tools.errors import IntegrityError
from data_tools.index import Block, Shard, sync_directory, token_dtype
from data_tools.tokenizer import Ids

BLOCK_TOKENS = 1 << 20
BLOCKS_PER_SHARD = 128
TAR_BLOCK = 512


def npy_bytes(array: np.ndarray[Any, np.dtype[Any]]) -> tuple[bytes, int]:
    """An array as an .npy file, and the length of its header."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    data = buffer.getvalue()
    return data, len(data) - array.nbytes


class _Hashed:
    """A file that is only appended to, and its sha256 on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.size


class PartitionWriter:
    """Collects documents into blocks of `block_tokens`, and blocks into shards `PPPPPP-NNN.tar`.

    A shard gets its final name when it is complete and on disk; before that it has a temporary name in
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
    ) -> None:
        self._directory, self._scratch, self._partition = directory, scratch, partition
        self._vocab_size, self._eod = vocab_size, np.array([eod_id], np.int32)
        self._block_tokens = block_tokens
        self._dtype = np.dtype(token_dtype(vocab_size)).newbyteorder("<")
        self._block = np.empty(block_tokens, np.int32)
        self._used = 0
        self._docs: list[int] = []
        self._shards: list[Shard] = []
        self._tar: tarfile.TarFile | None = None
        self._blocks: list[Block] = []

    def start_document(self) -> None:
        """Note that a document begins with the next token."""
        if self._used == self._block_tokens:
            self._flush_block()
        self._docs.append(self._used)

    def add(self, ids: Ids) -> None:
        """Append tokens to the current document.

        Raises IntegrityError, when the block is written, for an id beyond the vocabulary.
        """
        while len(ids):
            if self._used == self._block_tokens:
                self._flush_block()
            count = min(len(ids), self._block_tokens - self._used)
            self._block[self._used : self._used + count] = ids[:count]
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
        sync_directory(self._directory)
        return tuple(self._shards)

    @property
    def _stem(self) -> str:
        return f"{self._partition:06d}-{len(self._shards):03d}"

    @property
    def _temporary(self) -> Path:
        return self._scratch / f"{self._stem}.{os.getpid()}.tmp"

    def _flush_block(self) -> None:
        ids = self._block[: self._used]
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self._vocab_size:
            bad = high if high >= self._vocab_size else low
            raise IntegrityError(f"the tokenizer gave id {bad}, outside its vocabulary of {self._vocab_size}")
        if self._tar is None:
            self._file = open(self._temporary, "wb")  # noqa: SIM115 - closed with the shard
            self._hashed = _Hashed(self._file)
            self._tar = tarfile.TarFile(fileobj=self._hashed, mode="w", format=tarfile.USTAR_FORMAT)  # type: ignore[arg-type]
            self._blocks, self._position = [], 0
        key = f"{self._stem}-{len(self._blocks):06d}"
        docs, docs_header = npy_bytes(np.array(self._docs, "<i8"))
        tokens, tokens_header = npy_bytes(ids.astype(self._dtype))
        block = Block(
            key=key,
            docs_offset=self._add_member(f"{key}.docs.npy", docs) + docs_header,
            docs=len(self._docs),
            tokens_offset=self._add_member(f"{key}.tokens.npy", tokens) + tokens_header,
            tokens=self._used,
        )
        self._blocks.append(block)
        self._used, self._docs = 0, []
        if len(self._blocks) == BLOCKS_PER_SHARD:
            self._close_shard()

    def _add_member(self, name: str, data: bytes) -> int:
        """Append a file to the tar; returns the byte offset of its first byte of data."""
        assert self._tar is not None
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = len(data), 0, 0o444
        member.uname = member.gname = "bigdata"
        self._tar.addfile(member, io.BytesIO(data))
        offset = self._position + TAR_BLOCK
        self._position = offset + -(-len(data) // TAR_BLOCK) * TAR_BLOCK
        return offset

    def _close_shard(self) -> None:
        assert self._tar is not None
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        name = f"{self._stem}.tar"
        os.replace(self._temporary, self._directory / name)
        digest = self._hashed.digest.hexdigest()
        self._shards.append(Shard(name, self._hashed.size, digest, tuple(self._blocks)))
        self._tar = None
