"""The lock of a run folder: one job writes a run, and a crash frees it at once.

The kernel holds the lock (flock) and drops it when the process ends, however it ends; the file's text only
tells a second job whom it is waiting for.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType

from pretrain.errors import UserError

PATIENCE_SECONDS = 2.0
"""How long to try: `is_held` takes the lock for an instant, and a killed predecessor takes a while to die."""

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class RunLock:
    """An exclusive lock on a file, held until `release` or the end of the process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        # A forked child would keep the lock alive after its parent was killed.
        os.register_at_fork(after_in_child=self._close)

    @classmethod
    def acquire(cls, path: Path, patience: float = PATIENCE_SECONDS) -> "RunLock":
        """Take the lock.

        Raises:
            UserError: another process holds it (named with host, pid and start time), or the file system has
                no locks.
            OSError: the file cannot be made.
        """
        deadline = time.monotonic() + patience
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if _try_lock(descriptor, path, fcntl.LOCK_EX) and _is_still(path, descriptor):
                break
            os.close(descriptor)
            if time.monotonic() > deadline:
                raise UserError(f"{path.parent} is being written by another job: {holder(path)}")
            time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _self_description().encode(), 0)
        return cls(path, descriptor)

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor, path, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def holder(path: Path) -> str:
    """Who took the lock last, in words."""
    try:
        facts = json.loads(path.read_text())
        started = datetime.fromtimestamp(facts["started"]).astimezone().isoformat(" ", "seconds")
        return f"pid {facts['pid']} on {facts['host']}, started {started} ({facts['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has not said its name yet"


def _self_description() -> str:
    facts = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": time.time(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200],
    }
    return json.dumps(facts) + "\n"


def _try_lock(descriptor: int, path: Path, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise UserError(
            f"{path}: this file system has no file locks ({error.strerror}), so nothing keeps a second job "
            "from writing the same run; mount it with locks (Lustre: -o flock) or choose another run.dir"
        ) from None
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the path still names the file that was locked."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
