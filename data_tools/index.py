"""The index of a directory of text shards: what it says and how it is checked.

It names every shard with its size and checksum, and every block with the byte offsets of its two arrays, so
that a reader memory-maps tokens without reading the tars.
"""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_tools.atomic import write_atomically
from data_tools.index_file import (
    FORMAT_VERSION,
    HEX_DIGEST,
    INDEX_NAME,
    SHARD_NAME,
    Fields,
    check_index_size,
    content_fingerprint,
    read_document,
)

BLOCK_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
ITEM_SIZES = {"uint16": 2, "uint32": 4}
DOCS_ITEM_SIZE = 8


@dataclass(frozen=True)
class Block:
    """One WebDataset sample: `KEY.tokens.npy`, `KEY.docs.npy` and, where sentences are kept, `KEY.sents.npy`.

    Offsets are those of raw array data in the tar.
    """

    key: str
    tokens_offset: int
    tokens: int
    docs_offset: int
    docs: int
    sents_offset: int | None = None
    sents: int | None = None


@dataclass(frozen=True)
class Shard:
    """One tar file: its size in bytes, its sha256 and its blocks in order."""

    name: str
    size: int
    sha256: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class ShardIndex:
    """What a shard directory holds; `bytes` and `words` count the documents' text.

    Bytes are those of UTF-8, words are separated by whitespace. `sentences` is None where they are not kept;
    `lossy` is True where the tokenizer changes texts, else None. The file has no key that is None.
    """

    format_version: int
    kind: str
    dtype: str
    tokenizer_fingerprint: str
    vocab_size: int
    eod_id: int
    tokens: int
    documents: int
    bytes: int
    words: int
    shards: tuple[Shard, ...]
    fingerprint: str
    sentences: int | None = None
    lossy: bool | None = None

    @property
    def item_size(self) -> int:
        return ITEM_SIZES[self.dtype]


def token_dtype(vocab_size: int) -> str:
    """The stored type of a vocabulary: uint16, or uint32 above 65,535 ids."""
    return "uint16" if vocab_size <= 65_535 else "uint32"


def make_index(**content: Any) -> ShardIndex:
    """Build an index from its fields; `format_version`, `kind` and `fingerprint` are added."""
    draft = ShardIndex(format_version=FORMAT_VERSION, kind="text", fingerprint="", **content)
    return ShardIndex(**{**_shallow(draft), "fingerprint": content_fingerprint(_content(draft))})


def write_index(directory: Path, index: ShardIndex) -> None:
    """Write `index.json` atomically: it is there in full or not at all."""
    content = {**_content(index), "fingerprint": index.fingerprint}
    text = json.dumps(content, indent=1) + "\n"
    check_index_size(directory / INDEX_NAME, text.encode())
    write_atomically(directory / INDEX_NAME, text)


def read_index(directory: str | os.PathLike[str], named: str | None = None) -> ShardIndex:
    """Read and check the `index.json` of text shards; `named` as in `read_document`.

    Raises:
        UserError: `directory` does not exist, or is not a directory of text shards.
        IntegrityError: the build did not finish, or the index is damaged.
    """
    optional = ("sentences", "lossy")
    return _parse(read_document(directory, "text", _names(ShardIndex, optional), optional, named))


def _names(kind: type[Any], without: tuple[str, ...] = ()) -> tuple[str, ...]:
    return tuple(name for name in kind.__dataclass_fields__ if name not in without)


def _shallow(index: ShardIndex) -> dict[str, Any]:
    return {name: getattr(index, name) for name in index.__dataclass_fields__}


def _content(index: ShardIndex) -> dict[str, Any]:
    content = asdict(index, dict_factory=lambda pairs: {k: v for k, v in pairs if v is not None})
    del content["fingerprint"]
    return content


def _parse(fields: Fields) -> ShardIndex:
    vocab_size = fields.integer("vocab_size", 2, 2**31)
    dtype = fields.text("dtype", re.compile("uint16|uint32"), "'uint16' or 'uint32'")
    if dtype != token_dtype(vocab_size):
        fields.fail(
            "dtype",
            f"is {dtype!r}, but a vocabulary of {vocab_size} is stored as {token_dtype(vocab_size)!r}",
        )
    sentences = fields.integer("sentences", 1) if "sentences" in fields.value else None
    if fields.value.get("lossy", True) is not True:
        fields.fail("lossy", f"is {fields.value['lossy']!r:.60} instead of true")
    shards = tuple(
        _parse_shard(fields.path, f"shards[{i}]", shard, ITEM_SIZES[dtype], sentences is not None)
        for i, shard in enumerate(fields.items("shards"))
    )
    index = ShardIndex(
        format_version=fields.integer("format_version", FORMAT_VERSION, FORMAT_VERSION),
        kind="text",
        dtype=dtype,
        tokenizer_fingerprint=fields.text("tokenizer_fingerprint", HEX_DIGEST, "a sha256"),
        vocab_size=vocab_size,
        eod_id=fields.integer("eod_id", 0, vocab_size - 1),
        tokens=fields.integer("tokens", 1),
        documents=fields.integer("documents", 1),
        bytes=fields.integer("bytes", 1),
        words=fields.integer("words", 0),
        shards=shards,
        fingerprint=fields.text("fingerprint", HEX_DIGEST, "a sha256"),
        sentences=sentences,
        lossy=fields.value.get("lossy"),
    )
    _check_sums(fields, index)
    return index


def _parse_shard(path: str, where: str, value: Any, item_size: int, sentences: bool) -> Shard:
    fields = Fields(path, where, value, _names(Shard))
    name = fields.text("name", SHARD_NAME, "a plain file name such as '000000-000.tar'")
    size = fields.integer("size", 1)
    blocks = tuple(
        _parse_block(path, f"{where}.blocks[{i}]", b, sentences) for i, b in enumerate(fields.items("blocks"))
    )
    for block in blocks:
        ends = (
            block.tokens_offset + block.tokens * item_size,
            block.docs_offset + block.docs * DOCS_ITEM_SIZE,
            (block.sents_offset or 0) + (block.sents or 0) * DOCS_ITEM_SIZE,
        )
        if max(ends) > size:
            fields.fail(
                "blocks", f"has block {block.key}, which ends at byte {max(ends)} of a shard of {size}"
            )
    if not blocks:
        fields.fail("blocks", "is empty")
    return Shard(name=name, size=size, sha256=fields.text("sha256", HEX_DIGEST, "a sha256"), blocks=blocks)


def _parse_block(path: str, where: str, value: Any, sentences: bool) -> Block:
    fields = Fields(path, where, value, _names(Block, () if sentences else ("sents_offset", "sents")))
    return Block(
        key=fields.text("key", BLOCK_KEY, "a key such as '000000-000-000000'"),
        tokens_offset=fields.integer("tokens_offset", 512),
        tokens=fields.integer("tokens", 1),
        docs_offset=fields.integer("docs_offset", 512),
        docs=fields.integer("docs", 0),
        sents_offset=fields.integer("sents_offset", 512) if sentences else None,
        sents=fields.integer("sents", 0) if sentences else None,
    )


def _check_sums(fields: Fields, index: ShardIndex) -> None:
    blocks = [block for shard in index.shards for block in shard.blocks]
    sums = {"tokens": sum(b.tokens for b in blocks), "documents": sum(b.docs for b in blocks)}
    if index.sentences is not None:
        sums["sentences"] = sum(b.sents or 0 for b in blocks)
    for key, found in sums.items():
        if getattr(index, key) != found:
            fields.fail(key, f"is {getattr(index, key)}, but the blocks add up to {found}")
    for key, values in (("shard", [s.name for s in index.shards]), ("block", [b.key for b in blocks])):
        if len(set(values)) != len(values):
            fields.fail("shards", f"names a {key} twice")
    if content_fingerprint(_content(index)) != index.fingerprint:
        fields.fail("fingerprint", "does not fit the rest of the index")
