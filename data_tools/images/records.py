"""Reads image files out of the input, undecoded, and names every record that holds none.

A record is a picture file, a sample of a WebDataset tar (members that share a key: one picture, and its
class in `KEY.cls`), or a row of parquet (bytes, or a struct with `bytes` as Hugging Face writes it, and a
label).
"""

import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from data_tools.bad_records import BadRecord
from data_tools.errors import UserError
from data_tools.images.labels import NO_CLASS, check_labels, class_of, declared_classes
from data_tools.images.pixels import ENDINGS
from data_tools.images.sources import ImageFile
from data_tools.partition import Unit
from data_tools.row_groups import check_once, row_fault, rows_before
from data_tools.sources import open_raw

MAX_BYTES = 256 << 20
"""Of one image file; anything larger is a bad record."""
TAR_END = bytes(512)
ROWS = 64


@dataclass(frozen=True)
class Picture:
    """An image file's bytes; `where` is as in `BadRecord`. `label` None: it has no class."""

    file: str
    where: str
    data: bytes
    label: str | None


@dataclass(frozen=True)
class ImageColumns:
    """Where parquet rows hold what is read; `label` None: labels are left out, of tars too."""

    image: str
    label: str | None


def read_pictures(unit: Unit, columns: ImageColumns) -> Iterator[Picture | BadRecord]:
    """Pictures and bad records of one unit, in order.

    Raises UserError for a file that cannot be opened at all.
    """
    file = unit.file
    assert isinstance(file, ImageFile)
    if file.format == "tar":
        return _tar_samples(file, columns.label is not None)
    if file.format == "parquet":
        return _parquet_rows(unit, columns)
    return _whole_file(file)


def read_labels(file: ImageFile, columns: ImageColumns) -> set[str]:
    """The classes in a file, without its images; a damaged file's as far as they can be read."""
    if columns.label is None:
        return set()
    if file.format == "image":
        return {file.label} if file.label is not None else set()
    if file.format == "tar":
        return _tar_labels(file)
    return _parquet_labels(file, columns)


def read_declared(file: ImageFile, columns: ImageColumns) -> tuple[str, ...]:
    """The classes that a parquet file lists by number; none in one that lists none or cannot be read."""
    import pyarrow
    import pyarrow.parquet

    if file.format != "parquet":
        return ()
    with open_raw(file) as stream:
        try:
            schema = pyarrow.parquet.ParquetFile(stream).schema_arrow
        except (pyarrow.ArrowException, OSError):  # whoever reads the unit reports the damage as a bad record
            return ()
    return declared_classes(schema, columns.label, file.url)


def _whole_file(file: ImageFile) -> Iterator[Picture | BadRecord]:
    if file.size > MAX_BYTES:
        yield BadRecord(file.url, "", _too_large(file.size))
        return
    try:
        with open_raw(file) as stream:
            data = stream.read()
    except OSError as error:
        yield BadRecord(file.url, "", f"cannot be read to its end: {error}")
        return
    yield Picture(file.url, "", data, file.label)


def _too_large(size: int) -> str:
    return f"{size:,} bytes, more than the {MAX_BYTES:,} that one image may have"


def _tar_samples(file: ImageFile, with_labels: bool) -> Iterator[Picture | BadRecord]:
    """Samples in the order of the tar. A tar without its end mark has been cut off: the last is told."""
    key = ""
    with open_raw(file) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for key, members in groupby(tar, key=lambda member: _split(member.name)[0]):
                    yield _tar_sample(file, tar, key, list(members), with_labels)
            stream.seek(-min(512, file.size), os.SEEK_END)
            if stream.read() != TAR_END:
                yield BadRecord(file.url, f"after sample {key}", "the tar has no end mark: it is cut off")
        except (tarfile.TarError, OSError) as error:
            where = f"after sample {key}" if key else ""
            yield BadRecord(file.url, where, f"cannot be read to its end: {error}")


def _split(name: str) -> tuple[str, str]:
    """Key and ending of a member: the key is the path up to the first dot of the file's name."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.lower()


def _tar_sample(
    file: ImageFile, tar: tarfile.TarFile, key: str, members: list[tarfile.TarInfo], with_labels: bool
) -> Picture | BadRecord:
    where = f"sample {key}"
    found = {_split(member.name)[1]: member for member in members}
    pictures = [member for ending, member in found.items() if f".{ending}" in ENDINGS]
    if len(pictures) != 1:
        endings = ", ".join(found) or "nothing"
        return BadRecord(file.url, where, f"holds {len(pictures)} images instead of one (members: {endings})")
    if not pictures[0].isreg():
        return BadRecord(file.url, where, f"{pictures[0].name} is not a plain file")
    if pictures[0].size > MAX_BYTES:
        return BadRecord(file.url, where, _too_large(pictures[0].size))
    label = None
    if with_labels and "cls" in found:
        label = _text(tar, found["cls"])
        if not label:
            return BadRecord(file.url, where, f"{found['cls'].name} does not hold the name of a class")
        if label == NO_CLASS:
            return BadRecord(file.url, where, f"{found['cls'].name} holds {NO_CLASS}, the number of no class")
    return Picture(file.url, where, _content(tar, pictures[0]), label)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    data = stream.read() if stream is not None else b""
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name} is cut off")
    return data


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    """The one line of a small member, empty if it is anything else."""
    if not member.isreg() or member.size > 1024:
        return ""
    try:
        return _content(tar, member).decode("utf-8").strip()
    except UnicodeDecodeError:
        return ""


def _tar_labels(file: ImageFile) -> set[str]:
    labels = set()
    with open_raw(file) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    if _split(member.name)[1] == "cls" and (label := _text(tar, member)) not in (
                        "",
                        NO_CLASS,
                    ):
                        labels.add(label)
        except (tarfile.TarError, OSError):  # whoever reads the unit reports the damage as a bad record
            pass
    return labels


def _parquet_rows(unit: Unit, columns: ImageColumns) -> Iterator[Picture | BadRecord]:
    import pyarrow
    import pyarrow.parquet

    row, url = 0, unit.file.url
    with open_raw(unit.file) as stream:
        try:
            table = pyarrow.parquet.ParquetFile(stream)
            names = _check_columns(table.schema_arrow, columns, url)
            classes = declared_classes(table.schema_arrow, columns.label, url)
            stop = table.num_row_groups if unit.stop is None else unit.stop
            row = rows_before(table.metadata, unit.start)
            groups = list(range(unit.start, stop))
            for batch in table.iter_batches(ROWS, row_groups=groups, columns=names, use_threads=False):
                for record in batch.to_pylist():
                    row += 1
                    yield _parquet_picture(record, f"row {row}", columns, classes, url)
            if fault := row_fault(table.metadata, stop, row):
                yield BadRecord(url, f"row {row + 1}", f"the file {fault}: it is damaged")
        except (pyarrow.ArrowException, OSError) as error:
            where = f"row {row + 1}" if row else ""
            yield BadRecord(url, where, f"cannot be read to its end: {error}")


def _parquet_picture(
    record: dict[str, Any], where: str, columns: ImageColumns, classes: tuple[str, ...], url: str
) -> Picture | BadRecord:
    image = record[columns.image]
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

    Raises UserError for an image column that is not there or holds no bytes, for labels that are neither
    numbers nor text, and for a column that is there twice.
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
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    with open_raw(file) as stream:
        try:
            table = pyarrow.parquet.ParquetFile(stream)
            schema = table.schema_arrow
            if columns.label not in _check_columns(schema, columns, file.url):
                return set()
            values = table.read(columns=[columns.label], use_threads=False).column(columns.label)
            found = [value for value in pyarrow.compute.unique(values).to_pylist() if value is not None]
        except (pyarrow.ArrowException, OSError):  # whoever reads the unit reports the damage as a bad record
            return set()
    labels, classes = set(), declared_classes(schema, columns.label, file.url)
    for value in found:
        with suppress(ValueError):  # so does whoever reads the unit with a value that names no class
            labels.add(class_of(value, classes))
    return labels
