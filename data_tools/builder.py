"""Text to token shards: parallel, resumable, and the same bytes whatever the number of workers."""

import shutil
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.bad_records import BadRecord, write_skipped
from data_tools.blocks import BLOCK_TOKENS, PartitionWriter
from data_tools.divided import Divided, all_skipped
from data_tools.errors import UserError
from data_tools.index import Shard, ShardIndex, make_index, token_dtype, write_index
from data_tools.left_out import LeftOut
from data_tools.megatron_input import token_documents
from data_tools.partition import Partition, Unit, make_partitions
from data_tools.pool import Report
from data_tools.reader import ShardReader
from data_tools.records import LINE_BYTES, Document, ReadOptions, check_read_options, read_partition
from data_tools.sentences import SentenceMarks, sentences
from data_tools.sources import TOKENS, Inputs, find_inputs, is_remote, plan_of_inputs, refuse_inside_output
from data_tools.tokenizer import Tokenizer
from data_tools.typed import parse
from data_tools.workspace import PLAN_NAME, Workspace


@dataclass(frozen=True)
class BuildOptions:
    """The arguments of a build. `max_bad_records` 0 stops at the first one; `workers` 0 is one per core.

    end_of_document, encoding: as in `Tokenizer.load`. lossy: the tokenizer changes texts.
    """

    inputs: tuple[str, ...]
    tokenizer: str
    output: str
    workers: int = 0
    max_bad_records: int = 0
    text_key: str = "text"
    document: str = "file"
    line_bytes: int = LINE_BYTES
    input_format: str = "auto"
    block_tokens: int = BLOCK_TOKENS
    sentences: str = "none"
    restart: bool = False
    allow_left_out: bool = False
    end_of_document: str | None = None
    encoding: str | None = None
    lossy: bool = False


@dataclass(frozen=True)
class BuildReport:
    """What a build did. `resumed` counts partitions that an earlier, interrupted build had finished."""

    index: ShardIndex
    tokenizer: Tokenizer
    files: int
    left_out: LeftOut
    empty_documents: int
    skipped: tuple[BadRecord, ...]
    partitions: int
    resumed: int
    seconds: float


@dataclass(frozen=True)
class PartitionResult:
    """The result of one partition: its shards, counts and the records it skipped."""

    number: int
    shards: tuple[Shard, ...]
    documents: int
    empty_documents: int
    tokens: int
    bytes: int
    words: int
    skipped: tuple[BadRecord, ...]


@dataclass(frozen=True)
class PartitionJob:
    """Everything a worker needs to turn a partition into shards; called once per partition."""

    options: BuildOptions
    tokenizer: Tokenizer

    def __call__(self, partition: Partition, report: Report) -> PartitionResult:
        """Write the partition's shards and record it as finished; reports bytes of input processed."""
        options, workspace = self.options, Workspace(Path(self.options.output))
        size = (self.tokenizer.vocab_size, self.tokenizer.eod_id, options.block_tokens)
        keep = options.sentences != "none"
        writer = PartitionWriter(workspace.directory, workspace.work, partition.number, *size, sentences=keep)
        counts = _Counts()
        skipped: list[BadRecord] = []
        read, most = _read_options(options), options.max_bad_records
        for unit in partition.units:
            if unit.file.format == TOKENS:
                self._write_tokens(unit, writer, counts)
                report(unit.weight)
                continue
            alone = Partition(partition.number, (unit,))
            for document in read_partition(alone, read, most, skipped, lambda: counts.bytes, report):
                self._write(document, writer, counts)
        result = PartitionResult(partition.number, writer.close(), skipped=tuple(skipped), **asdict(counts))
        workspace.save(partition.number, result)
        return result

    def _write(self, document: Document, writer: PartitionWriter, counts: "_Counts") -> None:
        tokens, within_word = 0, False
        marks: SentenceMarks | None = None
        if self.options.sentences != "none":
            marks = SentenceMarks(sentences(document.parts, self.options.sentences), self.tokenizer)
        for segment in self.tokenizer.segments(document.parts if marks is None else marks):
            if not tokens:
                writer.start_document()
                writer.add(np.array(self.tokenizer.begin_ids, np.int32))
                tokens = len(self.tokenizer.begin_ids)
            ids = self.tokenizer.encode_segment(segment)
            writer.add(ids, None if marks is None else marks.within(segment, ids))
            tokens += len(ids)
            counts.bytes += len(segment) if segment.isascii() else len(segment.encode("utf-8"))
            counts.words += len(segment.split()) - int(within_word and not segment[0].isspace())
            within_word = not segment[-1].isspace()
        if not tokens:
            counts.empty_documents += 1
            return
        writer.end_document()
        counts.documents += 1
        counts.tokens += tokens + 1

    def _write_tokens(self, unit: Unit, writer: PartitionWriter, counts: "_Counts") -> None:
        for ids in token_documents(unit.file.url, unit.start, unit.stop, self.tokenizer):
            if not len(ids):
                counts.empty_documents += 1
                continue
            writer.start_document()
            writer.add(ids)
            writer.end_document()
            text = self.tokenizer.decode_bytes(ids.tolist(), begins=True)
            counts.documents += 1
            counts.tokens += len(ids) + 1
            counts.bytes += len(text)
            counts.words += len(text.decode("utf-8", "replace").split())


@dataclass
class _Counts:
    documents: int = 0
    empty_documents: int = 0
    tokens: int = 0
    bytes: int = 0
    words: int = 0


def build(options: BuildOptions) -> BuildReport:
    """Build a shard directory, or continue an interrupted build with the same arguments.

    Raises UserError for unusable input and for an output directory that holds something else.
    """
    start = time.monotonic()
    inputs, work, tokenizer = prepare(options)
    index, results, resumed = work.whole(
        lambda workspace, results: _finish(workspace, tokenizer, results),
        lambda directory: ShardReader(directory).index,
    )
    return BuildReport(
        index=index,
        tokenizer=tokenizer,
        files=len(inputs.files),
        left_out=inputs.left_out,
        empty_documents=sum(result.empty_documents for result in results),
        skipped=all_skipped(results),
        partitions=len(work.partitions),
        resumed=resumed,
        seconds=time.monotonic() - start,
    )


def prepare(options: BuildOptions) -> tuple[Inputs, Divided[PartitionResult], Tokenizer]:
    """The input files, the work on them, and the tokenizer.

    Raises UserError for unusable options and input.
    """
    _check_options(options)
    tokenizer = _open_tokenizer(options)
    inputs = find_inputs(list(options.inputs), options.input_format, options.allow_left_out, tokens=True)
    _check_documents(options, inputs)
    partitions, plan = make_partitions(inputs.files, options.document), _plan(options, inputs, tokenizer)
    work = Divided(
        options, partitions, plan, partial(parse, PartitionResult), PartitionJob(options, tokenizer)
    )
    return inputs, work, tokenizer


def _open_tokenizer(options: BuildOptions) -> Tokenizer:
    tokenizer = Tokenizer.load(
        options.tokenizer, end_of_document=options.end_of_document, encoding=options.encoding
    )
    if tokenizer.loss and not options.lossy:
        raise UserError(
            f"--tokenizer {options.tokenizer}: changes texts: {tokenizer.loss}; --lossy takes it, and the "
            "index says so"
        )
    if options.lossy and not tokenizer.loss:
        raise UserError(f"--lossy: has no effect: {options.tokenizer} gives every text back")
    return tokenizer


def _read_options(options: BuildOptions) -> ReadOptions:
    return ReadOptions(options.text_key, options.document, options.line_bytes)


def _check_options(options: BuildOptions) -> None:
    if options.block_tokens < 1024:
        raise UserError(
            f"--block-tokens {options.block_tokens}: at least 1024; the default is {BLOCK_TOKENS}"
        )
    if options.workers < 0 or options.max_bad_records < 0:
        raise UserError(
            f"--workers {options.workers}: at least 1" if options.workers < 0 else "skip:N needs N >= 0"
        )
    if is_remote(options.output):
        raise UserError(
            f"--output {options.output}: must be a local directory; training maps shards into memory"
        )


def _check_documents(options: BuildOptions, inputs: Inputs) -> None:
    """Refuse options that would have no effect, and inputs inside the output."""
    check_read_options(_read_options(options), inputs.files)
    formats = {file.format for file in inputs.files}
    if options.sentences == "lines" and options.document == "line" and formats == {"txt"}:
        raise UserError(
            "--sentences lines: with --document line every document is one sentence; documents that are "
            "separated by blank lines need --document blank-line"
        )
    if options.sentences != "none" and TOKENS in formats:
        raise UserError(f"--sentences {options.sentences}: has no effect on .bin, which holds tokens")
    refuse_inside_output(inputs.files, options.output)
    if options.workers > 1 and any(file.url.startswith("memory://") for file in inputs.files):
        raise UserError("--input memory://: exists in this process alone; use --workers 1")


def _plan(options: BuildOptions, inputs: Inputs, tokenizer: Tokenizer) -> dict[str, Any]:
    """What must be equal for a build to be continued.

    Neither the number of workers nor the bad-record limit changes the shards, so neither is part of it.
    """
    return {
        **plan_of_inputs(options.inputs, inputs.files),
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "text_key": options.text_key,
        "document": options.document,
        "input_format": options.input_format,
        "block_tokens": options.block_tokens,
        **({} if options.line_bytes == LINE_BYTES else {"line_bytes": options.line_bytes}),
        **({} if options.sentences == "none" else {"sentences": options.sentences}),
    }


def _finish(workspace: Workspace, tokenizer: Tokenizer, results: list[PartitionResult]) -> ShardIndex:
    """Write the files beside the shards; the index comes last and makes the directory readable."""
    directory = workspace.directory
    shards: list[Shard] = [shard for result in results for shard in result.shards]
    if not shards:
        workspace.remove()
        raise UserError("--input: there is no text in it, so there is nothing to build")
    shutil.rmtree(directory / "tokenizer", ignore_errors=True)  # left by a build that was killed here
    tokenizer.save(directory / "tokenizer")
    sentences = [block.sents for shard in shards for block in shard.blocks if block.sents is not None]
    index = make_index(
        dtype=token_dtype(tokenizer.vocab_size),
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        eod_id=tokenizer.eod_id,
        tokens=sum(result.tokens for result in results),
        documents=sum(result.documents for result in results),
        bytes=sum(result.bytes for result in results),
        words=sum(result.words for result in results),
        shards=tuple(shards),
        sentences=sum(sentences) if sentences else None,
        lossy=True if tokenizer.loss else None,
    )
    write_skipped(directory, all_skipped(results))
    shutil.copyfile(workspace.work / PLAN_NAME, directory / PLAN_NAME)
    write_index(directory, index)
    workspace.remove()
    return index
