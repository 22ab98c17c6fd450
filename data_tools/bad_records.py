"""Records of the input that cannot be used: named in place, counted against a limit, listed at the end."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_tools.errors import UserError
from data_tools.index_file import write_atomically

SKIPPED_NAME = "skipped.jsonl"


@dataclass(frozen=True)
class BadRecord:
    """A record that cannot be used: `where` is "line 3" or "row 3", or empty for the file as a whole."""

    file: str
    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}{', ' if self.where else ''}{self.where}: {self.reason}"


def check_skipped(skipped: Iterable[BadRecord], most: int) -> None:
    """Raise UserError for the first bad record more than `most`."""
    for count, record in enumerate(skipped, 1):
        if count > most:
            allowed = (
                f"more than the {most} bad records of --bad-records"
                if most
                else "--bad-records skip:N skips up to N"
            )
            raise UserError(f"{record} ({allowed})")


def write_skipped(directory: Path, skipped: Sequence[BadRecord]) -> None:
    """List the records that a build skipped in `skipped.jsonl`; no file if there are none."""
    if skipped:
        lines = [json.dumps(asdict(record), ensure_ascii=False) for record in skipped]
        write_atomically(directory / SKIPPED_NAME, "\n".join(lines) + "\n")
