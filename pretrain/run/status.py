"""The state of a run: `status.json`, written by rank 0 at its start and end, read by everybody else."""

import errno
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_tools.bounded import SMALL_FILE, UnfitFileError, read_bytes
from data_tools.typed import Natural, Seconds, parse
from pretrain.errors import StoppedEarly, UserError, named
from pretrain.redact import redact
from pretrain.run.folder import RunFolder, write_atomically
from pretrain.run.lock import is_held

BLOCK = 512
"""Bytes per block in the output of `stat`."""

State = Literal["running", "finished", "failed", "stopped", "crashed"]


@dataclass(frozen=True)
class Status:
    """One job's report on its run."""

    run: str
    """Id of the logical run: the same for every job that resumes it, stored in checkpoints."""
    job: Natural
    """How many jobs have worked on the run, this one included."""
    state: State
    """finished: all steps are done, and saved. stopped: by a signal, a checkpoint saved. failed: by an error.
    crashed: never written, but what `actual_status` finds when the job is gone without a word."""
    step: Natural
    """Optimizer steps done when this was written, as far as the journal has lines of them."""
    steps: Natural
    """Optimizer steps of the whole run."""
    started: Seconds
    """Unix time at which this job started."""
    time: Seconds
    """Unix time of this report."""
    reason: str | None = None
    """Why it failed or stopped."""
    exit_code: int | None = None
    facts: dict[str, str] = field(default_factory=dict)
    """Facts about the run beyond its config: versions, host, parallel dims, fingerprints."""
    datasets: list[dict[str, Any]] = field(default_factory=list)
    """What it reads, as `pretrain.tracking.datasets.datasets_of` gives it."""
    course: int = 0
    """How often the run has gone back to take another course: after rollbacks, and after skipped updates."""

    @property
    def goes_on(self) -> bool:
        """Whether it stopped with all its work saved: the next job, or the same command, resumes it."""
        return self.state == "stopped" and self.exit_code == StoppedEarly.exit_code


def write_status(folder: RunFolder, status: Status) -> None:
    """Replace the status. Raises OSError: it cannot be written."""
    text = redact(json.dumps(asdict(status), indent=1)) + "\n"
    try:
        write_atomically(folder.status, text)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not _overwrite(folder.status, text):
            raise


def _overwrite(path: Path, text: str) -> bool:
    """Overwrite a file in one write, within the blocks that it already has; returns whether they are
    enough."""
    data = text.encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        found = os.fstat(descriptor)
        if len(data) > found.st_blocks * BLOCK:
            return False
        with named(path):
            os.pwrite(descriptor, data.ljust(found.st_size), 0)  # JSON may end with spaces
        return True
    finally:
        os.close(descriptor)


def read_status(folder: RunFolder) -> Status | None:
    """The last report of a job, None if there was none. Raises UserError: the file is damaged."""
    try:
        return parse(Status, read_bytes(folder.status, SMALL_FILE))
    except FileNotFoundError:
        return None
    except UnfitFileError as error:
        raise UserError(f"{folder.status} {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{folder.status} is damaged: {error}") from None


def actual_status(folder: RunFolder) -> Status | None:
    """The true status: a job that says "running" but no longer holds the lock has crashed."""
    status = read_status(folder)
    if status is None or status.state != "running" or is_held(folder.lock):
        return status
    latest = read_status(folder)  # it may have ended between reading and checking the lock
    if latest is None or latest.state != "running":
        return latest
    crashed = {
        "state": "crashed",
        "reason": "the job is gone without a word (killed, or its machine is down)",
    }
    return Status(**(asdict(latest) | crashed))


def is_over(folder: RunFolder) -> bool:
    """Whether no job of the run will write another checkpoint; a run that stopped or crashed may be requeued,
    unless it was cancelled."""
    status = actual_status(folder)
    if status is None or status.state in ("running", "crashed"):
        return False
    return not status.goes_on
