"""Text to clean text: parallel, interruptible, and the same bytes whatever the number of workers."""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_tools.bad_records import BadRecord, check_skipped
from data_tools.clean.duplicates import PairJob, kept_documents, removals, slices, store_removals
from data_tools.clean.filtering import FilterJob, FilterResult, parse_result
from data_tools.clean.options import CleanOptions, check_options
from data_tools.clean.report import REPORT_NAME, CleanReport, read_report
from data_tools.clean.writing import WriteJob, WriteResult, Written, parse_written
from data_tools.index_file import WORK_DIR, write_atomically
from data_tools.left_out import LeftOut
from data_tools.partition import Partition, make_partitions
from data_tools.pool import run_tasks
from data_tools.progress import Progress
from data_tools.records import ReadOptions, check_read_options
from data_tools.sources import Inputs, absolute, find_inputs, inputs_digest, refuse_inside_output
from data_tools.workspace import PLAN_NAME, Layout, Workspace, open_workspace, unfinished

INPUT_KEYS = ("inputs", "files", "file_bytes", "inputs_sha256")
LAYOUT = Layout(REPORT_NAME, re.compile(r"\d{6}\.jsonl\.zst"), changeable=frozenset(INPUT_KEYS))


def clean(options: CleanOptions) -> CleanReport:
    """Clean text, or continue an interrupted cleaning with the same options.

    Partitions whose input is as it was are not done again. Raises UserError for input that cannot be used
    and for an output directory that holds something else.
    """
    inputs, partitions, plan = prepare_clean(options)
    directory = Path(options.output)
    try:
        with open_workspace(directory, plan, options.restart, LAYOUT) as workspace:
            if workspace is None:
                return read_report(directory)
            done = workspace.finished(len(partitions), parser(partitions))
            filtered = run_filters(options, partitions, done)
            written = _without_duplicates(options, workspace, filtered)
            report = _report(inputs.left_out, filtered, written)
            _finish(workspace, report)
            return report
    except OSError as error:
        raise unfinished(options.output, error) from None


def prepare_clean(options: CleanOptions) -> tuple[Inputs, list[Partition], dict[str, Any]]:
    """The input files, their partitions, and what must be equal for a cleaning to go on.

    Raises UserError for options and input that cannot be used.
    """
    check_options(options)
    inputs = find_inputs(list(options.inputs), options.input_format, options.allow_left_out)
    check_read_options(ReadOptions(options.text_key, options.document, options.line_bytes), inputs.files)
    refuse_inside_output(inputs.files, options.output)
    of_inputs = (
        [absolute(value) for value in options.inputs],
        len(inputs.files),
        sum(file.size for file in inputs.files),
        inputs_digest(inputs.files),
    )
    plan = {**dict(zip(INPUT_KEYS, of_inputs, strict=True)), **options.plan()}
    return inputs, make_partitions(inputs.files, options.document), plan


def parser(partitions: Sequence[Partition]) -> Any:
    """Makes the result of a partition from its JSON; as `parse_result` for one of another input."""
    return lambda value: parse_result(value, partitions[value["number"]])


def run_filters(
    options: CleanOptions, partitions: Sequence[Partition], done: Mapping[int, FilterResult]
) -> list[FilterResult]:
    """Filter the partitions that are not done; all results in the order of the partitions."""
    results = dict(done)
    pending = [partition for partition in partitions if partition.number not in done]
    check_skipped(_skipped(results), options.max_bad_records)
    with Progress("filtering", sum(partition.weight for partition in pending), "B") as progress:
        for result in run_tasks(FilterJob(options), pending, workers_of(options, pending), progress.advance):
            results[result.number] = result
            check_skipped(_skipped(results), options.max_bad_records)
    return [results[partition.number] for partition in partitions]


def workers_of(options: CleanOptions, pending: Sequence[Partition]) -> int:
    """Processes; one for inputs that exist in this process alone."""
    in_memory = any(unit.file.url.startswith("memory://") for part in pending for unit in part.units)
    return 1 if in_memory else options.workers or len(os.sched_getaffinity(0))


def _skipped(results: Mapping[int, FilterResult]) -> list[BadRecord]:
    return [record for number in sorted(results) for record in results[number].skipped]


def _without_duplicates(
    options: CleanOptions, workspace: Workspace, filtered: Sequence[FilterResult]
) -> list[WriteResult]:
    """Find duplicates among all partitions and write what is left.

    What both do lies in a folder named by the content of all partitions: a change of one begins it anew.
    """
    from data_tools.clean.keys import band_count

    directory, workers = workspace.directory, options.workers or len(os.sched_getaffinity(0))
    stage = f"{WORK_DIR}/{_digest(filtered)}"
    (directory / stage).mkdir(exist_ok=True)
    parts = slices(band_count(options), kept_documents(filtered))
    with Progress("finding duplicates", len(parts), "ranges") as progress:
        job = PairJob(str(directory), stage, len(filtered))
        for _ in run_tasks(job, parts, workers, progress.advance):
            pass
    store_removals(directory, stage, removals(directory / stage, parts, options.exact))
    results = Written(directory, stage).finished(len(filtered), parse_written)
    workspace.clean(results)
    pending = [number for number in range(len(filtered)) if number not in results]
    with Progress("writing", len(pending), "partitions") as progress:
        for result in run_tasks(WriteJob(str(directory), stage), pending, workers, progress.advance):
            results[result.number] = result
    return [results[number] for number in sorted(results)]


def _digest(filtered: Sequence[FilterResult]) -> str:
    content = [[asdict(file) for file in result.shards] for result in filtered]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _report(
    left_out: LeftOut, filtered: Sequence[FilterResult], written: Sequence[WriteResult]
) -> CleanReport:
    removed: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for result in filtered:
        removed.update(result.removed)
        lines.update(result.lines)
    return CleanReport(
        documents=sum(result.documents for result in filtered),
        bytes=sum(result.bytes for result in filtered),
        kept_documents=sum(result.documents for result in written),
        kept_bytes=sum(result.bytes for result in written),
        removed=_most_first(removed),
        lines=_most_first(lines),
        exact_duplicates=sum(result.exact for result in written),
        near_duplicates=sum(result.near for result in written),
        empty_documents=sum(result.empty for result in filtered),
        skipped=tuple(record for result in filtered for record in result.skipped),
        partitions=len(filtered),
        left_out=left_out.kinds,
    )


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _finish(workspace: Workspace, report: CleanReport) -> None:
    """Write what stands beside the texts, none of it what a build would read; the report comes last."""
    directory = workspace.directory
    shutil.copyfile(workspace.work / PLAN_NAME, directory / PLAN_NAME)
    write_atomically(directory / REPORT_NAME, report.to_json())
    workspace.remove()
