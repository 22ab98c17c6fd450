"""Rows of parquet files. What a file declares about its rows is not always what it holds."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from data_tools.bad_records import BadRecord, unreadable
from data_tools.errors import UserError
from data_tools.sources import InputFile, open_raw

if TYPE_CHECKING:
    from data_tools.partition import Unit

T = TypeVar("T")


class DamagedParquet(Exception):
    """A file that pyarrow cannot read, in its words."""


@contextmanager
def open_parquet(file: InputFile) -> Iterator[Any]:
    """A pyarrow `ParquetFile`; raises DamagedParquet, also for what fails within the block."""
    import pyarrow.parquet

    with open_raw(file) as stream:
        try:
            yield pyarrow.parquet.ParquetFile(stream)
        except (pyarrow.ArrowException, OSError) as error:
            raise DamagedParquet(str(error)) from None


def read_rows(
    unit: "Unit", at_once: int, columns: Callable[[Any], list[str]], values: Callable[[Any], Iterable[T]]
) -> Iterator[tuple[int, T] | BadRecord]:
    """The rows of a unit, each with its number in the file, from 1; a bad record where the file is damaged.

    Args:
        at_once: rows that are in memory.
        columns: the columns to read, from the schema; raises UserError if the file does not have them.
        values: one value per row, from a record batch.

    Raises UserError for a file of which no row can be read.
    """
    url, row = unit.file.url, 0
    try:
        with open_parquet(unit.file) as table:
            names = columns(table.schema_arrow)
            declared = [table.metadata.row_group(number).num_rows for number in range(table.num_row_groups)]
            groups = list(range(table.num_row_groups))[unit.start : unit.stop]
            row = sum(declared[: unit.start])
            for batch in table.iter_batches(at_once, row_groups=groups, columns=names, use_threads=False):
                for value in values(batch):
                    row += 1
                    yield row, value
            # pyarrow does not report rows that the file declares and does not hold
            if fault := _row_fault(declared, unit.stop, row, table.metadata.num_rows):
                yield BadRecord(url, f"row {row + 1}", f"the file {fault}: it is damaged")
    except DamagedParquet as error:
        record = BadRecord(url, f"row {row + 1}" if row else "", f"cannot be read to its end: {error}")
        if not row:
            raise unreadable(record) from None
        yield record


def _row_fault(declared: list[int], stop: int | None, found: int, total: int) -> str | None:
    """Why a read that reached row `found` before row group `stop` is incomplete; None if it is complete."""
    if found != sum(declared[:stop]):
        return f"has {found:,} rows up to here, and counts {sum(declared[:stop]):,}"
    if total != sum(declared):
        return f"counts {total:,} rows, and {sum(declared):,} in its row groups"
    return None


def check_once(names: Sequence[str], column: str, url: str) -> None:
    """Raise UserError for a column that occurs twice: a name would read either neither or any of them."""
    if names.count(column) > 1:
        raise UserError(f"{url}: column {column!r} stands {names.count(column)} times; rename all but one")
