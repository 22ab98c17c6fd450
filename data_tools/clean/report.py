"""What a cleaning kept and what it removed, and why, as `report.json` and as a table."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.table import Table
from rich.text import Text

from data_tools.bad_records import BadRecord
from data_tools.bounded import SMALL_FILE, read_bytes
from data_tools.counts import counted
from data_tools.errors import IntegrityError
from data_tools.progress import amount
from data_tools.typed import Natural, parse

REPORT_NAME = "report.json"


@dataclass(frozen=True)
class CleanReport:
    """Counts of documents, and bytes of their text."""

    documents: Natural
    bytes: Natural
    kept_documents: Natural
    kept_bytes: Natural
    removed: dict[str, Natural]
    """Documents by the rule that removed them, most first, under the libraries' own names."""
    lines: dict[str, Natural]
    """Lines that `c4` removed from documents that passed the filters, by rule, most first."""
    exact_duplicates: Natural
    near_duplicates: Natural
    empty_documents: Natural
    skipped: tuple[BadRecord, ...]
    partitions: Natural
    left_out: dict[str, tuple[Natural, Natural]] = field(default_factory=dict)
    """Files of input folders that were not read, and their bytes, by ending."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def read_report(directory: Path) -> CleanReport:
    """The report of a finished cleaning. Raises IntegrityError if it is damaged."""
    path = directory / REPORT_NAME
    try:
        return parse(CleanReport, read_bytes(path, SMALL_FILE))
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise IntegrityError(f"{path}: is not a report of `pretrain data clean`: {error}") from None


def table(report: CleanReport, title: str) -> Table:
    shown = Table("", "documents", "share", title=Text(title), title_justify="left")
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
        shown.add_row(f"taken out: {reason}", counted(count, "line"), "")
    return shown
