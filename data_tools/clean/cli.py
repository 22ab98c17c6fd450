"""The command `pretrain data clean`; heavy imports wait until it runs."""

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_tools.bad_records import BadRecordsOption, parse_bad_records, print_skipped
from data_tools.counts import counted
from data_tools.errors import UserError
from data_tools.options import (
    AllowLeftOutOption,
    DocumentOption,
    FormatOption,
    LineBytesOption,
    OutputOption,
    PartOption,
    RestartOption,
    TextInputOption,
    TextKeyOption,
    WorkersOption,
    print_left_out,
    whole_or_part,
)
from data_tools.records import LINE_BYTES

if TYPE_CHECKING:
    from data_tools.clean.report import CleanReport


class Quality(enum.StrEnum):
    """Sets of rules for the quality of a text. (Typer takes no list of a Literal.)"""

    c4 = "c4"
    gopher = "gopher"
    repetition = "repetition"
    fineweb = "fineweb"
    none = "none"


def clean(
    inputs: TextInputOption,
    output: OutputOption,
    workers: WorkersOption = None,
    quality: Annotated[
        list[Quality] | None,
        typer.Option(help="Rules that a text must pass; may be repeated. Default: gopher and repetition."),
    ] = None,
    min_words: Annotated[int, typer.Option(help="Fewest words (gopher).")] = 50,
    max_words: Annotated[int, typer.Option(help="Most words (gopher).")] = 100_000,
    min_line_words: Annotated[int, typer.Option(help="Fewest words of a line (c4).")] = 5,
    min_sentences: Annotated[int, typer.Option(help="Fewest sentences of what is left (c4).")] = 3,
    language: Annotated[
        str | None, typer.Option(metavar="CODE", help="Keep this language, as in en.")
    ] = None,
    language_share: Annotated[float, typer.Option(help="Least probability of the language.")] = 0.65,
    exact: Annotated[bool, typer.Option(help="Remove copies.")] = True,
    near: Annotated[bool, typer.Option(help="Remove what is much like another text (MinHash).")] = True,
    bands: Annotated[int, typer.Option(help="MinHash bands; more find texts that are less alike.")] = 14,
    rows: Annotated[int, typer.Option(help="Hashes of a band; fewer find texts that are less alike.")] = 8,
    bad_records: BadRecordsOption = "stop",
    text_key: TextKeyOption = "text",
    document: DocumentOption = "file",
    line_bytes: LineBytesOption = LINE_BYTES,
    input_format: FormatOption = "auto",
    restart: RestartOption = False,
    allow_left_out: AllowLeftOutOption = False,
    part: PartOption = None,
) -> None:
    """Remove poor and duplicate texts; interrupted, the same command goes on where it was."""
    from data_tools.clean.cleaner import clean as run_clean
    from data_tools.clean.options import CleanOptions

    options = CleanOptions(
        inputs=tuple(inputs),
        output=str(output),
        workers=workers or 0,
        max_bad_records=parse_bad_records(bad_records),
        text_key=text_key,
        document=document,
        line_bytes=line_bytes,
        input_format=input_format,
        quality=_names(quality),
        min_words=min_words,
        max_words=max_words,
        min_line_words=min_line_words,
        min_sentences=min_sentences,
        language=language,
        language_share=language_share,
        exact=exact,
        near=near,
        bands=bands,
        rows=rows,
        restart=restart,
        allow_left_out=allow_left_out,
    )
    report = whole_or_part(options, run_clean, part)
    if report is not None:
        _print_report(output, report)


def _print_report(output: Path, report: "CleanReport") -> None:
    from rich.console import Console

    from data_tools.clean.report import REPORT_NAME, table
    from data_tools.left_out import LeftOut

    Console().print(table(report, str(output)))
    if report.empty_documents:
        typer.echo(f"{counted(report.empty_documents, 'empty document')} left out")
    print_left_out(LeftOut(report.left_out))
    if not report.kept_documents:
        typer.echo(f"{output}: no document is left")
    print_skipped(report.skipped, output / REPORT_NAME)


def _names(quality: list[Quality] | None) -> tuple[str, ...]:
    """The names of the rules. Raises UserError for `none` together with others."""
    if quality is None:
        return ("gopher", "repetition")
    if Quality.none in quality and len(set(quality)) > 1:
        raise UserError("--quality none: has no effect beside others; remove one of them")
    return tuple(name.value for name in quality if name is not Quality.none)
