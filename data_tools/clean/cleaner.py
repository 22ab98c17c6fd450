"""Raw text to clean text: parallel, resumable, and the same bytes whatever the number of workers."""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from data_tools.atomic import write_atomically
from data_tools.clean.duplicates import PairJob, kept_documents, removals, slices, store_removals
from data_tools.clean.filtering import FilterJob, FilterResult, parse_result
from data_tools.clean.options import CleanOptions, check_options
from data_tools.clean.report import REPORT_NAME, CleanReport, read_report
from data_tools.clean.writing import WriteJob, WriteResult
from data_tools.divided import Divided, all_skipped, workers_of
from data_tools.index_file import WORK_DIR
from data_tools.left_out import LeftOut
from data_tools.partition import make_partitions
from data_tools.pool import run_tasks
from data_tools.progress import Progress
from data_tools.records import ReadOptions, check_read_options
from data_tools.sources import Inputs, find_inputs, plan_of_inputs, refuse_inside_output
from data_tools.typed import parse
from data_tools.workspace import PLAN_NAME, OutputLayout, Workspace, open_workspace, unfinished

INPUT_KEYS = ("inputs", "files", "file_bytes", "inputs_sha256")
LAYOUT = OutputLayout(REPORT_NAME, re.compile(r"\d{6}\.jsonl\.zst"), changeable=frozenset(INPUT_KEYS))


def clean(options: CleanOptions) -> CleanReport:
    """Clean text, or continue an interrupted cleaning with the same options.

    Partitions whose input has not changed are not processed again. Raises UserError for unusable input and
    for an output directory that holds something else.
    """
    inputs, work = prepare_clean(options)
    directory = work.output
    try:
        with open_workspace(directory, work.plan, options.restart, LAYOUT) as workspace:
            if workspace is None:
                return read_report(directory)
            done = workspace.finished(len(work.partitions), work.parse)
            filtered = work.run(work.partitions, done)
            written = _without_duplicates(options, workspace, filtered)
            report = _report(inputs.left_out, filtered, written)
            _finish(workspace, report)
            return report
    except OSError as error:
        raise unfinished(options.output, error) from None


def prepare_clean(options: CleanOptions) -> tuple[Inputs, Divided[FilterResult]]:
    """The input files, and the job that filters them; duplicates are searched once all partitions are
    filtered.

    Raises UserError for unusable options and input.
    """
    check_options(options)
    if options.language is not None:
        from data_tools.clean.judge import check_language

        check_language(options.language)
    inputs = find_inputs(list(options.inputs), options.input_format, options.allow_left_out)
    check_read_options(ReadOptions(options.text_key, options.document, options.line_bytes), inputs.files)
    refuse_inside_output(inputs.files, options.output)
    partitions = make_partitions(inputs.files, options.document)
    plan = {**plan_of_inputs(options.inputs, inputs.files), **options.plan()}
    parse = partial(parse_result, partitions)
    return inputs, Divided(options, partitions, plan, parse, FilterJob(options), "filtering", LAYOUT)


def _without_duplicates(
    options: CleanOptions, workspace: Workspace, filtered: Sequence[FilterResult]
) -> list[WriteResult]:
    """Find duplicates among all partitions and write what remains.

    Both stages write to a folder named after the content of all partitions: if one partition changes, they
    start over.
    """
    from data_tools.clean.keys import band_count

    directory, workers = workspace.directory, workers_of(options)
    content = json.dumps([[asdict(file) for file in result.shards] for result in filtered])
    stage = f"{WORK_DIR}/{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    (directory / stage).mkdir(exist_ok=True)
    parts = slices(band_count(options), kept_documents(filtered))
    with Progress("finding duplicates", len(parts), "ranges") as progress:
        job = PairJob(str(directory), stage, len(filtered))
        for _ in run_tasks(job, parts, workers, progress.advance):
            pass
    store_removals(directory, stage, removals(directory / stage, parts, options.exact))
    results = Workspace(directory, work=stage).finished(len(filtered), partial(parse, WriteResult))
    workspace.clean(results)
    pending = [number for number in range(len(filtered)) if number not in results]
    with Progress("writing", len(pending), "partitions") as progress:
        for result in run_tasks(WriteJob(str(directory), stage), pending, workers, progress.advance):
            results[result.number] = result
    return [results[number] for number in sorted(results)]


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
        skipped=all_skipped(filtered),
        partitions=len(filtered),
        left_out=left_out.kinds,
    )


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _finish(workspace: Workspace, report: CleanReport) -> None:
    """Write the files beside the texts, none of which a build would read; the report comes last."""
    directory = workspace.directory
    shutil.copyfile(workspace.work / PLAN_NAME, directory / PLAN_NAME)
    write_atomically(directory / REPORT_NAME, report.to_json())
    workspace.remove()
