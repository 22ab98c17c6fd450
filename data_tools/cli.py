"""The commands `pretrain data ...`; heavy imports wait until a command runs."""

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_tools.errors import IntegrityError, UserError

if TYPE_CHECKING:
    from data_tools.builder import BuildReport

app = typer.Typer(no_args_is_help=True, help="Text to tokenizer to token shards.")


class ModelType(enum.StrEnum):
    """Kinds of tokenizer."""

    bpe = "bpe"
    unigram = "unigram"
    char = "char"
    byte = "byte"


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


class Corpus(enum.StrEnum):
    """Text that every Python carries."""

    stdlib = "stdlib"
    language_reference = "language-reference"


INPUT = typer.Option(
    "--input", "-i", help="File, folder, glob or fsspec URL; may be repeated. .txt .jsonl .parquet, .gz .zst"
)
InputOption = Annotated[list[str], INPUT]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="New or empty directory.")]
TextKeyOption = Annotated[str, typer.Option(help="Key (.jsonl) or column (.parquet) that holds the text.")]
DocumentOption = Annotated[
    DocumentKind,
    typer.Option(help="What a document is in .txt: the file, a line, or lines up to a blank one."),
]
FormatOption = Annotated[InputFormat, typer.Option(help="Read every file as this, whatever its ending.")]
DirectoryArgument = Annotated[str, typer.Argument(metavar="DIR", help="Shard directory.")]


@app.command()
def tokenizer(
    output: OutputOption,
    inputs: Annotated[list[str] | None, INPUT] = None,
    model_type: Annotated[ModelType, typer.Option(help="Kind of tokenizer.")] = ModelType.bpe,
    vocab_size: Annotated[
        int | None, typer.Option(help="All ids, with the 256 bytes and 2 specials; char and byte need none.")
    ] = None,
    text_key: TextKeyOption = "text",
    document: DocumentOption = DocumentKind.file,
    input_format: FormatOption = InputFormat.auto,
) -> None:
    """Train a tokenizer that gives every text back byte for byte."""
    from data_tools.records import ReadOptions
    from data_tools.train_tokenizer import train_tokenizer, training_texts

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output}: exists; give a new or empty directory")
    if not inputs and model_type is not ModelType.byte:
        raise UserError("--input: give at least one file to train on")
    if inputs and model_type is ModelType.byte:
        raise UserError("--input: a byte tokenizer is not trained; leave it out")
    texts = training_texts(inputs or [], ReadOptions(text_key, document.value), input_format.value)
    trained = train_tokenizer(texts, model_type.value, vocab_size)
    try:
        trained.save(output)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written: {error.strerror}") from None
    typer.echo(
        f"{output}: {trained.model_type} tokenizer of {trained.vocab_size:,} ids, {trained.fingerprint[:16]}"
    )


@app.command()
def build(
    inputs: InputOption,
    output: OutputOption,
    tokenizer: Annotated[str, typer.Option("--tokenizer", "-t", help="Tokenizer directory.")],
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core.")] = None,
    bad_records: Annotated[
        str, typer.Option(metavar="stop|skip:N", help="At a bad record, stop or skip up to N.")
    ] = "stop",
    text_key: TextKeyOption = "text",
    document: DocumentOption = DocumentKind.file,
    input_format: FormatOption = InputFormat.auto,
    block_tokens: Annotated[int, typer.Option(help="Tokens per WebDataset sample.")] = 1 << 20,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away an unfinished build of other arguments.")
    ] = False,
) -> None:
    """Turn text into token shards; interrupted, the same command goes on where it was."""
    from data_tools.builder import BuildOptions
    from data_tools.builder import build as run_build

    options = BuildOptions(
        inputs=tuple(inputs),
        tokenizer=tokenizer,
        output=str(output),
        workers=workers or 0,
        max_bad_records=parse_bad_records(bad_records),
        text_key=text_key,
        document=document.value,
        input_format=input_format.value,
        block_tokens=block_tokens,
        restart=restart,
    )
    try:
        report = run_build(options)
    except KeyboardInterrupt:
        raise UserError("interrupted; run the same command again to go on") from None
    _print_report(output, report)


def parse_bad_records(value: str) -> int:
    """The number of bad records to skip. Raises UserError for anything but "stop" or "skip:N"."""
    if value == "stop":
        return 0
    kind, _, count = value.partition(":")
    if kind != "skip" or not count.isascii() or not count.isdigit() or int(count) == 0:
        raise UserError(f"--bad-records {value}: 'stop' or 'skip:N' with N of at least 1, as in skip:100")
    return int(count)


def _print_report(output: Path, report: "BuildReport") -> None:
    index = report.index
    typer.echo(
        f"{output}: {index.documents:,} documents, {index.tokens:,} tokens, "
        f"{index.bytes / index.tokens:.3f} bytes per token, {len(index.shards)} shards, "
        f"{report.seconds:.1f} s"
    )
    if report.resumed:
        typer.echo(f"{report.resumed} of {report.partitions} partitions were done before")
    if report.empty_documents:
        typer.echo(f"{report.empty_documents:,} empty documents left out")
    if report.left_out_files:
        typer.echo(f"{report.left_out_files:,} files in input folders left out for their ending")
    if report.skipped:
        typer.echo(f"{len(report.skipped):,} bad records skipped (all in {output}/skipped.jsonl):")
        for record in report.skipped[:10]:
            typer.echo(f"  {record}")


@app.command()
def inspect(
    directory: DirectoryArgument,
    documents: Annotated[int, typer.Option(min=1, help="How many documents to show.")] = 5,
) -> None:
    """Show what a shard directory holds."""
    from rich.console import Console

    from data_tools.show import describe

    Console().print(describe(directory, documents))


@app.command()
def verify(
    directory: DirectoryArgument,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Read everything and list every fault; exit code 3 if there is one."""
    from data_tools.verify import verify as run_verify

    report = run_verify(directory, workers)
    index = report.index
    if report.faults:
        lines = "\n".join(f"  {fault}" for fault in report.faults)
        count = f"{len(report.faults)} fault{'s' * (len(report.faults) > 1)}"
        raise IntegrityError(f"{directory}: {count}\n{lines}")
    counts = f"{len(index.shards)} shards, {index.tokens:,} tokens, {index.documents:,} documents"
    typer.echo(f"{directory}: good; {counts}")


@app.command()
def embedded(
    corpus: Annotated[
        Corpus, typer.Option(help="Python's standard library, or its language reference (English).")
    ],
    output: OutputOption,
) -> None:
    """Write text that every Python carries, as .jsonl, to try everything out."""
    import json

    from data_tools.embedded import corpus as documents

    path = output / f"{corpus.value}.jsonl"
    if path.exists():
        raise UserError(f"--output {path}: exists; give another directory")
    count = 0
    try:
        output.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            for name, text in documents(corpus.value):
                file.write(json.dumps({"name": name, "text": text}, ensure_ascii=False) + "\n")
                count += 1
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written: {error.strerror}") from None
    typer.echo(f"{path}: {count} documents")
