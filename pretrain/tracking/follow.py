"""Follows a file of journal lines that another process appends to or replaces."""

import logging
import os
from pathlib import Path

from pretrain.tracking.journal import Entry, decode

CHUNK = 1 << 17

log = logging.getLogger(__name__)


class Follower:
    """Reads complete lines, from the beginning of the file. The file need not exist yet."""

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
