"""The one verdict that ends a job on all its ranks, and the note that a signal came: files in the run folder.

The first rank to write the verdict wins; every later rank gets the first one's. So the original failure is
reported, and not the failures that it causes on other ranks.
"""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from signal import NSIG
from typing import Annotated

from pydantic import Field

from data_tools.bounded import UnfitFileError, read_bytes
from data_tools.typed import Natural, parse
from pretrain.redact import redact

LARGEST_FILE = 1 << 20
WRITE_SECONDS = 2.0
"""Time for a rank to write a verdict whose file it has created."""


@dataclass(frozen=True)
class StopReason:
    """Why a job ends."""

    code: Annotated[int, Field(ge=0, le=255)]
    """Exit code of every rank."""
    message: str
    rank: Natural
    """The rank that wrote it."""
    told_by: Natural
    """The rank that prints it."""
    at_once: bool
    """Ranks end without waiting for their main threads, which may never return."""


class StopFiles:
    """The files in which the ranks of one job leave verdict and note."""

    def __init__(self, folder: Path, job: str) -> None:
        self._verdict = folder / f"verdict-{job}.json"
        self._stop = folder / f"stop-{job}"

    def post(self, verdict: StopReason) -> StopReason:
        """Write the verdict, unless there is one; waits a moment for one that is being written.

        Returns:
            The verdict that is in force, without secrets.

        Raises:
            OSError: it cannot be written.
        """
        verdict = replace(verdict, message=redact(verdict.message))
        try:
            with open(self._verdict, "x") as file:
                file.write(json.dumps(asdict(verdict)))
        except FileExistsError:
            return self._verdict_of_another() or verdict
        return verdict

    def _verdict_of_another(self) -> StopReason | None:
        """The other rank's verdict, which may still be in writing; None if that rank has died since."""
        deadline = time.monotonic() + WRITE_SECONDS
        while (found := self.verdict()) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return found

    def verdict(self) -> StopReason | None:
        """The verdict, if there is a complete one."""
        try:
            return parse(StopReason, read_bytes(self._verdict, LARGEST_FILE))
        except (FileNotFoundError, UnfitFileError, ValueError):
            return None

    def ask_to_stop(self, number: int) -> None:
        self._stop.write_text(str(number))

    def asked_to_stop(self) -> int:
        """Number of the signal that some rank received, 0 if none did."""
        try:
            number = int(read_bytes(self._stop, LARGEST_FILE))
        except (FileNotFoundError, UnfitFileError, ValueError):
            return 0
        return number if 0 < number < NSIG else 0


def clear(folder: Path) -> None:
    """Remove the files of earlier jobs, before any rank of this one writes there."""
    for pattern in ("rank-*.json", "verdict-*.json", "stop-*"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
