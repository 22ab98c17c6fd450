"""The journal of a run, `metrics.jsonl`: one JSON object per line, the source of truth for every curve.

A line is strict JSON: `step` (optimizer steps done), `time` (unix seconds) and numbers. Numbers that JSON
lacks are the strings "NaN", "Infinity" and "-Infinity" (protobuf's mapping), which `read` converts back. Each
line goes to the kernel in one write, so a killed process loses none; `sync` puts them on disk, before a
checkpoint is saved.
"""

import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from data_tools.atomic import replacing
from data_tools.bounded import open_regular
from pretrain.errors import IntegrityError, named

Entry = dict[str, float]

SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
LONGEST_LINE = 1 << 20
"""Bytes; a real line has a few hundred."""
LARGEST = 1 << 53
"""Whole numbers below this are exact in every JSON reader (RFC 8259, section 6)."""
MAX_PENDING_BYTES = 64 * 2**20
CHUNK = 1 << 17
"""Bytes that a `Follower` reads at once."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Truncation:
    """The result of `truncate_after`."""

    kept: int
    superseded: int
    """Lines of later steps, moved to `metrics.superseded.jsonl`."""
    damaged: int
    """Lines that were not a JSON object with a step, also moved; a kill may leave a torn last line."""


class Journal:
    """Appends lines to a journal. A full disk does not stop a run: lines wait in memory until there is space.

    Raises (constructor):
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending = b""
        self._refusal: OSError | None = None
        """Why lines are waiting."""
        self._last_step = -math.inf
        self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._size = os.fstat(self._descriptor).st_size
        if not _ends_with_newline(self.path):
            self._pending = b"\n"  # ends a torn line, so that the next one is separate

    def append(self, step: int, metrics: Mapping[str, float], when: float | None = None) -> None:
        """Write one line.

        Args:
            step: optimizer steps done; may not decrease (`truncate_after` goes back).
            when: unix seconds; None: now.

        Raises:
            ValueError: the step decreases.
            OSError: the disk has been full for so long that 64 MiB are waiting.
        """
        if step < self._last_step:
            raise ValueError(f"{self.path}: step {step} after step {self._last_step}")
        self._last_step = step
        self._pending += encode({"step": step, "time": time.time() if when is None else when, **metrics})
        self._flush()

    def _flush(self) -> None:
        """Write the waiting lines, if the disk takes them."""
        data = self._pending
        try:
            with named(self.path):
                while data:
                    data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            self._take_back(len(self._pending) - len(data))
            if self._refusal is None:
                log.warning("%s: %s; new lines wait in memory", self.path, error.strerror)
            self._refusal = error
            if len(self._pending) > MAX_PENDING_BYTES:
                raise
            return
        self._size += len(self._pending)
        self._pending = b""
        if self._refusal is not None:
            log.info("%s: the lines that waited are written", self.path)
            self._refusal = None

    def _take_back(self, written: int) -> None:
        """Remove a torn line from the file; if the disk does not allow that, continue after it."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            self._size += written
            self._pending = self._pending[written:]

    def sync(self) -> None:
        """Put every line on disk: a checkpoint must not exist without the lines of its steps.

        Raises OSError: lines are still waiting for space on the disk.
        """
        self._flush()
        if self._refusal is not None:
            raise self._refusal
        with named(self.path):
            os.fsync(self._descriptor)

    def truncate_after(self, step: int) -> Truncation:
        """Go back to a step: later lines, and damaged ones, move to `metrics.superseded.jsonl`.

        The file is replaced, not truncated, so that a reader which follows it notices.
        """
        self.sync()
        with open(self.path, "rb") as lines:
            counts = Counter(_is_later(line, step) for line in lines)
        if counts[True] or counts[None]:
            superseded = self.path.with_name("metrics.superseded.jsonl")
            with (
                open(self.path, "rb") as lines,
                replacing(self.path) as kept,
                named(superseded),
                open(superseded, "ab") as moved,
            ):
                for line in lines:
                    (kept if _is_later(line, step) is False else moved).write(line)
                moved.flush()
                os.fsync(moved.fileno())
            os.close(self._descriptor)
            self._open()
        self._last_step = step
        if counts[None]:
            log.warning("%s: %d damaged line(s) moved to metrics.superseded.jsonl", self.path, counts[None])
        return Truncation(counts[False], counts[True], counts[None])

    def close(self) -> None:
        """Write the waiting lines, as far as the disk takes them, and close the file. Raises nothing."""
        with suppress(OSError):
            self._flush()
        if self._pending:
            lines = self._pending.count(b"\n")
            log.warning("%s: the last %d lines could not be written and are lost", self.path, lines)
        with suppress(OSError):
            os.close(self._descriptor)


class Follower:
    """Reads the complete lines of a file that another process appends to or replaces. It need not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        """Bytes read, always at the end of a line."""
        self._descriptor: int | None = None

    def was_replaced(self) -> bool:
        """Whether the path now names another file, or one shorter than what has been read."""
        if self._descriptor is None:
            return False
        try:
            now = os.stat(self.path)
        except FileNotFoundError:
            return True
        return not os.path.samestat(now, os.fstat(self._descriptor)) or now.st_size < self.offset

    def read(self) -> list[Entry]:
        """The next lines, up to about 128 KiB of them; none if there is nothing new."""
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return []
        size, data = CHUNK, b""
        while b"\n" not in data:  # a line longer than a chunk
            data = os.pread(self._descriptor, size, self.offset)
            if len(data) < size and b"\n" not in data:
                return []
            size *= 2
        whole = data[: data.rindex(b"\n") + 1]
        entries = []
        for line in whole.splitlines():
            entry = decode(line)
            if entry is None:
                log.warning("%s: passed over a line that is no JSON: %r", self.path, line[:60])
            else:
                entries.append(entry)
        self.offset += len(whole)
        return entries

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read(path: Path) -> list[Entry]:
    """All lines of a journal, in order, without a torn last line (from a writer that is active, or was
    killed).

    Raises:
        IntegrityError: a line before the end is not a JSON object with a step.
        FileNotFoundError: there is no journal.
    """
    return list(lines_of(path))


def lines_of(path: Path, *, skip_damaged: bool = False) -> Iterator[Entry]:
    """As `read`, one by one; with `skip_damaged`, damaged lines are passed over."""
    with open_regular(path) as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            entry = decode(line) if len(line) <= LONGEST_LINE else None
            if entry is not None:
                yield entry
            elif not skip_damaged and (line.endswith(b"\n") or len(line) > LONGEST_LINE):
                raise IntegrityError(f"{path}:{number}: not a line of a journal: {line[:60]!r}")


def curve(entries: list[Entry], name: str) -> Iterator[tuple[int, float]]:
    """(step, value) of every line that has a metric."""
    return ((int(entry["step"]), entry[name]) for entry in entries if name in entry)


def encode(entry: Mapping[str, object]) -> bytes:
    try:
        text = json.dumps(entry, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps({key: _portable(value) for key, value in entry.items()}, separators=(",", ":"))
    return text.encode() + b"\n"


def decode(line: bytes) -> Entry | None:
    """A line's numbers by name, or None if it is not a JSON object of numbers with a step."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    entry = {key: number for key, value in found.items() if (number := _number(value)) is not None}
    step, when = entry.get("step"), entry.get("time", 0)
    is_whole = len(entry) == len(found) and type(step) is int and step >= 0 and 0 <= when < LARGEST
    return entry if is_whole else None


def _number(value: object) -> float | None:
    """The value of a metric; None if it is not a number. True is an int in Python, but not a valid metric."""
    if type(value) is str:
        return SPECIAL.get(value)
    if type(value) is int:
        return value if abs(value) < LARGEST else None
    return value if type(value) is float else None


def _portable(value: object) -> object:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _is_later(line: bytes, step: int) -> bool | None:
    """Whether a line is of a later step; None if it is damaged."""
    entry = decode(line)
    return None if entry is None else entry["step"] > step


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.seek(0, os.SEEK_END) == 0 or (file.seek(-1, os.SEEK_END) >= 0 and file.read() == b"\n")
