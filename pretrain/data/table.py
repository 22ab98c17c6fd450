"""Rows of a .tsv or .jsonl file: one text or two, and a label.

A .tsv has a line of column names, then tab-separated fields, taken literally (no quoting), as in GLUE (Wang
et al. 2018). A .jsonl has one object per line.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.bounded import open_regular
from data_tools.counts import counted
from data_tools.records import LINE_BYTES
from pretrain.config.schema import nearest_name
from pretrain.errors import UserError

SUFFIXES = (".tsv", ".jsonl")


@dataclass(frozen=True)
class TextRow:
    """One example. line: its line in the file, from 1. texts: one, or a pair. label: its name."""

    line: int
    texts: tuple[str, ...]
    label: str


def read_table(path: str, texts: Sequence[str], label: str) -> list[TextRow]:
    """Every row of a file.

    Args:
        path: .tsv or .jsonl.
        texts: names of the one or two columns with texts.
        label: name of the column with the label.

    Raises:
        UserError: the file, a column or a value is missing or malformed; names the line.
    """
    if Path(path).suffix not in SUFFIXES:
        raise UserError(f"{path}: must end in {' or '.join(SUFFIXES)}, which says how it is read")
    read = _read_tsv if path.endswith(".tsv") else _read_jsonl
    rows = [
        TextRow(line, tuple(values[:-1]), values[-1])
        for line, values in read(path, [*texts, label])
        if _whole(path, line, [*texts, label], values)
    ]
    if not rows:
        raise UserError(f"{path}: holds no example")
    return rows


def read_lines(path: str) -> Iterator[tuple[int, str]]:
    """Line numbers, from 1, and lines without their ends.

    Raises UserError: the file cannot be read, or is not UTF-8 text.
    """
    for number, line in enumerate(_raw_lines(path), 1):
        if len(line) > LINE_BYTES:
            raise UserError(f"{path}:{number}: holds more than {LINE_BYTES:,} bytes; this is no table")
        try:
            text = line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}:{number}: is not UTF-8 text: byte 0x{line[error.start]:02x} at character "
                f"{error.start + 1} of the line"
            ) from None
        if "\0" in text:
            raise UserError(f"{path}:{number}: holds a NUL byte; this is no text file")
        yield number, text


def _raw_lines(path: str) -> Iterator[bytes]:
    """The content between line feeds; of a line over the limit, its beginning."""
    try:
        with open_regular(path) as file:
            line = b"\n"
            while line.endswith(b"\n"):
                line = file.readline(LINE_BYTES + 1)
                yield line.removesuffix(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _read_tsv(path: str, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    lines = read_lines(path)
    _, header = next(lines)
    names = header.removeprefix("\ufeff").split("\t")
    places = [_column(path, names, column) for column in columns]
    for number, line in lines:
        if not line.strip(" "):  # a line of only tabs is a row of empty fields
            continue
        fields = line.split("\t")
        if len(fields) != len(names):
            raise UserError(
                f"{path}:{number}: {counted(len(fields), 'field')}, but the first line names {len(names)}"
            )
        yield number, [fields[place] for place in places]


def _column(path: str, names: Sequence[str], column: str) -> int:
    if names.count(column) == 1:
        return names.index(column)
    if column in names:
        raise UserError(f"{path}:1: column '{column}' stands twice")
    raise UserError(f"{path}: {no_key(names, column)}")


def no_key(names: Sequence[str], column: str) -> str:
    """Says that a row has no key or column `column`, and which one was probably meant."""
    meant = nearest_name(column, names)
    hint = (
        f"did you mean '{meant}'?"
        if meant
        else "it has: " + ", ".join(" ".join(name.split())[:40] for name in names)
    )
    return f"has no column '{column}' ({hint})"


def read_objects(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers, from 1, and objects of a .jsonl.

    Raises UserError: the file cannot be read, or a line is not an object.
    """
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: must be an object with a key for each column")
        yield number, row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in an object: which value is meant is not told")
    return found


def _read_jsonl(path: str, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    for number, row in read_objects(path):
        for column in columns:
            if column not in row:
                raise UserError(f"{path}:{number}: {no_key(list(row), column)}")
            if not isinstance(row[column], str | int) or isinstance(row[column], bool):
                raise UserError(f"{path}:{number}: {column} must be text or a whole number")
        yield number, [str(row[column]) for column in columns]


def _whole(path: str, line: int, columns: Sequence[str], values: Sequence[str]) -> bool:
    for column, value in zip(columns, values, strict=True):
        if not value.strip():
            raise UserError(f"{path}:{line}: column '{column}' is empty")
    return True
