"""How many rows a parquet file says that it holds, which is not always what it holds."""

from typing import Any


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
