"""Processes of a sandbox: started, identified and ended by pid.

A pid is trusted only together with the start time that the kernel records, so that another process that got
the same number later is never touched.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process that may have ended since."""

    pid: int
    started: int
    """Clock ticks from boot to its start."""

    @property
    def alive(self) -> bool:
        return start_time(self.pid) == self.started

    def send(self, number: int) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks from boot; None if there is none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def process_of(pid: int) -> Process | None:
    started = start_time(pid)
    return None if started is None else Process(pid, started)


def remember(path: Path, process: Process) -> None:
    path.write_text(json.dumps(asdict(process)) + "\n")


def recall(path: Path) -> Process | None:
    """A process that was recorded in a file; None if none was."""
    try:
        return Process(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def end(processes: Iterable[Process], patience: float) -> None:
    """SIGTERM, then SIGKILL to what is left after `patience` seconds."""
    left = list(processes)
    for process in left:
        process.send(signal.SIGTERM)
    deadline = time.monotonic() + patience
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [process for process in left if process.alive]
    for process in left:
        process.send(signal.SIGKILL)
    while any(process.alive for process in left):
        time.sleep(0.02)


def with_environment(**variables: str) -> Iterator[tuple[Process, str, dict[str, str]]]:
    """Processes that were started with these environment variables.

    Yields:
        The process, its command name and its environment.
    """
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            raw = (entry / "environ").read_bytes().decode(errors="replace")
            name = (entry / "comm").read_text().strip()
        except OSError:
            continue
        environment = dict(item.split("=", 1) for item in raw.split("\0") if "=" in item)
        if all(environment.get(key) == value for key, value in variables.items()):
            process = process_of(int(entry.name))
            if process is not None:
                yield process, name, environment
