"""The index of a directory of text shards: what it says and how it is checked.

It names every shard with its size and checksum, and every block with the byte offsets of its two arrays, so
that a reader memory-maps tokens without reading the tars.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from data_tools.index_file import (
    Index,
    Offset,
    Positive,
    Sha256,
    ShardName,
    read_index_file,
    sealed,
    write_index_file,
)
from data_tools.typed import Natural

ITEM_SIZES = {"uint16": 2, "uint32": 4}
DOCS_ITEM_SIZE = 8


@dataclass(frozen=True)
class Block:
    """One WebDataset sample: `KEY.tokens.npy`, `KEY.docs.npy` and, where sentences are kept, `KEY.sents.npy`.

    Offsets are those of raw array data in the tar.
    """

    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    tokens_offset: Offset
    tokens: Positive
    docs_offset: Offset
    docs: Natural
    sents_offset: Offset | None = None
    sents: Natural | None = None

    def end(self, item_size: int) -> int:
        """The byte of the tar at which its last array ends; `item_size` is that of a token."""
        return max(
            self.tokens_offset + self.tokens * item_size,
            self.docs_offset + self.docs * DOCS_ITEM_SIZE,
            (self.sents_offset or 0) + (self.sents or 0) * DOCS_ITEM_SIZE,
        )


@dataclass(frozen=True)
class Shard:
    """One tar file: its size in bytes, its sha256 and its blocks in order."""

    name: ShardName
    size: Positive
    sha256: Sha256
    blocks: Annotated[tuple[Block, ...], Field(min_length=1)]


@dataclass(frozen=True)
class ShardIndex(Index):
    """What a shard directory holds; `bytes` and `words` count the documents' text.

    Bytes are those of UTF-8, words are separated by whitespace. `sentences` is None where they are not kept;
    `lossy` is True where the tokenizer changes texts, else None. The file has no key that is None.
    """

    KIND: ClassVar[str] = "text"
    format_version: Literal[1]
    kind: Literal["text"]
    dtype: Literal["uint16", "uint32"]
    tokenizer_fingerprint: Sha256
    vocab_size: Annotated[int, Field(ge=2, le=2**31)]
    eod_id: Natural
    tokens: Positive
    documents: Positive
    bytes: Positive
    words: Natural
    shards: tuple[Shard, ...]
    fingerprint: Sha256
    sentences: Positive | None = None
    lossy: Literal[True] | None = None

    @property
    def item_size(self) -> int:
        return ITEM_SIZES[self.dtype]

    def fault(self) -> str | None:
        """What does not fit together; None if everything does."""
        wanted = token_dtype(self.vocab_size)
        if self.dtype != wanted:
            return f"dtype: is {self.dtype!r}, but a vocabulary of {self.vocab_size} is stored as {wanted!r}"
        if self.eod_id >= self.vocab_size:
            return f"eod_id: is {self.eod_id}, outside 0 to {self.vocab_size - 1}"
        blocks = [block for shard in self.shards for block in shard.blocks]
        for shard in self.shards:
            for block in shard.blocks:
                if block.end(self.item_size) > shard.size:
                    end = block.end(self.item_size)
                    return f"{shard.name}: block {block.key} ends at byte {end} of a shard of {shard.size}"
        if len({block.key for block in blocks}) != len(blocks):
            return "shards: names a block twice"
        keeps = self.sentences is not None
        if any({block.sents is not None, block.sents_offset is not None} != {keeps} for block in blocks):
            return "sentences: only some blocks have them"
        sums = {"tokens": sum(b.tokens for b in blocks), "documents": sum(b.docs for b in blocks)}
        sums |= {"sentences": sum(block.sents or 0 for block in blocks)} if keeps else {}
        for key, found in sums.items():
            if getattr(self, key) != found:
                return f"{key}: is {getattr(self, key)}, but the blocks add up to {found}"
        return None


def token_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The stored type of a vocabulary: uint16, or uint32 above 65,535 ids."""
    return "uint16" if vocab_size <= 65_535 else "uint32"


def make_index(**content: Any) -> ShardIndex:
    """Build an index from its fields; `format_version`, `kind` and `fingerprint` are added."""
    return sealed(ShardIndex(format_version=1, kind="text", fingerprint="", **content))


def write_index(directory: Path, index: ShardIndex) -> None:
    write_index_file(directory, index, indent=1)


def read_index(directory: str | os.PathLike[str], named: str | None = None) -> ShardIndex:
    """Read and check the `index.json` of text shards; arguments and errors as for `read_index_file`."""
    return read_index_file(directory, ShardIndex, named)
