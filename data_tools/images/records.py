"""Reads image files from the input, undecoded, and reports every record that holds none.

A record is an image file, a sample of a WebDataset tar (members that share a key: one image, and its class in
`KEY.cls`), or a row of parquet (bytes, or a struct with `bytes` as Hugging Face writes it, and a label).
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from data_tools.bad_records import BadRecord
from data_tools.errors import UserError
from data_tools.images.labels import check_labels, class_of, declared_classes
from data_tools.images.sources import MAX_BYTES, ImageFile, Picture, too_large
from data_tools.images.tars import read_samples, read_tar_labels
from data_tools.left_out import LeftOut
from data_tools.parquet import DamagedParquet, check_once, open_parquet, read_rows
from data_tools.partition import Unit
from data_tools.sources import InputFile, open_raw

ROWS = 64


@dataclass(frozen=True)
class ImageColumns:
    """The parquet columns to read; `label` None: labels are ignored, those of tars too."""

    image: str
    label: str | None


def read_pictures(
    unit: Unit, columns: ImageColumns, left_out: LeftOut | None = None
) -> Iterator[Picture | BadRecord]:
    """Images and bad records of one unit, in order; members of tars that are neither go to `left_out`.

    Raises UserError for a file that cannot be opened at all, or of which nothing can be read.
    """
    file = unit.file
    assert isinstance(file, ImageFile)
    if file.format == "tar":
        return read_samples(file, columns.label is not None, LeftOut() if left_out is None else left_out)
    if file.format == "parquet":
        return _parquet_rows(unit, columns)
    return _whole_file(file)


def read_labels(file: ImageFile, columns: ImageColumns) -> set[str]:
    """The classes in a file, without its images; of a damaged file, as many as can be read."""
    if columns.label is None:
        return set()
    if file.format == "image":
        return {file.label} if file.label is not None else set()
    if file.format == "tar":
        return read_tar_labels(file)
    return _parquet_labels(file, columns)


def read_declared(file: InputFile, columns: ImageColumns) -> tuple[str, ...]:
    """The classes that a parquet file lists by number; none if it lists none or cannot be read."""
    if file.format != "parquet" or columns.label is None:
        return ()
    try:
        with open_parquet(file) as table:
            schema = table.schema_arrow
    except DamagedParquet:  # whoever reads the unit reports the damage as a bad record
        return ()
    return declared_classes(schema, columns.label, file.url)


def _whole_file(file: ImageFile) -> Iterator[Picture | BadRecord]:
    if file.size > MAX_BYTES:
        yield BadRecord(file.url, "", too_large(file.size))
        return
    try:
        with open_raw(file) as stream:
            data = stream.read()
    except OSError as error:
        yield BadRecord(file.url, "", f"cannot be read to its end: {error}")
        return
    yield Picture(file.url, "", data, file.label)


def _parquet_rows(unit: Unit, columns: ImageColumns) -> Iterator[Picture | BadRecord]:
    url, classes = unit.file.url, read_declared(unit.file, columns)
    rows = read_rows(
        unit, ROWS, lambda schema: _check_columns(schema, columns, url), lambda batch: batch.to_pylist()
    )
    for row in rows:
        yield row if isinstance(row, BadRecord) else _parquet_picture(*row, columns, classes, url)


def _parquet_picture(
    row: int, record: dict[str, Any], columns: ImageColumns, classes: tuple[str, ...], url: str
) -> Picture | BadRecord:
    image, where = record[columns.image], f"row {row}"
    data = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(data, bytes):
        return BadRecord(url, where, f"{columns.image!r} holds no bytes of an image")
    label = record.get(columns.label) if columns.label else None
    try:
        return Picture(url, where, data, None if label is None else class_of(label, classes))
    except ValueError as error:
        return BadRecord(url, where, f"its label {error} (--labels none leaves all of them out)")


def _check_columns(schema: Any, columns: ImageColumns, url: str) -> list[str]:
    """The columns to read.

    Raises UserError for an image column that is missing or holds no bytes, for labels that are neither
    numbers nor text, and for a column that occurs twice.
    """
    import pyarrow

    if columns.image not in schema.names:
        found = ", ".join(schema.names[:10])
        raise UserError(f"{url}: no column {columns.image!r}; its columns are {found} (see --image-key)")
    check_once(schema.names, columns.image, url)
    kind = schema.field(columns.image).type
    if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
        raise UserError(f"{url}: column {columns.image!r} is of type {kind}, not bytes (see --image-key)")
    names = [columns.image]
    if columns.label is not None and columns.label in schema.names:
        check_labels(schema, columns.label, url)
        names.append(columns.label)
    return names


def _parquet_labels(file: ImageFile, columns: ImageColumns) -> set[str]:
    import pyarrow.compute

    try:
        with open_parquet(file) as table:
            schema = table.schema_arrow
            if columns.label not in _check_columns(schema, columns, file.url):
                return set()
            values = table.read(columns=[columns.label], use_threads=False).column(columns.label)
        found = [value for value in pyarrow.compute.unique(values).to_pylist() if value is not None]
    except DamagedParquet:  # whoever reads the unit reports the damage as a bad record
        return set()
    labels, classes = set(), declared_classes(schema, columns.label, file.url)
    for value in found:
        with suppress(ValueError):  # likewise for a value that names no class
            labels.add(class_of(value, classes))
    return labels
