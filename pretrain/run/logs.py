"""Logs of a run: every rank writes its own file, rank 0 also the console.

The file has all our messages and the warnings of libraries, with time, host and rank in each line. The
console shows our messages, and from libraries only errors, so that their notices do not bury the progress
line. Neither raises: a line that a full disk does not take, or a closed terminal, must not end a run.
"""

import io
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from rich.console import Console

from pretrain.redact import RedactingFormatter

OURS = ("pretrain", "data_tools", "evals", "slurm")


class _RankFormatter(RedactingFormatter):
    def __init__(self, rank: int) -> None:
        host = socket.gethostname()
        super().__init__(f"%(asctime)s {host} rank {rank} %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        zone = time.strftime("%z", time.localtime(record.created))
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        return f"{moment}.{int(record.msecs):03d}{zone}"


class _FileHandler(logging.Handler):
    """Appends lines to a file, one write each. Lines that could not be written are counted in the file once
    it takes lines again.

    Raises (constructor):
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"{self.format(record)}\n"
        except Exception:
            self.handleError(record)  # a bug in the logging call
            return
        try:
            if self._lost:
                self._write(f"\n({self._lost} lines are missing here: they could not be written)\n")
                self._lost = 0
            self._write(line)
        except OSError:
            self._lost += 1

    def _write(self, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        while data:
            data = data[os.write(self._descriptor, data) :]

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._descriptor)
        super().close()


class _Errors(io.TextIOBase):
    """Standard error, as long as it can be written."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            _stderr().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            _stderr().flush()

    def isatty(self) -> bool:
        return _stderr().isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(_stderr(), "encoding", None) or "utf-8"


def _stderr() -> IO[str]:
    """The real standard error, even while rich has replaced it for a live line."""
    stream: IO[str] = getattr(sys.stderr, "rich_proxied_file", sys.stderr) or io.StringIO()
    return stream


def error_console() -> Console:
    """The console on standard error; output that cannot be written there is dropped."""
    return Console(file=cast(IO[str], _Errors()))


class _ConsoleHandler(logging.Handler):
    """Prints above a live progress line."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        message = RedactingFormatter("%(message)s").format(record)
        self._console.print(prefix + message, markup=False, highlight=False, soft_wrap=True)


def is_ours(record: logging.LogRecord) -> bool:
    """Whether a record comes from this project."""
    return record.name.partition(".")[0] in OURS


def _is_for_console(record: logging.LogRecord) -> bool:
    # A line that is already shown live goes only to the file.
    return (is_ours(record) or record.levelno >= logging.ERROR) and not getattr(record, "live", False)


@contextmanager
def setup_logging(path: Path, rank: int, console: Console | None = None) -> Iterator[None]:
    """Send log records to a rank's file (appending) and to a console; restore everything at the end.

    Raises OSError: the file cannot be opened.
    """
    file = _FileHandler(path)
    file.setFormatter(_RankFormatter(rank))
    file.addFilter(lambda record: is_ours(record) or record.levelno >= logging.WARNING)
    handlers: list[logging.Handler] = [file]
    if console is not None:
        shown = _ConsoleHandler(console)
        shown.addFilter(_is_for_console)
        handlers.append(shown)
    root = logging.getLogger()
    before, level = root.handlers, root.level
    root.handlers = handlers
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers = before
        root.setLevel(level)
        file.close()
