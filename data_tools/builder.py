"""Text to token shards: parallel, interruptible, and the same bytes whatever the number of workers."""

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data_tools.bad_records import BadRecord, check_skipped, write_skipped
from data_tools.blocks import BLOCK_TOKENS, PartitionWriter
from data_tools.errors import UserError
from data_tools.index import Block, Shard, ShardIndex, make_index, token_dtype, write_index
from data_tools.left_out import LeftOut
from data_tools.partition import Partition, make_partitions
from data_tools.pool import Report, run_tasks
from data_tools.progress import Progress
from data_tools.reader import ShardReader
from data_tools.records import LINE_BYTES, Document, ReadOptions, check_read_options, read_documents
from data_tools.sentences import SentenceMarks, sentences
from data_tools.sources import Inputs, absolute, find_inputs, inputs_digest, is_remote, refuse_inside_output
from data_tools.tokenizer import Tokenizer, segments
from data_tools.workspace import PLAN_NAME, Workspace, open_workspace, unfinished

REPORT_BYTES = 1 << 16


@dataclass(frozen=True)
class BuildOptions:
    """The arguments of a build. `max_bad_records` 0 stops at the first; `workers` 0 is one per core."""

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


@dataclass(frozen=True)
class BuildReport:
    """What a build did. `resumed` counts partitions that an earlier, interrupted build had finished."""

    index: ShardIndex
    files: int
    left_out: LeftOut
    empty_documents: int
    skipped: tuple[BadRecord, ...]
    partitions: int
    resumed: int
    seconds: float

    @property
    def left_out_files(self) -> int:
        """Files of input folders that were not read."""
        return self.left_out.files


@dataclass(frozen=True)
class PartitionResult:
    """What one partition gave: its shards, counts and the records it skipped."""

    number: int
    shards: tuple[Shard, ...]
    documents: int
    empty_documents: int
    tokens: int
    bytes: int
    words: int
    skipped: tuple[BadRecord, ...]

    @classmethod
    def parse(cls, value: dict[str, Any]) -> "PartitionResult":
        """From the JSON of an earlier build; raises KeyError or TypeError if it is not one."""
        shards = tuple(
            Shard(s["name"], s["size"], s["sha256"], tuple(Block(**block) for block in s["blocks"]))
            for s in value["shards"]
        )
        skipped = tuple(BadRecord(**record) for record in value["skipped"])
        return cls(**{**value, "shards": shards, "skipped": skipped})


@dataclass(frozen=True)
class PartitionJob:
    """Everything a worker needs to turn a partition into shards; called once per partition."""

    directory: str
    tokenizer_path: str
    block_tokens: int
    max_bad_records: int
    options: ReadOptions
    sentences: str

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Loaded once in each process."""
        return Tokenizer.load(self.tokenizer_path)

    def __call__(self, partition: Partition, report: Report) -> PartitionResult:
        """Write the partition's shards and record it as finished; reports bytes of input done."""
        workspace = Workspace(Path(self.directory))
        size = (self.tokenizer.vocab_size, self.tokenizer.eod_id, self.block_tokens)
        keep = self.sentences != "none"
        writer = PartitionWriter(workspace.directory, workspace.work, partition.number, *size, sentences=keep)
        counts = _Counts()
        skipped: list[BadRecord] = []
        for unit in partition.units:
            reported, start = 0, counts.bytes
            for record in read_documents(unit, self.options):
                if isinstance(record, BadRecord):
                    skipped.append(record)
                    check_skipped(skipped, self.max_bad_records)
                    continue
                self._write(record, writer, counts)
                done = min(counts.bytes - start, unit.weight)
                if done - reported > REPORT_BYTES:
                    report(done - reported)
                    reported = done
            report(unit.weight - reported)
        result = PartitionResult(partition.number, writer.close(), skipped=tuple(skipped), **asdict(counts))
        workspace.save(partition.number, result)
        return result

    def _write(self, document: Document, writer: PartitionWriter, counts: "_Counts") -> None:
        tokens, within_word = 0, False
        marks: SentenceMarks | None = None
        if self.sentences != "none":
            marks = SentenceMarks(sentences(document.parts, self.sentences), self.tokenizer)
        for segment in segments(document.parts if marks is None else marks):
            if not tokens:
                writer.start_document()
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


@dataclass
class _Counts:
    documents: int = 0
    empty_documents: int = 0
    tokens: int = 0
    bytes: int = 0
    words: int = 0


def build(options: BuildOptions) -> BuildReport:
    """Build a shard directory, or continue an interrupted build of the same arguments.

    Raises UserError for input that cannot be used and for an output directory that holds something else.
    """
    start = time.monotonic()
    inputs, partitions, plan, tokenizer = prepare(options)
    try:
        index, results, resumed = _build(options, partitions, plan, tokenizer)
    except OSError as error:
        raise unfinished(options.output, error) from None
    return BuildReport(
        index=index,
        files=len(inputs.files),
        left_out=inputs.left_out,
        empty_documents=sum(result.empty_documents for result in results),
        skipped=tuple(record for result in results for record in result.skipped),
        partitions=len(partitions),
        resumed=resumed,
        seconds=time.monotonic() - start,
    )


def prepare(options: BuildOptions) -> tuple[Inputs, list[Partition], dict[str, Any], Tokenizer]:
    """The input files, their partitions, what must be equal for a build to go on, and the tokenizer.

    Raises UserError for options and input that cannot be used.
    """
    _check_options(options)
    tokenizer = Tokenizer.load(options.tokenizer)
    inputs = find_inputs(list(options.inputs), options.input_format, options.allow_left_out)
    _check_documents(options, inputs)
    return (
        inputs,
        make_partitions(inputs.files, options.document),
        _plan(options, inputs, tokenizer),
        tokenizer,
    )


def _build(
    options: BuildOptions, partitions: list[Partition], plan: dict[str, Any], tokenizer: Tokenizer
) -> tuple[ShardIndex, list[PartitionResult], int]:
    """The index, the results of all partitions, and how many of them were there before."""
    directory = Path(options.output)
    with open_workspace(directory, plan, options.restart) as workspace:
        if workspace is None:
            return ShardReader(directory).index, [], len(partitions)
        done = workspace.finished(len(partitions), PartitionResult.parse)
        workspace.clean(done)
        results = run_partitions(options, partitions, done)
        return _finish(workspace, tokenizer, results), results, len(done)


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
    check_read_options(ReadOptions(options.text_key, options.document, options.line_bytes), inputs.files)
    formats = {file.format for file in inputs.files}
    if options.sentences == "lines" and options.document == "line" and formats == {"txt"}:
        raise UserError(
            "--sentences lines: with --document line every document is one sentence; documents that are "
            "separated by blank lines need --document blank-line"
        )
    refuse_inside_output(inputs.files, options.output)
    if options.workers > 1 and any(file.url.startswith("memory://") for file in inputs.files):
        raise UserError("--input memory://: exists in this process alone; use --workers 1")


def _plan(options: BuildOptions, inputs: Inputs, tokenizer: Tokenizer) -> dict[str, Any]:
    """What must be equal for a build to be continued.

    Neither workers nor the bad-record limit changes the shards.
    """
    return {
        "inputs": [absolute(value) for value in options.inputs],
        "files": len(inputs.files),
        "file_bytes": sum(file.size for file in inputs.files),
        "inputs_sha256": inputs_digest(inputs.files),
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "text_key": options.text_key,
        "document": options.document,
        "input_format": options.input_format,
        "block_tokens": options.block_tokens,
        **({} if options.line_bytes == LINE_BYTES else {"line_bytes": options.line_bytes}),
        **({} if options.sentences == "none" else {"sentences": options.sentences}),
    }


def run_partitions(
    options: BuildOptions, partitions: list[Partition], done: Mapping[int, PartitionResult]
) -> list[PartitionResult]:
    """Do the partitions that are not done; all results in the order of the partitions."""
    read_options = ReadOptions(options.text_key, options.document, options.line_bytes)
    job = PartitionJob(
        options.output,
        options.tokenizer,
        options.block_tokens,
        options.max_bad_records,
        read_options,
        options.sentences,
    )
    results = dict(done)
    check_skipped(_skipped(results), options.max_bad_records)
    pending = [partition for partition in partitions if partition.number not in done]
    in_memory = any(unit.file.url.startswith("memory://") for part in pending for unit in part.units)
    workers = 1 if in_memory else options.workers or len(os.sched_getaffinity(0))
    with Progress("building shards", sum(partition.weight for partition in pending), "B") as progress:
        for result in run_tasks(job, pending, workers, progress.advance):
            results[result.number] = result
            check_skipped(_skipped(results), options.max_bad_records)
    return [results[partition.number] for partition in partitions]


def _skipped(results: dict[int, PartitionResult]) -> list[BadRecord]:
    return [record for number in sorted(results) for record in results[number].skipped]


def _count_sentences(shards: list[Shard]) -> int | None:
    counts = [block.sents for shard in shards for block in shard.blocks if block.sents is not None]
    return sum(counts) if counts else None


def _finish(workspace: Workspace, tokenizer: Tokenizer, results: list[PartitionResult]) -> ShardIndex:
    """Write what stands beside the shards; the index comes last and makes the directory readable."""
    directory = workspace.directory
    shards: list[Shard] = [shard for result in results for shard in result.shards]
    if not shards:
        workspace.remove()
        raise UserError("--input: there is no text in it, so there is nothing to build")
    shutil.rmtree(directory / "tokenizer", ignore_errors=True)  # of a build that was killed here
    tokenizer.save(directory / "tokenizer")
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
        sentences=_count_sentences(shards),
    )
    skipped = [record for result in results for record in result.skipped]
    write_skipped(directory, skipped)
    shutil.copyfile(workspace.work / PLAN_NAME, directory / PLAN_NAME)
    write_index(directory, index)
    workspace.remove()
    return index
