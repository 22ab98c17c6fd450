"""A command and all that descends from it, which a variable of their environment tells apart from others."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

MARK = "PRETRAIN_TEST_FAMILY"
LIMIT = 600.0
"""Seconds, on a busy machine; what is left behind goes on for longer."""


class Family:
    """Starts a command; as a context manager, leaves nothing of it behind."""

    def __init__(self, log: Path, *command: object, cwd: Path | None = None, **environment: str) -> None:
        self.log = log
        self._name = uuid.uuid4().hex
        with open(log, "wb") as output:
            self._parent = subprocess.Popen(
                [sys.executable, *map(str, command)],
                env={**os.environ, **environment, MARK: self._name},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def commands(self) -> dict[int, str]:
        """Pid and command line of all but the parent."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self._parent.pid:
                continue
            try:
                if f"{MARK}={self._name}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[int(entry.name)] = line
            except OSError:
                continue  # it has ended
        return found

    def with_words(self, *words: str) -> list[int]:
        """Pids of those whose command line holds all these words, and are what it says already."""
        return [
            pid
            for pid, line in self.commands().items()
            if "/tie.py " not in line and all(word in line for word in words)
        ]

    def until(self, due: Callable[[], object]) -> None:
        """Wait for something, while the command runs."""
        deadline = time.monotonic() + LIMIT
        while not due():
            assert self._parent.poll() is None, f"it ended too early:\n{self.said()}"
            assert time.monotonic() < deadline, f"it does not come to it: {self.commands()}\n{self.said()}"
            time.sleep(0.1)

    def end(self, number: int) -> int:
        """Send a signal to the command alone; its exit code, once nothing of it is left."""
        self._parent.send_signal(number)
        code = self._parent.wait(LIMIT)
        deadline = time.monotonic() + LIMIT
        while left := self.commands():
            assert time.monotonic() < deadline, f"left behind: {left}"
            time.sleep(0.1)
        return code

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def __enter__(self) -> "Family":
        return self

    def __exit__(self, *_: object) -> None:
        if self._parent.poll() is None:
            self._parent.kill()
            self._parent.wait()
        for pid in self.commands():
            stop(pid, signal.SIGKILL)


def stop(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def pretrain(*arguments: object) -> Sequence[object]:
    return ["-m", "pretrain", *arguments]
