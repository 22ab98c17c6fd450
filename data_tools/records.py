"""Reads documents out of input files and names every record that is not one.

A document is a whole .txt file, one of its lines or paragraphs, one line of .jsonl, or one row of .parquet.
What cannot be a document (not UTF-8, not JSON, no text, broken compression) comes out as a `BadRecord`, in
its place in the order, so that the caller decides whether to stop or to go on.
"""

import codecs
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from data_tools.bad_records import BadRecord
from data_tools.errors import UserError
from data_tools.partition import Unit
from data_tools.sources import READ_CHUNK, InputFile, open_raw, open_text_bytes

DOCUMENT_KINDS = ("file", "line", "blank-line")
WHOLE_FILE_BYTES = 4 << 20


@dataclass(frozen=True)
class Document:
    """One document; `parts` gives its text, in order, once."""

    parts: Iterator[str]


@dataclass(frozen=True)
class ReadOptions:
    """How files become documents: the key or column of the text, and what a document is in a .txt file."""

    text_key: str = "text"
    document: str = "file"


def check_read_options(options: ReadOptions, files: Sequence[InputFile]) -> None:
    """Raise UserError for an option that has no effect on these files."""
    formats = {file.format for file in files}
    if options.document != "file" and "txt" not in formats:
        raise UserError(
            f"--document {options.document}: has an effect on .txt alone, and there is none in the input"
        )
    if options.text_key != "text" and formats == {"txt"}:
        raise UserError(f"--text-key {options.text_key}: has no effect on .txt")


def read_documents(unit: Unit, options: ReadOptions) -> Iterator[Document | BadRecord]:
    """Documents and bad records of one unit, in order.

    Raises UserError for a file that cannot be opened at all.
    """
    file = unit.file
    if file.format == "parquet":
        return _parquet_rows(unit, options.text_key)
    if file.format == "txt" and options.document == "file":
        return _whole_file(file)
    return _guarded_lines(unit, options)


def _damaged() -> tuple[type[Exception], ...]:
    import zstandard

    return (EOFError, OSError, zlib.error, zstandard.ZstdError)


def _whole_file(file: InputFile) -> Iterator[Document | BadRecord]:
    """A file as one document.

    A large one is read twice, first to be sure that it is good, so memory stays flat.
    """
    try:
        with open_text_bytes(file) as stream:
            head = stream.read(WHOLE_FILE_BYTES + 1)
            if len(head) <= WHOLE_FILE_BYTES:
                text = head.decode("utf-8")
            else:
                text = None
                for _ in _decoded(stream, head):
                    pass
    except UnicodeDecodeError as error:
        yield BadRecord(file.url, "", _not_utf8(error))
        return
    except _damaged() as error:
        yield BadRecord(file.url, "", f"cannot be read to its end: {error}")
        return
    if text is not None:
        yield Document(iter((text,)))
        return
    with open_text_bytes(file) as stream:
        yield Document(_decoded(stream, b""))


def _decoded(stream: IO[bytes], head: bytes) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    if head:
        yield decoder.decode(head)
    while chunk := stream.read(READ_CHUNK):
        yield decoder.decode(chunk)
    yield decoder.decode(b"", final=True)


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} ({error.reason})"


def _guarded_lines(unit: Unit, options: ReadOptions) -> Iterator[Document | BadRecord]:
    """Documents of a line-oriented file.

    Numbers lines from the start of the file, even within a byte range.
    """
    count = 0
    offset: int | None = None if unit.start else 0
    lines = _lines(unit)
    if unit.file.format == "txt" and options.document == "blank-line":
        lines = _paragraphs(lines)
    try:
        for count, line in lines:
            try:
                text = _text_of_line(line, count == 1 and not unit.start, unit.file.format, options.text_key)
            except ValueError as error:
                offset = _lines_before(unit) if offset is None else offset
                yield BadRecord(unit.file.url, f"line {offset + count}", str(error))
                continue
            if text is not None:
                yield Document(iter((text,)))
    except _damaged() as error:
        yield BadRecord(unit.file.url, f"line {count + 1}", f"cannot be read to its end: {error}")


def _lines(unit: Unit) -> Iterator[tuple[int, bytes]]:
    """The lines that begin in [start, stop) of a file, each with its number in the unit, from 1."""
    with open_text_bytes(unit.file) as stream:
        position = unit.start
        if position:
            stream.seek(position - 1)
            position += len(stream.readline()) - 1
        number = 0
        while unit.stop is None or position < unit.stop:
            line = stream.readline()
            if not line:
                return
            position += len(line)
            number += 1
            yield number, line


def _paragraphs(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Lines joined up to the next blank one, each paragraph with the number of its first line."""
    first, collected = 0, list[bytes]()
    for number, line in lines:
        if line.strip():
            first = first if collected else number
            collected.append(line)
        elif collected:
            yield first, b"".join(collected)
            collected = []
    if collected:
        yield first, b"".join(collected)


def _lines_before(unit: Unit) -> int:
    with open_raw(unit.file) as stream:
        remaining, count, last = unit.start, 0, b""
        while remaining and (last := stream.read(min(READ_CHUNK, remaining))):
            remaining -= len(last)
            count += last.count(b"\n")
        if not last.endswith(b"\n"):  # the range begins within a line, which belongs to the range before
            count += 1
        return count


def _text_of_line(line: bytes, is_first: bool, file_format: str, text_key: str) -> str | None:
    """The text of one line, or None for a blank line. Raises ValueError saying what is wrong."""
    try:
        decoded = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(_not_utf8(error)) from None
    if file_format == "txt":
        text = decoded.removesuffix("\n").removesuffix("\r")
        return text if text.strip() else None
    if is_first:
        decoded = decoded.removeprefix("\ufeff")
    if not decoded.strip():
        return None
    try:
        record = json.loads(decoded)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"a JSON {type(record).__name__} instead of an object with the key {text_key!r}")
    if text_key not in record:
        found = ", ".join(repr(key) for key in list(record)[:5]) or "none"
        raise ValueError(f"no key {text_key!r}; its keys are {found} (see --text-key)")
    return _checked(record[text_key], text_key)


def _checked(text: Any, text_key: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{text_key!r} is {type(text).__name__}, not text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{text_key!r} is not valid Unicode: {error.reason} at character {error.start}"
        ) from None
    return text


def _parquet_rows(unit: Unit, text_key: str) -> Iterator[Document | BadRecord]:
    import pyarrow
    import pyarrow.parquet

    row = 0
    with open_raw(unit.file) as stream:
        try:
            table = pyarrow.parquet.ParquetFile(stream)
            _check_column(table.schema_arrow, text_key, unit.file.url)
            stop = table.num_row_groups if unit.stop is None else unit.stop
            row = sum(table.metadata.row_group(i).num_rows for i in range(unit.start))
            groups = list(range(unit.start, stop))
            for batch in table.iter_batches(256, row_groups=groups, columns=[text_key], use_threads=False):
                for value in batch.column(0):
                    row += 1
                    yield _parquet_value(value, row, text_key, unit.file.url)
        except (pyarrow.ArrowException, OSError) as error:
            yield BadRecord(
                unit.file.url, f"row {row + 1}" if row else "", f"cannot be read to its end: {error}"
            )


def _check_column(schema: Any, text_key: str, url: str) -> None:
    import pyarrow

    if text_key not in schema.names:
        raise UserError(
            f"{url}: no column {text_key!r}; its columns are {', '.join(schema.names[:10])} (see --text-key)"
        )
    kind = schema.field(text_key).type
    value = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if not (pyarrow.types.is_string(value) or pyarrow.types.is_large_string(value)):
        raise UserError(f"{url}: column {text_key!r} is of type {kind}, not text (see --text-key)")


def _parquet_value(value: Any, row: int, text_key: str, url: str) -> Document | BadRecord:
    try:
        text = value.as_py()
        return Document(iter((_checked(text, text_key),)))
    except UnicodeDecodeError as error:
        return BadRecord(url, f"row {row}", _not_utf8(error))
    except ValueError as error:
        return BadRecord(url, f"row {row}", str(error))
