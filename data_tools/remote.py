"""Reading by URL through fsspec: failures are retried a few times, and then reported in one message."""

import errno
import hashlib
import io
import time
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

from data_tools.errors import IntegrityError, UserError
from data_tools.index_file import ShardFile

ATTEMPTS = 3
PAUSE_SECONDS = 1.0
"""Before the second attempt; twice as long before each one after it."""
CHUNK = 4 << 20
SKIPPED_AT_ONCE = 1 << 20
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")


class _DamagedError(Exception):
    """The downloaded bytes are not what the index says."""


def fetch(url: str, limit: int) -> bytes:
    """The whole of a small file. Raises UserError if it cannot be read, or holds more than `limit` bytes."""
    filesystem, path = filesystem_of(url)

    def copy() -> bytes:
        content = bytearray()
        with filesystem.open(path, "rb", block_size=_block_size(filesystem)) as source:
            while len(content) <= limit and (chunk := source.read(min(CHUNK, limit + 1 - len(content)))):
                content += chunk
        return bytes(content)

    content = _tried(url, copy)
    if len(content) > limit:
        raise UserError(f"{url}: holds more than the {limit:,} bytes allowed")
    return content


def download(url: str, shard: ShardFile, file: BinaryIO) -> None:
    """Write a shard into an open file.

    Raises:
        UserError: it cannot be read.
        IntegrityError: its size or its bytes differ from the index, however often it is read.
        OSError: the disk is full.
    """
    filesystem, path = filesystem_of(url)

    def copy() -> None:
        digest, size = hashlib.sha256(), 0
        file.seek(0)
        with filesystem.open(path, "rb", block_size=_block_size(filesystem)) as source:
            while size <= shard.size and (chunk := source.read(CHUNK)):
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk[: shard.size])
        file.flush()
        if size != shard.size:
            raise _DamagedError(f"{size} bytes or more, the index expects {shard.size}")
        if digest.hexdigest() != shard.sha256:
            raise _DamagedError(f"sha256 {digest.hexdigest()[:16]}, the index expects {shard.sha256[:16]}")

    _tried(url, copy)


def _block_size(filesystem: Any) -> int:
    """The block size for a file that is read from the beginning: 0 streams, since not every server supports
    ranges."""
    return 0 if "http" in filesystem.protocol else CHUNK


def _tried(url: str, read: Callable[[], T]) -> T:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return read()
        except FileNotFoundError:
            raise UserError(f"{url}: there is no such file") from None
        except Exception as error:  # every fsspec backend has its own exception types
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise
            if attempt == ATTEMPTS:
                if isinstance(error, _DamagedError):
                    raise IntegrityError(f"{url}: {error}; copy the shards there again") from None
                what = f"{type(error).__name__}: {error}".rstrip(": ")
                raise UserError(f"{url}: cannot be read, tried {ATTEMPTS} times: {what}") from None
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
    raise AssertionError(ATTEMPTS)


def filesystem_of(url: str) -> tuple[Any, str]:
    """The backend of fsspec for a URL, and the path in it. Raises UserError if there is none."""
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url}: {error}") from None
    return filesystem, path


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
