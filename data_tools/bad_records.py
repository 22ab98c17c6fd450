"""Records of the input that cannot be used: reported with their location, counted against a limit, listed at
the end."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from data_tools.atomic import write_atomically
from data_tools.counts import counted
from data_tools.errors import UserError, printable

SKIPPED_NAME = "skipped.jsonl"
BadRecordsOption = Annotated[
    str, typer.Option(metavar="stop|skip:N", help="At a bad record, stop or skip up to N.")
]


@dataclass(frozen=True)
class BadRecord:
    """A record that cannot be used: `where` is "line 3" or "row 3", or empty for the file as a whole."""

    file: str
    where: str
    reason: str

    def __post_init__(self) -> None:
        """Keep the reason to one line, whatever library gave it."""
        object.__setattr__(self, "reason", " ".join(self.reason.split()))

    def __str__(self) -> str:
        return f"{self.file}{', ' if self.where else ''}{self.where}: {self.reason}"


def parse_bad_records(value: str) -> int:
    """The number of bad records to skip. Raises UserError for anything but "stop" or "skip:N"."""
    if value == "stop":
        return 0
    kind, _, count = value.partition(":")
    if kind != "skip" or not count.isascii() or not count.isdigit() or int(count) == 0:
        raise UserError(f"--bad-records {value}: 'stop' or 'skip:N' with N of at least 1, as in skip:100")
    return int(count)


def check_skipped(skipped: Iterable[BadRecord], most: int) -> None:
    """Raise UserError for the first bad record beyond `most`."""
    for count, record in enumerate(skipped, 1):
        if count > most:
            allowed = (
                f"more than the {most} bad records of --bad-records"
                if most
                else "--bad-records skip:N skips up to N"
            )
            raise UserError(f"{record} ({allowed})")


def unreadable(record: BadRecord) -> UserError:
    """The error for a file of records none of which can be read, however many may be skipped."""
    return UserError(
        f"{record} (nothing in it can be read, and that is not one bad record: take the file out of --input)"
    )


def write_skipped(directory: Path, skipped: Sequence[BadRecord]) -> None:
    """List the records that a build skipped in `skipped.jsonl`; no file if there are none."""
    if skipped:
        lines = [json.dumps(asdict(record), ensure_ascii=False) for record in skipped]
        write_atomically(directory / SKIPPED_NAME, "\n".join(lines) + "\n")


def print_skipped(skipped: Sequence[BadRecord], listed: Path | None) -> None:
    """Tell the user how many records were skipped, the first of them, and the file that lists all."""
    if skipped:
        where = f" (all in {listed})" if listed else ""
        typer.echo(f"{counted(len(skipped), 'bad record')} skipped{where}:")
        for record in skipped[:10]:
            typer.echo(f"  {printable(str(record))}")
