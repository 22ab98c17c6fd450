"""The lock of a run folder: one job writes a run, and a crash releases it at once.

The kernel holds the lock (flock) and drops it when the process ends, however it ends; the file's text only
tells a second job who took it last. Anyone who may open the file can lock it, so only its owner may open it.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from data_tools.bounded import read_json
from data_tools.errors import printable
from pretrain.errors import UserError
from pretrain.redact import redact

PATIENCE_SECONDS = 2.0
"""How long to try: `is_held` takes the lock for an instant, and a killed predecessor takes a while to end."""

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class RunLock:
    """An exclusive lock on a file, held until `release` or the end of the process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        # A forked child would keep the lock after its parent was killed.
        os.register_at_fork(after_in_child=self._close)

    @classmethod
    def acquire(cls, path: Path, patience: float = PATIENCE_SECONDS) -> "RunLock":
        """Take the lock.

        Raises:
            UserError: another process holds it (named as far as possible), or the file system does not
                support locks.
            OSError: the file cannot be created.
        """
        deadline = time.monotonic() + patience
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            _make_private(descriptor)
            # The file may have been replaced between opening and locking it: then the lock protects nothing.
            if _try_lock(descriptor, path, fcntl.LOCK_EX) and _is_still(path, descriptor):
                break
            os.close(descriptor)
            if time.monotonic() > deadline:
                raise UserError(refusal(path))
            time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _self_description().encode(), 0)
        return cls(path, descriptor)

    def release(self) -> None:
        """Release the lock; a no-op if it is not held."""
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock.

    True for users who may not open it: they cannot know whether its owner's job is alive.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    try:
        return not _try_lock(descriptor, path, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _make_private(descriptor: int) -> None:
    """Restrict the permissions of a file that an older version made: others could open it."""
    if os.fstat(descriptor).st_mode & 0o077:
        # somebody else's: users who share a folder trust each other
        with contextlib.suppress(PermissionError):
            os.fchmod(descriptor, 0o600)


def refusal(path: Path) -> str:
    """The message for a job that does not get the lock: who holds it according to the kernel, or else who
    took it last."""
    facts = _last(path)
    holders = _holders(path)
    last = "nobody has said its name" if facts is None else f"taken last by {_in_words(facts)}"
    here = facts is not None and facts["host"] == socket.gethostname()
    if facts is not None and (facts["pid"] in holders if here else not holders):
        return f"{path.parent} is being written by another job: {_in_words(facts)}"
    if holders:
        pids = ", ".join(f"pid {pid} of user {_owner(pid)}" for pid in holders)
        return f"{path}: is held by {pids} on this host ({last}); end that process to go on"
    return f"{path}: is held, and by whom cannot be known on this host ({last})"


def _last(path: Path) -> dict[str, Any] | None:
    try:
        facts = read_json(path, 1 << 20)
        datetime.fromtimestamp(facts["started"])
        return {name: facts[name] for name in ("host", "pid", "started", "command")}
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def _in_words(facts: Mapping[str, Any]) -> str:
    started = datetime.fromtimestamp(facts["started"]).astimezone().isoformat(" ", "seconds")
    found = f"pid {facts['pid']} on {facts['host']}, started {started} ({redact(str(facts['command']))})"
    return printable(" ".join(found.split()))[:500]


def _holders(path: Path) -> list[int]:
    """Processes of this host that hold the lock, according to Linux; empty on other systems."""
    try:
        found = os.stat(path)
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    inode = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    # 1: FLOCK ADVISORY WRITE 4242 08:01:1835018 0 EOF; waiting processes have an arrow
    rows = (line.split() for line in lines if "->" not in line)
    return sorted({int(row[4]) for row in rows if row[1] == "FLOCK" and row[5] == inode and int(row[4]) > 0})


def _owner(pid: int) -> str:
    try:
        return str(os.stat(f"/proc/{pid}").st_uid)
    except OSError:
        return "unknown"


def _self_description() -> str:
    facts = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": time.time(),
        "command": redact(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]))[:200],
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
    """Whether the path still names the locked file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
