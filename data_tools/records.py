"""Reads documents from input files and reports every record that is not one.

A document is a whole .txt file, one of its lines or paragraphs, one line of .jsonl, or one row of .parquet.
What cannot be a document (not UTF-8, not JSON, no text, broken compression) comes out as a `BadRecord`, at
its position in the order, so that the caller decides whether to stop or to go on.
"""

import codecs
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from data_tools.bad_records import BadRecord, check_skipped, unreadable
from data_tools.errors import UserError
from data_tools.parquet import check_once, read_rows
from data_tools.partition import Partition, Unit
from data_tools.pool import Report
from data_tools.sources import READ_CHUNK, TOKENS, InputFile, open_raw, open_text_bytes
from data_tools.typed import json_type

WHOLE_FILE_BYTES = 4 << 20
REPORT_BYTES = 1 << 16
LINE_BYTES = 32 << 20
"""Default limit of a document that is read whole. As JSON it takes 1 GB at worst."""


@dataclass(frozen=True)
class Document:
    """One document; `parts` yields its text, in order, once."""

    parts: Iterator[str]


@dataclass(frozen=True)
class ReadOptions:
    """How files become documents: the key or column of the text, and what a document is in a .txt file.

    line_bytes: the maximum bytes of a line, of a paragraph, or of the text of a row.
    """

    text_key: str = "text"
    document: str = "file"
    line_bytes: int = LINE_BYTES


def check_read_options(options: ReadOptions, files: Sequence[InputFile]) -> None:
    """Raise UserError for an option that has no effect on these files."""
    formats = {file.format for file in files}
    if options.document != "file" and "txt" not in formats:
        raise UserError(
            f"--document {options.document}: has an effect on .txt alone, and there is none in the input"
        )
    if options.text_key != "text" and formats <= {"txt", TOKENS}:
        raise UserError(f"--text-key {options.text_key}: has no effect on .txt and .bin")
    if options.line_bytes != LINE_BYTES and formats <= {"txt", TOKENS} and options.document == "file":
        raise UserError(
            f"--line-bytes {options.line_bytes}: has no effect on .txt files that are read whole, nor on .bin"
        )


def read_documents(unit: Unit, options: ReadOptions) -> Iterator[Document | BadRecord]:
    """Documents and bad records of one unit, in order.

    Raises UserError for a file that cannot be opened at all.
    """
    file = unit.file
    if file.format == "parquet":
        return _parquet_rows(unit, options)
    if file.format == "txt" and options.document == "file":
        return _whole_file(file)
    return _guarded_lines(unit, options)


def read_partition(
    partition: Partition,
    options: ReadOptions,
    most: int,
    skipped: list[BadRecord],
    size: Callable[[], int],
    report: Report,
) -> Iterator[Document]:
    """The documents of a partition. Bad records go to `skipped`; raises UserError for more than `most`.

    Args:
        size: bytes of all text so far, as counted by the caller.
        report: called with bytes of input read.
    """
    for unit in partition.units:
        reported, start = 0, size()
        for record in read_documents(unit, options):
            if isinstance(record, BadRecord):
                skipped.append(record)
                check_skipped(skipped, most)
                continue
            yield record
            done = min(size() - start, unit.weight)
            if done - reported > REPORT_BYTES:
                report(done - reported)
                reported = done
        report(unit.weight - reported)


def _damaged() -> tuple[type[Exception], ...]:
    import zstandard

    return (EOFError, OSError, zlib.error, zstandard.ZstdError)


def _whole_file(file: InputFile) -> Iterator[Document | BadRecord]:
    """A file as one document.

    A large one is read twice, first to be sure that it is valid, so that memory use stays constant.
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

    Lines are numbered from the start of the file, even within a byte range.
    """
    count = 0
    offset: int | None = None if unit.start else 0
    lines = _lines(unit, options.line_bytes)
    if unit.file.format == "txt" and options.document == "blank-line":
        lines = _paragraphs(lines, options.line_bytes)
    try:
        for count, line in lines:
            try:
                if line is None:
                    raise ValueError(_too_long(options.line_bytes))
                text = _text_of_line(line, count == 1 and not unit.start, unit.file.format, options.text_key)
            except ValueError as error:
                offset = _lines_before(unit) if offset is None else offset
                yield BadRecord(unit.file.url, f"line {offset + count}", str(error))
                continue
            if text is not None:
                yield Document(iter((text,)))
    except _damaged() as error:
        fault = BadRecord(unit.file.url, f"line {count + 1}", f"cannot be read to its end: {error}")
        if not count and not unit.start:
            raise unreadable(fault) from None
        yield fault


Line = tuple[int, bytes | None]
"""A number, from 1, and the bytes including the line's end; None where they are more than allowed."""


def _lines(unit: Unit, most: int) -> Iterator[Line]:
    """The lines that begin in [start, stop) of a file, each with its number in the unit."""
    with open_text_bytes(unit.file) as stream:
        position = unit.start
        if position:
            stream.seek(position - 1)
            position += _pass_over(stream) - 1
        number = 0
        while unit.stop is None or position < unit.stop:
            line = stream.readline(most + 1)
            if not line:
                return
            position += len(line)
            number += 1
            is_long = len(line) > most
            if is_long and not line.endswith(b"\n"):
                position += _pass_over(stream)
            yield number, None if is_long else line


def _pass_over(stream: IO[bytes]) -> int:
    """Read to the end of a line; returns the number of bytes read."""
    count = 0
    while part := stream.readline(READ_CHUNK):
        count += len(part)
        if part.endswith(b"\n"):
            break
    return count


def _paragraphs(lines: Iterator[Line], most: int) -> Iterator[Line]:
    """Lines joined up to the next blank one, each paragraph with the number of its first line."""
    first, size, collected = 0, 0, list[bytes]()
    for number, line in lines:
        if line is None or line.strip():
            first = first if size else number
            size += most + 1 if line is None else len(line)
            if line is not None and size <= most:
                collected.append(line)
            else:
                collected.clear()
        elif size:
            yield first, b"".join(collected) if size <= most else None
            size, collected = 0, []
    if size:
        yield first, b"".join(collected) if size <= most else None


def _too_long(most: int) -> str:
    return f"holds more than {most:,} bytes (--line-bytes allows more)"


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
        raise ValueError(f"{json_type(record)} instead of an object with the key {text_key!r}")
    if text_key not in record:
        found = ", ".join(repr(key) for key in list(record)[:5]) or "none"
        raise ValueError(f"no key {text_key!r}; its keys are {found} (see --text-key)")
    return _checked(record[text_key], text_key)


def _checked(text: Any, text_key: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{text_key!r} is {json_type(text)}, not text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{text_key!r} is not valid Unicode: {error.reason} at character {error.start}"
        ) from None
    return text


def _parquet_rows(unit: Unit, options: ReadOptions) -> Iterator[Document | BadRecord]:
    url, key = unit.file.url, options.text_key
    # `column`, since a name with a dot may select others too
    for row in read_rows(
        unit, 256, lambda schema: _columns(schema, key, url), lambda batch: batch.column(key)
    ):
        yield row if isinstance(row, BadRecord) else _parquet_value(*row, options, url)


def _columns(schema: Any, text_key: str, url: str) -> list[str]:
    """The column to read. Raises UserError if there is none, or it holds no text."""
    import pyarrow

    if text_key not in schema.names:
        raise UserError(
            f"{url}: no column {text_key!r}; its columns are {', '.join(schema.names[:10])} (see --text-key)"
        )
    check_once(schema.names, text_key, url)
    kind = schema.field(text_key).type
    value = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if not (pyarrow.types.is_string(value) or pyarrow.types.is_large_string(value)):
        raise UserError(f"{url}: column {text_key!r} is of type {kind}, not text (see --text-key)")
    return [text_key]


def _parquet_value(row: int, value: Any, options: ReadOptions, url: str) -> Document | BadRecord:
    try:
        text = value.as_py()
        if isinstance(text, str) and len(text) > options.line_bytes:
            raise ValueError(_too_long(options.line_bytes))
        return Document(iter((_checked(text, options.text_key),)))
    except UnicodeDecodeError as error:
        return BadRecord(url, f"row {row}", _not_utf8(error))
    except ValueError as error:
        return BadRecord(url, f"row {row}", str(error))
