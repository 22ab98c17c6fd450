"""The first stage: for each partition, the documents that pass the filters, and their keys."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.bad_records import BadRecord
from data_tools.clean.files import StoredFile, describe, store_array, store_lines
from data_tools.clean.options import CleanOptions
from data_tools.index_file import WORK_DIR
from data_tools.partition import Partition
from data_tools.pool import Report
from data_tools.records import Document, ReadOptions, read_partition
from data_tools.sources import absolute
from data_tools.typed import parse
from data_tools.workspace import Workspace

LONGEST = 4 << 20
"""Characters of a document; a longer one is removed, to bound memory."""


@dataclass(frozen=True)
class FilterResult:
    """What the filters kept of a partition; `shards` are the texts, their sizes and their keys."""

    number: int
    inputs: str
    """Digest of what the partition reads."""
    shards: tuple[StoredFile, ...]
    documents: int
    bytes: int
    empty: int
    removed: dict[str, int]
    """Documents by the reason for which they are removed."""
    lines: dict[str, int]
    """Lines that were taken out of documents that are kept, by reason."""
    skipped: tuple[BadRecord, ...]

    @property
    def kept(self) -> int:
        return self.documents - sum(self.removed.values())


def parse_result(partitions: Sequence[Partition], text: bytes) -> FilterResult:
    """The result of one of the partitions, from the JSON of an earlier run.

    Raises ValueError if it is malformed, or belongs to other input.
    """
    result = parse(FilterResult, text)
    if result.inputs != inputs_of(partitions[result.number]):
        raise ValueError("the input has changed")
    return result


def inputs_of(partition: Partition) -> str:
    """A sha256 that changes when what a partition reads does."""
    units = [replace(unit, file=replace(unit.file, url=absolute(unit.file.url))) for unit in partition.units]
    return hashlib.sha256(json.dumps([asdict(unit) for unit in units]).encode()).hexdigest()


def texts_name(number: int) -> str:
    """The file with the texts of a partition that passed the filters."""
    return f"{WORK_DIR}/{number:06d}.jsonl.zst"


def sizes_name(number: int) -> str:
    """The file with the size in bytes of each of them."""
    return f"{WORK_DIR}/{number:06d}.sizes.npy"


def keys_name(number: int) -> str:
    return f"{WORK_DIR}/{number:06d}.keys.npy"


@dataclass(frozen=True)
class FilterJob:
    """Filters a partition; a callable that can be sent to workers, called once per partition."""

    options: CleanOptions

    @cached_property
    def _tools(self) -> tuple[Any, Any]:
        """Judge and key maker, loaded once in each process: their libraries take a second to load."""
        from data_tools.clean.judge import Judge
        from data_tools.clean.keys import DocumentKeys

        return Judge(self.options), DocumentKeys(self.options, Path(self.options.output))

    def __call__(self, partition: Partition, report: Report) -> FilterResult:
        """Write what passes, and record the partition as finished; reports bytes of input processed."""
        workspace = Workspace(Path(self.options.output))
        tally = _Tally()
        most = self.options.max_bad_records
        read = ReadOptions(self.options.text_key, self.options.document, self.options.line_bytes)
        with store_lines(workspace.directory, texts_name(partition.number)) as lines:
            for document in read_partition(partition, read, most, tally.skipped, lambda: tally.bytes, report):
                self._document(document, tally, lines)
        result = self._finish(workspace, partition, tally)
        workspace.save(partition.number, result)
        return result

    def _document(self, document: Document, tally: "_Tally", lines: Any) -> None:
        judge, keys = self._tools
        text, size = _text(document)
        if not size:
            tally.empty += 1
            return
        tally.documents += 1
        tally.bytes += size
        if text is None:
            tally.removed[f"longer_than_{LONGEST}"] += 1
            return
        verdict = judge.verdict(text)
        if verdict.reason is not None:
            tally.removed[verdict.reason] += 1
            return
        tally.lines.update(verdict.lines)
        lines.write(json.dumps({"text": verdict.text}, ensure_ascii=False).encode() + b"\n")
        tally.sizes.append(len(verdict.text.encode()))
        tally.keys += keys.of(verdict.text)

    def _finish(self, workspace: Workspace, partition: Partition, tally: "_Tally") -> FilterResult:
        from data_tools.clean.keys import band_count, sorted_keys

        directory, number, bands = workspace.directory, partition.number, band_count(self.options)
        files = [describe(directory, texts_name(number))]
        files.append(store_array(directory, sizes_name(number), np.array(tally.sizes, np.uint64)))
        if bands:
            files.append(store_array(directory, keys_name(number), sorted_keys(tally.keys, bands)))
        return FilterResult(
            number,
            inputs_of(partition),
            tuple(files),
            tally.documents,
            tally.bytes,
            tally.empty,
            dict(sorted(tally.removed.items())),
            dict(sorted(tally.lines.items())),
            tuple(tally.skipped),
        )


class _Tally:
    """Counts of one partition, and the files that are stored when it is done."""

    def __init__(self) -> None:
        self.documents = self.bytes = self.empty = 0
        self.removed: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()
        self.skipped: list[BadRecord] = []
        self.sizes: list[int] = []
        self.keys = bytearray()


def _text(document: Document) -> tuple[str | None, int]:
    """A document's text and its bytes; no text if it is too long to keep in memory."""
    parts: list[str] = []
    characters = size = 0
    for part in document.parts:
        characters += len(part)
        size += len(part) if part.isascii() else len(part.encode())
        if characters <= LONGEST:
            parts.append(part)
        else:
            parts.clear()
    return ("".join(parts) if characters <= LONGEST else None), size
