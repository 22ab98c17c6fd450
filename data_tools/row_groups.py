"""What a parquet file declares, which is not always what it holds: rows, and columns by name."""

from collections.abc import Sequence
from typing import Any

from data_tools.errors import UserError


def rows_before(metadata: Any, group: int) -> int:
    """Rows of all row groups before number `group`, as the file declares them."""
    return sum(metadata.row_group(number).num_rows for number in range(group))


def row_fault(metadata: Any, stop: int, found: int) -> str | None:
    """Why a read that reached row `found` at the end of row group `stop` - 1 is incomplete; None if it is
    complete.

    pyarrow reads what there is, and does not report rows that the file declares and does not hold.
    """
    told = rows_before(metadata, stop)
    if found != told:
        return f"has {found:,} rows up to here, and counts {told:,}"
    whole = rows_before(metadata, metadata.num_row_groups)
    if metadata.num_rows != whole:
        return f"counts {metadata.num_rows:,} rows, and {whole:,} in its row groups"
    return None


def check_once(names: Sequence[str], column: str, url: str) -> None:
    """Raise UserError for a column that occurs twice: a name would read either neither or any of them."""
    if names.count(column) > 1:
        raise UserError(f"{url}: column {column!r} stands {names.count(column)} times; rename all but one")
