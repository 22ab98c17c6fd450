"""Options of all commands that read text."""

import enum
from typing import Annotated

import typer


class DocumentKind(enum.StrEnum):
    """What a document is in a .txt file."""

    file = "file"
    line = "line"
    blank_line = "blank-line"


class InputFormat(enum.StrEnum):
    """How to read input files."""

    auto = "auto"
    txt = "txt"
    jsonl = "jsonl"
    parquet = "parquet"


INPUT = typer.Option(
    "--input",
    "-i",
    help="File, folder, glob or fsspec URL; repeatable. .txt .parquet, JSON lines, .gz .zst, Megatron's .bin",
)
InputOption = Annotated[list[str], INPUT]
TextKeyOption = Annotated[str, typer.Option(help="Key (.jsonl) or column (.parquet) that holds the text.")]
DocumentOption = Annotated[
    DocumentKind,
    typer.Option(help="What a document is in .txt: the file, a line, or lines up to a blank one."),
]
LineBytesOption = Annotated[
    int, typer.Option(min=1, help="Most bytes of a line, a paragraph or the text of a row.")
]
FormatOption = Annotated[InputFormat, typer.Option(help="Read every file as this, whatever its ending.")]
