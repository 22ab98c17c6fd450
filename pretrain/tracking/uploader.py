"""The uploader: a process of its own beside the trainer, so that MLflow never slows or kills a run.

    python -m pretrain.tracking.uploader RUN          until the run has ended
    python -m pretrain.tracking.uploader RUN --once   what there is now

It follows the run's journal and sends it, retries for as long as the job lives if the server is down, and
ends when the run has ended and everything is sent. What it could not send, `pretrain sync` sends later.
"""

import logging
import os
import signal
import sys
import time
from pathlib import Path

from pretrain.errors import UserError
from pretrain.redact import RedactingFormatter, one_line
from pretrain.run.folder import RunFolder
from pretrain.run.lock import RunLock
from pretrain.run.status import actual_status, read_status
from pretrain.tracking.send import Sender
from pretrain.tracking.sync import catch_up
from pretrain.tracking.system import System

SEND_INTERVAL = 2.0
"""Seconds between batches."""
LOOK_INTERVAL = 0.25
"""Seconds between looks at whether the run has ended."""
MAX_BACKOFF = 30.0
LINGER_SECONDS = 60.0
"""How long to keep retrying without success once the job has ended."""
GAVE_UP = 10
"""Exit code if something is left for `pretrain sync`; different from that of an interpreter that failed."""
ONCE_SECONDS = 40.0
"""How long `--once` waits for another uploader of the run."""

log = logging.getLogger("pretrain.tracking")


class Uploader:
    """Keeps one server up to date until the run has ended, or another job has taken over the run."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        status = read_status(folder)
        self._job = status.job if status else 0
        self._asked_to_stop = False
        self._last_success = 0.0
        self._ended: float | None = None
        self._system: System | None = None

    def _ask_to_stop(self, _number: int, _frame: object) -> None:
        """Signal handler: end as soon as the trainer has ended; its last metrics come after a job's
        SIGTERM."""
        self._asked_to_stop = True

    def run(self) -> int:
        """Send until everything is sent, and return 0; return GAVE_UP if that fails."""
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        lock = self._take_lock()
        if lock is None:
            return GAVE_UP
        with lock:
            self._system = System(self._folder)
            sender = Sender(self._folder)
            backoff = 1.0
            while self._is_mine():
                try:
                    if sender.send():
                        return 0
                except Exception as error:  # a server, its client or the network may raise anything
                    log.warning("not sent, next attempt in %.0f s: %s", backoff, one_line(error))
                    sender.disconnect(error)
                    if self._wait(backoff, until_ended=False):
                        return GAVE_UP
                    backoff = min(2 * backoff, MAX_BACKOFF)
                else:
                    backoff = 1.0
                    self._last_success = time.monotonic()
                    self._wait(SEND_INTERVAL, until_ended=True)
        return GAVE_UP

    def _take_lock(self) -> RunLock | None:
        """Wait until an earlier job's uploader has ended; None if this job is over first."""
        while self._is_mine():
            try:
                return RunLock.acquire(self._folder.tracking_lock, patience=0)
            except UserError:
                if self._wait(LOOK_INTERVAL, until_ended=False):
                    return None
        return None

    def _is_mine(self) -> bool:
        """Whether this job is still the latest one on the run."""
        if not self._folder.path.exists():
            return False
        status = read_status(self._folder)
        if status is not None and status.job != self._job:
            log.info("job %d goes on with the run, with its own uploader", status.job)
            return False
        return True

    def _wait(self, seconds: float, until_ended: bool) -> bool:
        """Wait; returns True if it is time to give up."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(min(LOOK_INTERVAL, seconds))
            if self._system is not None:
                self._system.look()
            status = actual_status(self._folder)
            if status is None or status.state == "running":
                continue
            if until_ended:
                return False
            self._ended = self._ended or time.monotonic()
            if (
                self._asked_to_stop
                or time.monotonic() > max(self._ended, self._last_success) + LINGER_SECONDS
            ):
                log.warning("giving up; `pretrain sync %s` sends the rest", self._folder.quoted)
                return True
        return False


def main() -> int:
    """Entry point of the uploader process."""
    folder = RunFolder(Path(sys.argv[1]))
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter(f"%(asctime)s {os.getpid()} %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)
    os.nice(10)
    try:
        if "--once" in sys.argv[2:]:
            catch_up(folder, attempts=2, busy_seconds=ONCE_SECONDS)
            return 0
        return Uploader(folder).run()
    except UserError as error:
        log.error("%s", error)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
