"""Options that several commands share, and how those that write a directory end."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from data_tools.counts import counted
from data_tools.errors import UserError

if TYPE_CHECKING:
    from data_tools.left_out import LeftOut
    from data_tools.parts import Options

Given = TypeVar("Given", bound="Options")
Report = TypeVar("Report")

INPUT = typer.Option(
    "--input",
    "-i",
    help="File, folder, glob or fsspec URL; repeatable. .txt .parquet, JSON lines, .gz .zst, Megatron's .bin",
)
TextInputOption = Annotated[list[str], INPUT]
TextKeyOption = Annotated[str, typer.Option(help="Key (.jsonl) or column (.parquet) that holds the text.")]
DocumentOption = Annotated[
    Literal["file", "line", "blank-line"],
    typer.Option(help="What a document is in .txt: the file, a line, or lines up to a blank one."),
]
LineBytesOption = Annotated[
    int, typer.Option(min=1, help="Most bytes of a line, a paragraph or the text of a row.")
]
FormatOption = Annotated[
    Literal["auto", "txt", "jsonl", "parquet"],
    typer.Option(help="Read every file as this, whatever its ending."),
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="New or empty directory.")]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core.")]
RestartOption = Annotated[
    bool, typer.Option("--restart", help="Throw away what is unfinished and had other arguments.")
]
AllowLeftOutOption = Annotated[
    bool,
    typer.Option("--allow-left-out", help="Go on where more bytes of the input are left out than read."),
]
PartOption = Annotated[
    str | None,
    typer.Option(metavar="K/N", help="Only part K of N, as `pretrain submit` has prepared it."),
]


def whole_or_part(options: Given, whole: Callable[[Given], Report], part: str | None) -> Report | None:
    """The report of a whole build; None after part K/N of one, which prints its own result.

    Raises UserError as the build does, and when it is interrupted.
    """
    try:
        if part is None:
            return whole(options)
        from data_tools.parts import build_part, divide, parse_part

        which = parse_part(part, restart=options.restart)
        count, before = build_part(divide(options), *which)
    except KeyboardInterrupt:
        raise UserError("interrupted; run the same command again to go on") from None
    typer.echo(f"{options.output}: part {part}: {count} partitions, {before} of them done before")
    return None


def print_left_out(left_out: "LeftOut", where: str = "input folders") -> None:
    """Print what was found there and not read."""
    if left_out.files:
        typer.echo(f"{counted(left_out.files, 'file')} in {where} left out: {left_out}")
