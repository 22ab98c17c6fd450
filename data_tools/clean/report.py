"""What a cleaning kept and what it removed, and why: as `report.json` and as a table."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from data_tools.bad_records import BadRecord
from data_tools.errors import IntegrityError
from data_tools.progress import amount

REPORT_NAME = "report.json"


@dataclass(frozen=True)
class CleanReport:
    """Counts of documents, and bytes of their text."""

    documents: int
    bytes: int
    kept_documents: int
    kept_bytes: int
    removed: dict[str, int]
    """Documents by the rule that removed them, most first; the libraries' own names."""
    lines: dict[str, int]
    """Lines that `c4` took out of documents that passed the filters, in the same way."""
    exact_duplicates: int
    near_duplicates: int
    empty_documents: int
    skipped: tuple[BadRecord, ...]
    partitions: int

    def to_json(self) -> str:
        """The text of `report.json`."""
        return json.dumps(asdict(self), indent=1) + "\n"


def read_report(directory: Path) -> CleanReport:
    """The report of a finished cleaning. Raises IntegrityError if it is damaged."""
    path = directory / REPORT_NAME
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return CleanReport(**{**value, "skipped": tuple(BadRecord(**record) for record in value["skipped"])})
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: is not a report of `pretrain data clean`: {error}") from None


def table(report: CleanReport, title: str) -> Table:
    """The report for a person."""
    shown = Table("", "documents", "share", title=title, title_justify="left")
    shown.columns[1].justify = shown.columns[2].justify = "right"
    rows = {
        f"read, {amount(report.bytes, 'B')}": report.documents,
        **{f"removed: {reason}": count for reason, count in report.removed.items()},
        "removed: exact duplicate": report.exact_duplicates,
        "removed: near duplicate": report.near_duplicates,
        f"kept, {amount(report.kept_bytes, 'B')}": report.kept_documents,
    }
    for name, count in rows.items():
        shown.add_row(name, f"{count:,}", f"{100 * count / max(report.documents, 1):.2f} %")
    for reason, count in report.lines.items():
        shown.add_row(f"taken out: {reason}", f"{count:,} lines", "")
    return shown
