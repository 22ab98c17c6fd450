"""Input files by URL: failures while reading end in one message, and a server need not support ranges."""

import io
from collections.abc import Callable
from typing import Any, TypeVar

from data_tools.errors import UserError
from data_tools.remote import filesystem_of

T = TypeVar("T")
SKIPPED_AT_ONCE = 1 << 20


class RemoteInput(io.RawIOBase):
    """A file to read by URL. Where it can only be read from its beginning, a seek forward reads what it
    skips.

    Everything raises UserError, naming the URL, for whatever a backend of fsspec raises.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._handle, self._streams = self._told("opened", lambda: _open(url))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read up to the length of a buffer; 0 at the end."""
        data = self._told("read", lambda: self._handle.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def tell(self) -> int:
        return int(self._handle.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._told("read", lambda: self._seek(offset, whence))

    def close(self) -> None:
        if not self.closed:
            self._handle.close()
        super().close()

    def _seek(self, offset: int, whence: int) -> int:
        if whence == io.SEEK_SET and self._streams:
            while self.tell() < offset and self._handle.read(min(SKIPPED_AT_ONCE, offset - self.tell())):
                pass
        return int(self._handle.seek(offset, whence) or self.tell())

    def _told(self, what: str, act: Callable[[], T]) -> T:
        try:
            return act()
        except UserError:
            raise
        except Exception as error:  # every fsspec backend has its own exception types
            raise UserError(f"{self._url}: cannot be {what}: {type(error).__name__}: {error}") from None


def _open(url: str) -> tuple[Any, bool]:
    """The file, and whether it can only be read from its beginning."""
    filesystem, path = filesystem_of(url)
    streams = "http" in filesystem.protocol and not filesystem.info(path).get("partial")
    return filesystem.open(path, "rb", **({"block_size": 0} if streams else {})), streams
