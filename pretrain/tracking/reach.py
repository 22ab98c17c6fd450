"""Whether a journal still has all lines that were written.

A journal is on disk before a checkpoint is saved, and before a job reports how it ended. So whoever finds a
checkpoint of step 12, or a `status.json` that says step 12, finds the lines of steps 1 to 12; a crash can
only have lost lines of later steps. If they are missing, someone has emptied or truncated the file, or copied
only part of it.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from data_tools.bounded import last_lines
from pretrain.errors import IntegrityError
from pretrain.run.folder import RunFolder
from pretrain.run.status import Status
from pretrain.tracking.journal import Entry, decode, lines_of

LAST_BYTES = 1 << 16
BARE = {"step", "time"}
"""The only keys of the first line where a journal starts over: its step is done, and earlier lines are
gone."""


def gap(steps: Iterable[Entry], step: int) -> str | None:
    """What is missing among the lines of steps 1 to `step`, in words; None if nothing is."""
    last = 0
    for number, entry in enumerate(steps, start=1):
        now = int(entry["step"])
        if now < last:
            return f"a line of step {now} follows one of step {last}"
        if now > last + 1 and last < step and (number > 1 or not entry.keys() <= BARE):
            return f"there is no line of step {last + 1}, the next is of step {now}"
        last = now
    return None if last >= step else f"it ends with step {last}" if last else "there is no line in it"


def require_checkpoints_lines(path: Path, step: int) -> bool:
    """Refuse to resume from a checkpoint with a journal that has lost lines of the steps before it.

    Args:
        step: of the checkpoint; 0: there is none.

    Returns:
        Whether the file exists. A user who deletes it wants a new one.

    Raises:
        IntegrityError: a line is missing; says which.
    """
    if not path.exists():
        return False
    if found := gap(_entries(path, whole=False), step):
        raise IntegrityError(
            f"{path}: lines are gone: {found}, and the checkpoint to go on from is of step {step}; give the "
            f"file back from a copy, or delete it to begin the curves anew at step {step + 1}"
        )
    return True


def require_lines(folder: RunFolder, status: Status | None, entries: Iterable[Entry] | None = None) -> None:
    """Refuse a run whose journal has lost lines of steps that `status.json` says are done.

    Args:
        status: read before the journal was.
        entries: its lines; None: read them here.

    Raises:
        IntegrityError: a line is missing or damaged; says which.
    """
    if status is None:
        return
    if found := gap(_entries(folder.metrics) if entries is None else entries, status.step):
        raise IntegrityError(_lost(folder, status, found))


def require_last_line(folder: RunFolder, status: Status | None) -> None:
    """As `require_lines`, but reads only the end of the journal, however long it is."""
    if status is None:
        return
    last = last_step(folder.metrics)
    if last < status.step:
        found = f"it ends with step {last}" if last else "there is no line in it"
        raise IntegrityError(_lost(folder, status, found))


def _lost(folder: RunFolder, status: Status, found: str) -> str:
    if not folder.metrics.exists():
        found = "there is no such file"
    return (
        f"{folder.metrics}: lines are gone: {found}, and {folder.status.name} says that step {status.step} "
        "was done; give the file back from a copy"
    )


def last_step(path: Path) -> int:
    """Step of the last line of a journal; 0 if there is none."""
    lines = reversed(last_lines(path, LAST_BYTES))
    return next((int(entry["step"]) for line in lines if (entry := decode(line))), 0)


def _entries(path: Path, *, whole: bool = True) -> Iterator[Entry]:
    """Lines of a journal; none if there is no file. With `whole` a damaged line is an error, else it is
    skipped."""
    with suppress(FileNotFoundError):
        yield from lines_of(path, skip_damaged=not whole)
