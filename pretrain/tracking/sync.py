"""`pretrain sync RUN...`: sends to MLflow what it does not have of a run yet. Doing it twice adds nothing
twice."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_tools.progress import Progress
from pretrain.errors import IntegrityError, UserError
from pretrain.redact import one_line, redact
from pretrain.run.folder import RunFolder
from pretrain.run.lock import RunLock
from pretrain.run.status import actual_status
from pretrain.tracking.owed import artifacts, size_of
from pretrain.tracking.reach import require_lines
from pretrain.tracking.record import LOCAL, Sent, content_mark, page_of, read_record, real_uri
from pretrain.tracking.send import Sender

ATTEMPTS = 4
BUSY_SECONDS = 600.0
"""How long to wait for the uploader of a run that is working."""
SILENT_SECONDS = 60.0
"""A server that has accepted nothing for this long is not tried again."""
TELL_SECONDS = 5.0
"""Waits longer than this are reported."""

log = logging.getLogger(__name__)


def sync_command(runs: Sequence[str], uri: str | None = None) -> None:
    """Bring MLflow up to date with runs, and say what was sent.

    Args:
        uri: another server than the runs' own; None: their own.

    Raises:
        UserError: a folder is not a run; a server does not answer (other runs are still sent).
        IntegrityError: the journal of one is damaged, or has lost lines.
    """
    folders = [RunFolder(run) for run in runs]
    for folder in folders:
        folder.require_run()
    failures: list[UserError] = []
    for folder in folders:
        try:
            print(_sync(folder, uri))
        except UserError as error:
            failures.append(error)
    if failures:
        damaged = any(isinstance(error, IntegrityError) for error in failures)
        raise (IntegrityError if damaged else UserError)("\n".join(map(str, failures)))


def _sync(folder: RunFolder, uri: str | None) -> str:
    total = size_of(folder.metrics)
    with Progress(f"sending {folder.path.name}", total=total, unit="B") as progress:
        done = [0]

        def advance(offset: int) -> None:
            progress.advance(offset - done[0])
            done[0] = offset

        sent, values = catch_up(folder, uri, advance)
    server = redact(real_uri(folder, LOCAL if sent.uri == LOCAL else sent.uri))
    where = page_of(server, sent) or f"{server}, experiment {sent.experiment!r}, run {sent.mlflow_run}"
    new = f"{values:,} new values sent" if values is not None else "sent by the run's own uploader"
    return f"{folder.path} -> {where}: {new}"


def catch_up(
    folder: RunFolder,
    uri: str | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
    attempts: int = ATTEMPTS,
    busy_seconds: float = BUSY_SECONDS,
) -> tuple[Sent, int | None]:
    """Send everything that the folder has now, or wait until the run's own uploader has done so.

    Returns:
        What the server has, and how many values were new to it (None: another process sent them).

    Raises:
        UserError: the server does not answer; the other uploader is still working after `busy_seconds`.
        IntegrityError: the journal is damaged, or has lost lines.
    """
    require_lines(folder, actual_status(folder))
    goal = (size_of(folder.metrics), size_of(folder.evaluations))
    marks = {str(below): (path, content_mark(path)) for below, path in artifacts(folder)}
    began = time.monotonic()
    told = False
    while True:
        try:
            lock = RunLock.acquire(folder.tracking_lock, patience=0)
        except UserError:
            servers = read_record(folder).servers
            if uri is None and servers and _has(servers[0], goal, marks):
                return servers[0], None
            if not told and time.monotonic() > began + TELL_SECONDS:
                told = True
                _tell(f"{folder.path}: its uploader is at work; waiting for it, {busy_seconds:.0f} s at most")
            if time.monotonic() > began + busy_seconds:
                error = f": {servers[0].error}" if uri is None and servers and servers[0].error else ""
                raise UserError(
                    f"{folder.path}: its uploader is at work (see {folder.tracking_log}){error}; try again "
                    "later"
                ) from None
            time.sleep(0.2)
        else:
            with lock:
                return _send(Sender(folder, uri), on_progress, attempts)


@contextmanager
def told_if_slow(waited_for: str) -> Iterator[None]:
    """Print to stderr what the block waits for, if it takes longer than `TELL_SECONDS`."""
    timer = threading.Timer(TELL_SECONDS, _tell, [f"waiting for {waited_for}"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _send(sender: Sender, on_progress: Callable[[int], None], attempts: int) -> tuple[Sent, int]:
    server = redact(real_uri(sender.folder, sender.uri))
    last = time.monotonic()

    def progress(offset: int) -> None:
        nonlocal last
        last = time.monotonic()
        on_progress(offset)

    for attempt in range(attempts):
        try:
            with told_if_slow(f"MLflow at {server}"):
                sender.send(progress)
            return sender.sent, sender.values
        except UserError:
            raise
        except Exception as error:  # a server, its client or the network may raise anything
            sender.disconnect(error)
            if attempt == attempts - 1 or time.monotonic() - last >= SILENT_SECONDS:
                raise UserError(
                    f"{sender.folder.path}: MLflow at {server} does not take the metrics: {one_line(error)}"
                ) from None
            log.info("attempt %d failed: %s", attempt + 1, one_line(error))
            time.sleep(2**attempt)
    raise AssertionError("attempts must be positive")


def _has(sent: Sent, goal: tuple[int, int], marks: Mapping[str, tuple[Path, str]]) -> bool:
    """Whether a server has at least this many bytes, and these artifacts or newer ones."""
    if sent.offset < goal[0] or sent.evaluations < goal[1]:
        return False
    return all(
        sent.artifacts.get(name) == mark
        or (name in sent.artifacts and not (path.exists() and content_mark(path) == mark))
        for name, (path, mark) in marks.items()
    )
