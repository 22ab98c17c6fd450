"""A rank's heartbeat: one small file, rewritten every few seconds by a thread, read by the other ranks.

It is rewritten in place by one write of fixed size, so it costs the shared file system no new names, and a
reader sees the old or the new content. Age is judged by counters that advance, never by comparing clocks.
"""

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from data_tools.bounded import UnfitFileError, read_bytes
from data_tools.typed import Natural, Seconds, parse
from pretrain.distributed.ranks import process_state
from pretrain.health.phase_timer import ORDER, Moment, Phase

_BYTES = 512


@dataclass(frozen=True)
class Heartbeat:
    """The last report of a rank about itself."""

    job: str
    """The same for all ranks of one job, different for every job."""
    rank: Natural
    host: str
    pid: Natural
    space: str
    """Scope in which pids are unique: host and pid namespace."""
    count: Natural
    """Number of heartbeats so far."""
    time: Seconds
    """Unix time, by the rank's own clock."""
    step: Natural
    """Counted from 1; 0 before the first."""
    phase: Annotated[str, AfterValidator(lambda text: Phase(text).value)]
    part: int
    lasted: Seconds
    """Seconds that the phase has lasted."""
    limit: Seconds | None
    """Seconds that it may last; None: forever."""

    @property
    def progress(self) -> tuple[int, int, int]:
        """A key that orders ranks by their progress."""
        return self.step, ORDER[Phase(self.phase)], self.part

    @property
    def place(self) -> str:
        """`data wait of step 12`, or `start-up`."""
        return f"{self.phase} of step {self.step}" if self.step else self.phase

    @property
    def name(self) -> str:
        return f"rank {self.rank} on {self.host}"

    @property
    def ended(self) -> bool:
        """Whether the rank has reported that it is ending."""
        return self.phase == Phase.ENDED.value

    @property
    def overdue(self) -> bool:
        """Whether the phase has lasted longer than its limit."""
        return self.limit is not None and self.lasted > self.limit


def path_of(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:04d}.json"


def pid_space() -> str:
    """Host and pid namespace of this process."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


class HeartbeatWriter:
    """Writes the heartbeat of this process."""

    def __init__(self, folder: Path, job: str, rank: int) -> None:
        self._path = path_of(folder, rank)
        self._job, self._rank = job, rank
        self._host, self._pid, self._space = socket.gethostname(), os.getpid(), pid_space()
        self._count = 0

    def beat(self, moment: Moment, limit: float) -> Heartbeat:
        """Write what the rank is doing now. Raises OSError: it cannot be written."""
        self._count += 1
        heartbeat = Heartbeat(
            job=self._job,
            rank=self._rank,
            host=self._host,
            pid=self._pid,
            space=self._space,
            count=self._count,
            time=round(time.time(), 3),
            step=moment.step,
            phase=moment.phase.value,
            part=moment.part,
            lasted=round(time.monotonic() - moment.since, 3),
            limit=None if limit == float("inf") else limit,
        )
        text = json.dumps(asdict(heartbeat)).encode()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(descriptor, text.ljust(_BYTES - 1) + b"\n", 0)
        finally:
            os.close(descriptor)
        return heartbeat


def read_heartbeat(folder: Path, rank: int, job: str | None = None) -> Heartbeat | None:
    """The heartbeat of a rank; None if there is none, or it belongs to another job.

    Raises OSError: it cannot be read.
    """
    try:
        heartbeat = parse(Heartbeat, read_bytes(path_of(folder, rank), 8 * _BYTES))
    except (FileNotFoundError, UnfitFileError, ValueError):
        return None
    return heartbeat if job in (None, heartbeat.job) else None


def is_dead(beat: Heartbeat) -> bool:
    """Whether the process of a heartbeat is known to be gone; False if its pid is of another host or
    namespace."""
    if not beat.space or beat.space != pid_space():
        return False
    return process_state(beat.pid) in ("", "Z", "X")


def rank_name(folder: Path, rank: int) -> str:
    """`rank 5 on n2`, or less if its heartbeat cannot be read."""
    with suppress(OSError):
        heartbeat = read_heartbeat(folder, rank)
        if heartbeat is not None:
            return heartbeat.name
    return f"rank {rank}"


def last_place(folder: Path, rank: int, pid: int) -> str:
    """` (last heartbeat: data wait of step 12)`, or empty if the process with that pid has no heartbeat."""
    with suppress(OSError):
        heartbeat = read_heartbeat(folder, rank)
        if heartbeat is not None and heartbeat.pid == pid:
            return f" (last heartbeat: {heartbeat.place})"
    return ""
