"""What a parquet file says that it holds, which is not always what it holds: rows, and columns by name."""

from collections.abc import Sequence
from typing import Any

from data_tools.errors import UserError


def rows_before(metadata: Any, group: int) -> int:
    """Rows of all row groups before number `group`, by the file's own word."""
    return sum(metadata.row_group(number).num_rows for number in range(group))


def row_fault(metadata: Any, stop: int, found: int) -> str | None:
    """Why a reading that came to row `found` at the end of row group `stop` - 1 is not all; None if it is.

    pyarrow reads what there is, and says nothing of rows that the file counts and does not hold.
    """
    told = rows_before(metadata, stop)
    if found != told:
        return f"has {found:,} rows up to here, and counts {told:,}"
    whole = rows_before(metadata, metadata.num_row_groups)
    if metadata.num_rows != whole:
        return f"counts {metadata.num_rows:,} rows, and {whole:,} in its row groups"
    return None


def check_once(names: Sequence[str], column: str, url: str) -> None:
    """Raise UserError for a column that is there twice: a name reads either neither or any of them."""
    if names.count(column) > 1:
        raise UserError(f"{url}: column {column!r} stands {names.count(column)} times; rename all but one")
