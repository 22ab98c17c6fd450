"""Remote shards on a local disk: a folder of bounded size that the processes of a node share.

A shard lies there under its sha256 as soon as it is whole and checked. For a new one, those that were opened
longest ago make room. Short work is done under one lock; a download holds a lock of its own, which goes with
its process, so others wait for it, and one that was killed is begun anew by the next.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data_tools.errors import UserError
from data_tools.index_file import ShardFile
from data_tools.maps import ShardStore
from data_tools.remote import download

LOOK_SECONDS = 0.1
"""How often a process looks whether another one's download is done."""


@dataclass(frozen=True)
class ShardCache:
    """Where remote shards are kept, and how many bytes of them at most."""

    directory: Path
    limit: int

    def open(self, url: str, shard: ShardFile) -> BinaryIO:
        """A shard as a local file, downloaded if it is not there.

        Raises UserError and IntegrityError as `download` does, and UserError if the cache cannot be written.
        """
        while True:
            try:
                with self._locked():
                    found = self._find(shard)
                    part = None if found else self._claim(shard)
                if found:
                    return found
                if part:
                    return self._download(url, shard, part)
            except OSError as error:
                raise UserError(f"data.cache_dir {self.directory}: {error.strerror or error}") from None
            time.sleep(LOOK_SECONDS)

    def path(self, shard: ShardFile) -> Path:
        """Where a shard lies while it is kept."""
        return self.directory / f"{shard.sha256}.tar"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.directory.mkdir(parents=True, exist_ok=True)
        with open(self.directory / "lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _find(self, shard: ShardFile) -> BinaryIO | None:
        path = self.path(shard)
        try:
            file = open(path, "rb")  # noqa: SIM115 - the caller's
        except FileNotFoundError:
            return None
        if os.fstat(file.fileno()).st_size != shard.size:  # the disk was full, or somebody was here
            file.close()
            path.unlink()
            return None
        os.utime(path)
        return file

    def _claim(self, shard: ShardFile) -> BinaryIO | None:
        """A file of the shard's size to download into; None while there is another's, or no room."""
        path = self._part(shard)
        path.touch()
        part = open(path, "r+b")  # noqa: SIM115 - the caller's
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.truncate(0)
            if self._make_room(shard.size):
                part.truncate(shard.size)  # so that others see that the room is taken
                return part
            path.unlink()
        except BlockingIOError:
            pass
        part.close()
        return None

    def _make_room(self, size: int) -> bool:
        """Remove what was opened longest ago until `size` bytes are free; False if downloads take them."""
        kept = []
        for path in self.directory.iterdir():
            if path.suffix in (".tar", ".part"):
                found = path.stat()
                kept.append((found.st_mtime_ns, found.st_size, path))
        free = self.limit - sum(used for _, used, _ in kept)
        for _, used, path in sorted(kept):
            if free >= size:
                break
            if path.suffix == ".tar" or _is_abandoned(path):
                path.unlink()
                free += used
        return free >= size

    def _download(self, url: str, shard: ShardFile, part: BinaryIO) -> BinaryIO:
        with part:
            try:
                download(url, shard, part)
                with self._locked():
                    os.replace(self._part(shard), self.path(shard))
                    return open(self.path(shard), "rb")
            except BaseException:  # after success the name may be another process's already
                with self._locked():
                    self._part(shard).unlink(missing_ok=True)
                raise

    def _part(self, shard: ShardFile) -> Path:
        return self.directory / f"{shard.sha256}.part"


def _is_abandoned(part: Path) -> bool:
    """Whether no process downloads into a file."""
    with open(part, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class CachedShards(ShardStore):
    """The shards of a remote directory."""

    def __init__(self, url: str, cache: ShardCache) -> None:
        self._url, self._cache = url.rstrip("/"), cache

    def place(self, shard: ShardFile) -> str:
        """Its URL."""
        return f"{self._url}/{shard.name}"

    def check(self, shard: ShardFile) -> None:
        """Raise UserError for a shard that is larger than the cache."""
        if shard.size > self._cache.limit:
            raise UserError(
                f"{self.place(shard)}: {shard.size:,} bytes are more than data.cache_bytes "
                f"{self._cache.limit:,}; the nearest legal is {shard.size}"
            )

    def open(self, shard: ShardFile) -> BinaryIO:
        """The shard's file; raises as `ShardCache.open` does."""
        return self._cache.open(self.place(shard), shard)

    def is_gone(self, shard: ShardFile, inode: int) -> bool:
        """Whether the file was removed to make room: who has it in memory keeps its bytes on the disk."""
        try:
            return self._cache.path(shard).stat().st_ino != inode
        except FileNotFoundError:
            return True
