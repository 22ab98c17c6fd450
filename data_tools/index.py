"""The index of a shard directory: `index.json`, what it says and how it is checked.

The index is written last and atomically, so its presence means that the build finished. It names every shard
with its size and checksum, and every block with the byte offsets of its two arrays, so that a reader maps
tokens in place without reading the tars. `fingerprint` is the sha256 over everything else in the file:
whatever is edited, damaged or mixed up in the index is found when it is read.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from data_tools.errors import IntegrityError, UserError

FORMAT_VERSION = 1
INDEX_NAME = "index.json"
WORK_DIR = ".build"
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.tar")
BLOCK_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
HEX_DIGEST = re.compile(r"[0-9a-f]{64}")
ITEM_SIZES = {"uint16": 2, "uint32": 4}
DOCS_ITEM_SIZE = 8


@dataclass(frozen=True)
class Block:
    """One WebDataset sample: `KEY.tokens.npy` and `KEY.docs.npy`.

    Offsets are those of raw array data in the tar.
    """

    key: str
    tokens_offset: int
    tokens: int
    docs_offset: int
    docs: int


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

    Bytes are those of UTF-8, words are separated by whitespace.
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

    @property
    def item_size(self) -> int:
        """Bytes of one token on disk."""
        return ITEM_SIZES[self.dtype]


def token_dtype(vocab_size: int) -> str:
    """The stored type of a vocabulary: uint16, or uint32 above 65,535 ids."""
    return "uint16" if vocab_size <= 65_535 else "uint32"


def content_fingerprint(content: dict[str, Any]) -> str:
    """The sha256 of an index's content (without its own `fingerprint`) in canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def make_index(**content: Any) -> ShardIndex:
    """Build an index from its fields ; `format_version`, `kind` and `fingerprint` are added."""
    draft = ShardIndex(format_version=FORMAT_VERSION, kind="text", fingerprint="", **content)
    return ShardIndex(**{**_shallow(draft), "fingerprint": content_fingerprint(_content(draft))})


def write_index(directory: Path, index: ShardIndex) -> None:
    """Write `index.json` atomically: it is there in full, or not at all."""
    write_atomically(directory / INDEX_NAME, json.dumps(asdict(index), indent=1) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text`; a crash leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_index(directory: str | os.PathLike[str]) -> ShardIndex:
    """Read and check `index.json`.

    Raises:
        UserError: `directory` is not there, or is not a shard directory.
        IntegrityError: the build did not finish, or the index is damaged.
    """
    path = Path(directory) / INDEX_NAME
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        _explain_missing(Path(directory))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: is not an index: {error}; build the shards again") from None
    return _parse(path, document)


def _explain_missing(directory: Path) -> NoReturn:
    if not directory.is_dir():
        raise UserError(
            f"{directory}: there is no such directory; a shard directory is made by `pretrain data build`"
        )
    if (directory / WORK_DIR).exists():
        raise IntegrityError(
            f"{directory}: this build is not finished; run the same `pretrain data build` again to go on"
        )
    if any(directory.glob("*.tar")):
        raise IntegrityError(
            f"{directory}: there are shards but no {INDEX_NAME}; copy it over or build the shards again"
        )
    raise UserError(f"{directory}: not a shard directory (no {INDEX_NAME}); `pretrain data build` makes one")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a key occurs twice")
    return mapping


def _shallow(index: ShardIndex) -> dict[str, Any]:
    return {name: getattr(index, name) for name in index.__dataclass_fields__}


def _content(index: ShardIndex) -> dict[str, Any]:
    content = asdict(index)
    del content["fingerprint"]
    return content


class _Fields:
    """One JSON object of the index, taken apart with checks.

    Errors name the place, as in `shards[3].size`.
    """

    def __init__(self, path: Path, where: str, value: Any, names: tuple[str, ...]) -> None:
        self.path, self.where = path, where
        if not isinstance(value, dict):
            self.fail("", f"is {_short(value)} instead of an object")
        if set(value) != set(names):
            odd = sorted(set(value) ^ set(names))
            self.fail("", f"has missing or unknown keys: {', '.join(_short(key) for key in odd[:5])}")
        self.value: dict[str, Any] = value

    def fail(self, key: str, problem: str) -> NoReturn:
        place = ".".join(part for part in (self.where, key) if part) or "the index"
        raise IntegrityError(
            f"{self.path}: {place} {problem}; the index is damaged or foreign, build the shards again"
        )

    def integer(self, key: str, low: int, high: int | None = None) -> int:
        value = self.value[key]
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail(key, f"is {_short(value)} instead of an integer")
        if value < low or (high is not None and value > high):
            self.fail(key, f"is {_short(value)}, outside {low} to {high if high is not None else 'any'}")
        return value

    def text(self, key: str, pattern: re.Pattern[str], meaning: str) -> str:
        value = self.value[key]
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self.fail(key, f"is {_short(value)} instead of {meaning}")
        return value

    def items(self, key: str) -> list[Any]:
        value = self.value[key]
        if not isinstance(value, list):
            self.fail(key, f"is {_short(value)} instead of a list")
        return value


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."


def _parse(path: Path, document: Any) -> ShardIndex:
    if isinstance(document, dict) and document.get("format_version", 1) != FORMAT_VERSION:
        found = _short(document["format_version"])
        raise IntegrityError(
            f"{path}: format_version {found} is not known; this version reads {FORMAT_VERSION}"
        )
    fields = _Fields(path, "", document, tuple(ShardIndex.__dataclass_fields__))
    fields.text("kind", re.compile("text"), "'text'")
    vocab_size = fields.integer("vocab_size", 2, 2**31)
    dtype = fields.text("dtype", re.compile("uint16|uint32"), "'uint16' or 'uint32'")
    if dtype != token_dtype(vocab_size):
        fields.fail(
            "dtype",
            f"is {dtype!r}, but a vocabulary of {vocab_size} is stored as {token_dtype(vocab_size)!r}",
        )
    shards = tuple(
        _parse_shard(path, f"shards[{i}]", shard, ITEM_SIZES[dtype])
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
    )
    _check_sums(fields, index)
    return index


def _parse_shard(path: Path, where: str, value: Any, item_size: int) -> Shard:
    fields = _Fields(path, where, value, tuple(Shard.__dataclass_fields__))
    name = fields.text("name", SHARD_NAME, "a plain file name such as '000000-000.tar'")
    size = fields.integer("size", 1)
    blocks = tuple(
        _parse_block(path, f"{where}.blocks[{i}]", b) for i, b in enumerate(fields.items("blocks"))
    )
    for block in blocks:
        ends = (
            block.tokens_offset + block.tokens * item_size,
            block.docs_offset + block.docs * DOCS_ITEM_SIZE,
        )
        if max(ends) > size:
            fields.fail(
                "blocks", f"has block {block.key}, which ends at byte {max(ends)} of a shard of {size}"
            )
    if not blocks:
        fields.fail("blocks", "is empty")
    return Shard(name=name, size=size, sha256=fields.text("sha256", HEX_DIGEST, "a sha256"), blocks=blocks)


def _parse_block(path: Path, where: str, value: Any) -> Block:
    fields = _Fields(path, where, value, tuple(Block.__dataclass_fields__))
    return Block(
        key=fields.text("key", BLOCK_KEY, "a key such as '000000-000-000000'"),
        tokens_offset=fields.integer("tokens_offset", 512),
        tokens=fields.integer("tokens", 1),
        docs_offset=fields.integer("docs_offset", 512),
        docs=fields.integer("docs", 0),
    )


def _check_sums(fields: _Fields, index: ShardIndex) -> None:
    blocks = [block for shard in index.shards for block in shard.blocks]
    for key, found in (("tokens", sum(b.tokens for b in blocks)), ("documents", sum(b.docs for b in blocks))):
        if getattr(index, key) != found:
            fields.fail(key, f"is {getattr(index, key)}, but the blocks add up to {found}")
    for key, values in (("shard", [s.name for s in index.shards]), ("block", [b.key for b in blocks])):
        if len(set(values)) != len(values):
            fields.fail("shards", f"names a {key} twice")
    if content_fingerprint(_content(index)) != index.fingerprint:
        fields.fail("fingerprint", "does not fit the rest of the index")
