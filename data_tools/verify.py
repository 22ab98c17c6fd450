"""Reads a whole shard directory and lists everything that is wrong with it."""

import contextlib
import hashlib
import io
import mmap
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np

from data_tools.cache import ShardCache
from data_tools.counts import counted
from data_tools.directory import ShardDirectory, open_directory
from data_tools.errors import IntegrityError, UserError
from data_tools.index import Block, Shard, ShardIndex, read_index
from data_tools.index_file import ShardFile
from data_tools.pool import Report, run_tasks
from data_tools.progress import Progress
from data_tools.reader import own_tokenizer
from data_tools.sources import is_remote

HASH_CHUNK = 4 << 20
MOST_FAULTS_PER_SHARD = 20


@dataclass(frozen=True)
class ShardVerdict:
    """What was found in one shard; the two flags connect it to its neighbours."""

    number: int
    faults: tuple[str, ...]
    starts_document: bool = True
    ends_document: bool = True


@dataclass(frozen=True)
class VerifyReport:
    """What a directory holds, and all its faults, each naming the shard; no faults means that it is good."""

    counts: str
    faults: tuple[str, ...]


def verify(directory: str, workers: int = 1, cache: ShardCache | None = None) -> VerifyReport:
    """Check every checksum and every block of a shard directory; one by URL is read through a `cache`.

    Raises UserError or IntegrityError only if the index itself cannot be read; everything else is listed in
    the report.
    """
    opened = open_directory(directory, cache)
    index = read_index(opened.local, opened.named)
    verdicts = verify_shards(_VerifyShard(opened), index.shards, workers)
    faults = _directory_faults(opened, index)
    before = True
    for number, verdict in enumerate(verdicts):
        faults += [f"{index.shards[number].name}: {fault}" for fault in verdict.faults]
        if not verdict.faults and before != verdict.starts_document:
            what = "does not begin with a document" if before else "begins a document within another"
            faults.append(f"{index.shards[number].name}: {what}")
        before = verdict.ends_document
    if not before:
        faults.append(f"{index.shards[-1].name}: the last document has no end")
    counts = (
        f"{counted(len(index.shards), 'shard')}, {counted(index.tokens, 'token')}, "
        f"{counted(index.documents, 'document')}"
    )
    return VerifyReport(counts, tuple(faults))


def verify_shards(
    verify_one: Callable[[int, Report], ShardVerdict], shards: Sequence[ShardFile], workers: int
) -> list[ShardVerdict]:
    """The verdicts on all shards, in order; `verify_one` can be sent to workers."""
    numbers = list(range(len(shards)))
    with Progress("verifying shards", sum(shard.size for shard in shards), "B") as progress:
        verdicts = run_tasks(verify_one, numbers, workers, progress.advance)
        return sorted(verdicts, key=lambda verdict: verdict.number)


def _directory_faults(directory: ShardDirectory, index: ShardIndex) -> list[str]:
    """Shards that are not in the index, and a tokenizer that does not match."""
    faults = foreign_shards(directory, index.shards)
    try:
        own_tokenizer(directory, index)
    except IntegrityError as error:
        faults.append(f"tokenizer: {error}")
    return faults


def foreign_shards(directory: ShardDirectory, shards: Sequence[ShardFile]) -> list[str]:
    """A fault for each tar of a local directory that is not in the index; a URL has no list of files."""
    if is_remote(directory.named):
        return []
    known = {shard.name for shard in shards}
    foreign = sorted(path.name for path in directory.local.glob("*.tar") if path.name not in known)
    return [f"{name}: not in the index (a shard of another build?)" for name in foreign]


def few(faults: Sequence[str]) -> tuple[str, ...]:
    """The first faults of a shard, and how many more there are."""
    if len(faults) <= MOST_FAULTS_PER_SHARD:
        return tuple(faults)
    return (*faults[:MOST_FAULTS_PER_SHARD], f"{len(faults) - MOST_FAULTS_PER_SHARD} more faults")


@dataclass(frozen=True)
class _VerifyShard:
    """Verifies a shard by number; a callable that can be sent to workers."""

    directory: ShardDirectory

    def __call__(self, number: int, report: Report) -> ShardVerdict:
        index = read_index(self.directory.local)
        shard = index.shards[number]
        faults: list[str] = []
        starts = ends = True
        with gathered(faults, self.directory, shard), self.directory.store.open(shard) as file:
            faults += checksum_faults(file, shard, report)
            block_faults, starts, ends = _content_faults(file, shard, index)
            faults += block_faults
        return ShardVerdict(number, few(faults), starts, ends)


@contextlib.contextmanager
def gathered(faults: list[str], directory: ShardDirectory, shard: ShardFile) -> Iterator[None]:
    """Add read errors of a shard to its faults, without the shard's name."""
    try:
        yield
    except (UserError, IntegrityError) as error:
        faults.append(str(error).removeprefix(f"{directory.store.location(shard)}: "))
    except (OSError, tarfile.TarError) as error:
        faults.append(f"cannot be read as a tar: {error}")


def checksum_faults(file: BinaryIO, shard: ShardFile, report: Report) -> list[str]:
    """A fault if the bytes of a shard differ from the index; reports bytes read."""
    digest = hashlib.sha256()
    while chunk := file.read(HASH_CHUNK):
        digest.update(chunk)
        report(len(chunk))
    if digest.hexdigest() == shard.sha256:
        return []
    return [
        f"its bytes have changed: sha256 {digest.hexdigest()[:16]}, the index expects {shard.sha256[:16]}"
    ]


def _content_faults(file: BinaryIO, shard: Shard, index: ShardIndex) -> tuple[list[str], bool, bool]:
    """Faults of the blocks, whether the shard begins with a document, and whether it ends with the end of
    one."""
    faults: list[str] = []
    starts = ends = True
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        offsets = member_places(file, [f"{b.key}.{part}.npy" for b in shard.blocks for part in _parts(b)])
        for number, block in enumerate(shard.blocks):
            try:
                tokens = _array(
                    view, offsets, f"{block.key}.tokens.npy", block.tokens_offset, block.tokens, index.dtype
                )
                docs = _array(view, offsets, f"{block.key}.docs.npy", block.docs_offset, block.docs, "int64")
                faults += _sentence_faults(view, offsets, block, tokens, docs, index.eod_id)
            except ValueError as error:
                faults.append(f"block {block.key}: {error}")
                continue
            if number == 0:
                starts = ends = bool(len(docs) and docs[0] == 0)
            faults += [
                f"block {block.key}: {fault}" for fault in _block_faults(block, tokens, docs, index, ends)
            ]
            ends = bool(tokens[-1] == index.eod_id)
    return faults, starts, ends


def _parts(block: Block) -> tuple[str, ...]:
    return ("docs", "tokens") if block.sents is None else ("docs", "sents", "tokens")


def member_places(file: BinaryIO, expected: list[str]) -> dict[str, tuple[int, int]]:
    """Offset and size of each member's data. Raises IntegrityError for members that differ from the index."""
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        members = tar.getmembers()
    for member in members:
        if not member.isreg():
            raise IntegrityError(f"member {member.name!r} is a link, a folder or a device, not a plain file")
    names = [member.name for member in members]
    if names != expected:
        odd = sorted(set(names) ^ set(expected))[:3] or ["their order"]
        raise IntegrityError(f"its members are not those of the index: {', '.join(odd)}")
    return {member.name: (member.offset_data, member.size) for member in members}


def _array(
    view: mmap.mmap, offsets: dict[str, tuple[int, int]], name: str, data_offset: int, count: int, dtype: str
) -> "np.ndarray[Any, np.dtype[Any]]":
    """Copy an .npy member out of the tar. Raises ValueError if its header differs from the index."""
    offset, size = offsets[name]
    header = io.BytesIO(view[offset : offset + min(size, 4096)])
    try:
        if np.lib.format.read_magic(header) != (1, 0):
            raise ValueError(f"{name} is not an .npy file of version 1.0")
        shape, _, found = np.lib.format.read_array_header_1_0(header)
    except Exception as error:  # numpy parses the header with Python's tokenizer, and raises its errors
        raise ValueError(f"{name} has a damaged header: {' '.join(str(error).split())[:200]}") from None
    expected = np.dtype(dtype).newbyteorder("<")
    if shape != (count,) or found != expected:
        raise ValueError(f"{name} holds {found} {shape}, the index expects {expected} ({count},)")
    if offset + header.tell() != data_offset or header.tell() + count * expected.itemsize != size:
        raise ValueError(f"{name} lies at byte {offset + header.tell()}, the index expects {data_offset}")
    data = view[data_offset : data_offset + count * expected.itemsize]
    return cast("np.ndarray[Any, np.dtype[Any]]", np.frombuffer(data, expected))


def _block_faults(
    block: Block,
    tokens: "np.ndarray[Any, np.dtype[Any]]",
    docs: "np.ndarray[Any, np.dtype[Any]]",
    index: ShardIndex,
    ended_before: bool,
) -> list[str]:
    """Faults of one block; `ended_before` says whether the token before it ends a document."""
    faults = []
    beyond = np.flatnonzero(tokens >= index.vocab_size)
    if len(beyond):
        first = int(beyond[0])
        what = f"token {first} is {int(tokens[first])}, outside the vocabulary of {index.vocab_size}"
        faults.append(what + (f" (and {len(beyond) - 1} more)" if len(beyond) > 1 else ""))
    if len(docs) and (docs[0] < 0 or docs[-1] >= block.tokens or np.any(np.diff(docs) <= 0)):
        return [*faults, "document starts are not ascending positions within the block"]
    expected = np.flatnonzero(tokens[:-1] == index.eod_id) + 1
    if ended_before:
        expected = np.concatenate([[0], expected])
    wrong = np.setxor1d(expected, docs)
    if len(wrong):
        faults.append(f"a document start and the end of the one before disagree at token {int(wrong[0])}")
    return faults


def _sentence_faults(
    view: mmap.mmap,
    offsets: dict[str, tuple[int, int]],
    block: Block,
    tokens: "np.ndarray[Any, np.dtype[Any]]",
    docs: "np.ndarray[Any, np.dtype[Any]]",
    eod_id: int,
) -> list[str]:
    """Faults of the sentence starts, if the block has them. Raises ValueError as `_array` does."""
    if block.sents is None or block.sents_offset is None:
        return []
    sents = _array(view, offsets, f"{block.key}.sents.npy", block.sents_offset, block.sents, "int64")
    where = f"block {block.key}:"
    if len(sents) and (sents[0] < 0 or sents[-1] >= block.tokens or np.any(np.diff(sents) <= 0)):
        return [f"{where} sentence starts are not ascending positions within the block"]
    without = np.setdiff1d(docs, sents)
    if len(without):
        return [f"{where} no sentence begins with the document at token {int(without[0])}"]
    empty = sents[tokens[sents] == eod_id]
    if len(empty):
        return [f"{where} a sentence begins with the end of a document at token {int(empty[0])}"]
    return []
