"""Logs of a run: every rank writes its own file, rank 0 also the console.

The file has everything of ours and the warnings of libraries, with time, host and rank in each line. The
console shows our messages, and of libraries only errors, so that their notices do not bury the progress line.
"""

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

OURS = ("pretrain", "data_tools", "evals", "slurm")


class _RankFormatter(logging.Formatter):
    def __init__(self, rank: int) -> None:
        host = socket.gethostname()
        super().__init__(f"%(asctime)s {host} rank {rank} %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        zone = time.strftime("%z", time.localtime(record.created))
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        return f"{moment}.{int(record.msecs):03d}{zone}"


class _ConsoleHandler(logging.Handler):
    """Prints above a live progress line."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        message = logging.Formatter("%(message)s").format(record)
        self._console.print(prefix + message, markup=False, highlight=False, soft_wrap=True)


def is_ours(record: logging.LogRecord) -> bool:
    """Whether a record comes from this project."""
    return record.name.partition(".")[0] in OURS


def _is_for_console(record: logging.LogRecord) -> bool:
    # A line that is shown live already goes to the file alone.
    return (is_ours(record) or record.levelno >= logging.ERROR) and not getattr(record, "live", False)


@contextmanager
def setup_logging(path: Path, rank: int, console: Console | None = None) -> Iterator[None]:
    """Send log records to a rank's file (appending) and to a console; put everything back at the end.

    Raises:
        OSError: the file cannot be opened.
    """
    file = logging.FileHandler(path, encoding="utf-8")
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
