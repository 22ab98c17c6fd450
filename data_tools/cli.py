"""The commands `pretrain data ...`; heavy imports wait until a command runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from data_tools.atomic import in_place_of
from data_tools.bad_records import SKIPPED_NAME, BadRecord, BadRecordsOption, parse_bad_records, print_skipped
from data_tools.clean.cli import clean
from data_tools.counts import counted
from data_tools.errors import IntegrityError, UserError
from data_tools.images.cli import images
from data_tools.options import (
    INPUT,
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
    from data_tools.builder import BuildReport

app = typer.Typer(no_args_is_help=True, help="Text to tokenizer to token shards, and images to shards.")
app.command()(images)
app.command()(clean)


Corpus = Literal["stdlib", "language-reference", "english", "packages", "digits"]
"""Text that Python and its packages carry, and images that scikit-learn carries."""
DirectoryArgument = Annotated[str, typer.Argument(metavar="DIR", help="Shard directory, or its URL.")]


@app.command()
def tokenizer(
    output: OutputOption,
    inputs: Annotated[list[str] | None, INPUT] = None,
    model_type: Annotated[
        Literal["bpe", "unigram", "char", "byte", "wordpiece"], typer.Option(help="Kind of tokenizer.")
    ] = "bpe",
    vocab_size: Annotated[
        int | None, typer.Option(help="All ids, special ones included; char, byte and wordpiece need none.")
    ] = None,
    text_key: TextKeyOption = "text",
    document: DocumentOption = "file",
    line_bytes: LineBytesOption = LINE_BYTES,
    input_format: FormatOption = "auto",
    bad_records: BadRecordsOption = "stop",
    bert: Annotated[
        bool, typer.Option("--bert", help="Add [PAD] [CLS] [SEP] [MASK], which BERT needs.")
    ] = False,
    cased: Annotated[bool, typer.Option("--cased", help="Keep capitals and accents (wordpiece).")] = False,
    allow_left_out: AllowLeftOutOption = False,
) -> None:
    """Train a tokenizer that gives every text back byte for byte, or BERT's WordPiece."""
    from data_tools.records import ReadOptions
    from data_tools.sources import find_inputs
    from data_tools.train_tokenizer import train_tokenizer, training_texts

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output}: exists; give a new or empty directory")
    if not inputs and model_type != "byte":
        raise UserError("--input: give at least one file to train on")
    if inputs and model_type == "byte":
        raise UserError("--input: a byte tokenizer is not trained; leave it out")
    skipped: list[BadRecord] = []
    read, most = ReadOptions(text_key, document, line_bytes), parse_bad_records(bad_records)
    if not inputs and (read, most, input_format, allow_left_out) != (ReadOptions(), 0, "auto", False):
        raise UserError("options about reading have no effect on a byte tokenizer, which is not trained")
    found = find_inputs(inputs or [], input_format, allow_left_out)
    texts = training_texts(found.files, read, most, skipped)
    trained = train_tokenizer(texts, model_type, vocab_size, bert=bert, cased=cased)
    try:
        trained.save(output)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written: {error.strerror}") from None
    typer.echo(
        f"{output}: {trained.model_type} tokenizer of {trained.vocab_size:,} ids, {trained.fingerprint[:16]}"
    )
    if trained.loss:
        typer.echo(f"it changes texts: {trained.loss}; pretrain data build takes it with --lossy")
    print_left_out(found.left_out)
    print_skipped(skipped, None)


@app.command()
def build(
    inputs: TextInputOption,
    output: OutputOption,
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            "-t",
            help="Tokenizer directory, tokenizer.json or its folder, .model or .tiktoken.",
        ),
    ],
    workers: WorkersOption = None,
    bad_records: BadRecordsOption = "stop",
    text_key: TextKeyOption = "text",
    document: DocumentOption = "file",
    line_bytes: LineBytesOption = LINE_BYTES,
    input_format: FormatOption = "auto",
    sentences: Annotated[
        Literal["none", "split", "lines"],
        typer.Option(help="Keep where sentences begin, for BERT: split (English rules), or one a line."),
    ] = "none",
    block_tokens: Annotated[int, typer.Option(help="Tokens per WebDataset sample.")] = 1 << 20,
    restart: RestartOption = False,
    allow_left_out: AllowLeftOutOption = False,
    part: PartOption = None,
    lossy: Annotated[bool, typer.Option("--lossy", help="Take a tokenizer that changes texts.")] = False,
    end_of_document: Annotated[
        str | None, typer.Option(help="Special token that ends a document, if the tokenizer does not say.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Whose pattern a .tiktoken file is for, such as cl100k_base.")
    ] = None,
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
        document=document,
        line_bytes=line_bytes,
        input_format=input_format,
        block_tokens=block_tokens,
        sentences=sentences,
        restart=restart,
        allow_left_out=allow_left_out,
        end_of_document=end_of_document,
        encoding=encoding,
        lossy=lossy,
    )
    report = whole_or_part(options, run_build, part)
    if report is not None:
        _print_report(output, report)


def _print_report(output: Path, report: "BuildReport") -> None:
    index = report.index
    sentences = "" if index.sentences is None else f"{counted(index.sentences, 'sentence')}, "
    typer.echo(
        f"{output}: {counted(index.documents, 'document')}, {sentences}{counted(index.tokens, 'token')}, "
        f"{index.bytes / index.tokens:.3f} bytes per token, {counted(len(index.shards), 'shard')}, "
        f"{report.seconds:.1f} s"
    )
    if not report.tokenizer.is_ours:
        typer.echo(f"{report.tokenizer.model_type} tokenizer: {report.tokenizer.roles}")
    if report.tokenizer.loss:
        typer.echo(f"the tokenizer changes texts: {report.tokenizer.loss}")
    if report.resumed:
        typer.echo(f"{report.resumed} of {report.partitions} partitions were done before")
    if report.empty_documents:
        typer.echo(f"{counted(report.empty_documents, 'empty document')} left out")
    print_left_out(report.left_out)
    print_skipped(report.skipped, output / SKIPPED_NAME)


@app.command()
def inspect(
    directory: DirectoryArgument,
    documents: Annotated[
        int | None,
        typer.Option(min=1, help="How many documents of text to show; default 5, of a URL none."),
    ] = None,
) -> None:
    """Show what a shard directory holds."""
    from rich.console import Console

    from data_tools.directory import kind_of, passing_cache
    from data_tools.sources import is_remote

    with passing_cache(directory) as cache:
        if kind_of(directory, cache) == "images":
            from data_tools.images.show import describe_images

            if documents is not None:
                raise UserError(f"--documents {documents}: has no effect on {directory}, which holds images")
            Console().print(describe_images(directory, cache))
            return
        from data_tools.show import describe

        default = 0 if is_remote(directory) else 5  # a document costs the download of a shard
        Console().print(describe(directory, documents or default, cache))


@app.command()
def verify(
    directory: DirectoryArgument,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Read everything and list every fault; exit code 3 if there is one."""
    from data_tools.directory import kind_of, passing_cache
    from data_tools.images.verify import verify_images
    from data_tools.verify import verify as verify_text

    with passing_cache(directory) as cache:
        check = verify_images if kind_of(directory, cache) == "images" else verify_text
        report = check(directory, workers, cache)
    if report.faults:
        lines = "\n".join(f"  {fault}" for fault in report.faults)
        count = f"{len(report.faults)} fault{'s' * (len(report.faults) > 1)}"
        raise IntegrityError(f"{directory}: {count}\n{lines}")
    whose = "; that is what lies there: a run checks what is in its cache itself" if cache else ""
    typer.echo(f"{directory}: good; {report.counts}{whose}")


@app.command()
def embedded(
    corpus: Annotated[
        Corpus,
        typer.Option(
            help="Python's standard library, its language reference, that with all docstrings as prose, that "
            "with those of all installed packages, or handwritten digits (PNG)."
        ),
    ],
    output: OutputOption,
) -> None:
    """Write text or digits that every installation carries, to try everything out."""
    path = output / (corpus if corpus == "digits" else f"{corpus}.jsonl")
    if path.exists():
        raise UserError(f"--output {path}: exists; give another directory")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with in_place_of(path) as half:
            written = _write_digits(half) if corpus == "digits" else _write_documents(half, corpus)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written: {error.strerror}") from None
    typer.echo(f"{path}: {written}")


def _write_documents(path: Path, corpus: Corpus) -> str:
    import json

    from data_tools.embedded import corpus as documents
    from data_tools.progress import Progress

    count = 0
    with (
        open(path, "w", encoding="utf-8") as file,
        Progress("reading documents", unit="documents") as progress,
    ):
        for name, text in documents(corpus):
            file.write(json.dumps({"name": name, "text": text}, ensure_ascii=False) + "\n")
            count += 1
            progress.advance(1)
    return counted(count, "document")


def _write_digits(path: Path) -> str:
    from data_tools.images.digits import write_digits

    train, test = write_digits(path)
    return f"{counted(train, 'image')} in train/ and {test} in test/, a folder for each digit"
