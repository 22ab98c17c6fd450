"""Remote shards on a local disk: a folder of bounded size that the processes of a node share.

A shard is stored under its sha256 once it is complete and verified. Nobody but the user may write there.
Since disks fail, and the user's own programs have bugs, a process hashes a shard that it did not download
itself before it reads from it, and a damaged one is downloaded again. Shards that were opened longest ago are
evicted to make room for a new one. Short operations run under one lock. A download holds a lock of its own,
which is released when its process ends: others wait for it, and if it is killed, the next process starts the
download again.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from data_tools.bounded import UnfitFileError
from data_tools.errors import UserError
from data_tools.index_file import HEX_DIGEST, ShardFile
from data_tools.maps import ShardStore
from data_tools.private import make_private_folder, open_private
from data_tools.remote import download

LOOK_SECONDS = 0.1
"""How often a process checks whether another one's download is done."""
TELL_SECONDS = 10.0
"""How often a process logs how many bytes it has hashed."""
CHUNK = 4 << 20

log = logging.getLogger(__name__)


@dataclass
class _Hashed:
    """Files that a process has verified, by device, inode, size and time of the last change."""

    files: set[tuple[int, int, int, int]] = field(default_factory=set)
    bytes: int = 0
    seconds: float = 0.0
    told: float = 0.0
    """Value of `seconds` at the last log message."""

    def is_whole(self, file: BinaryIO, shard: ShardFile) -> bool:
        """Whether a file holds a shard; hashed only if this process has not verified the file yet."""
        identity = _identity(file)
        if identity in self.files:
            return True
        digest, begin = hashlib.sha256(), time.monotonic()
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            self.bytes += len(chunk)
            now = time.monotonic()
            self.seconds, begin = self.seconds + now - begin, now
            if self.seconds - self.told >= TELL_SECONDS:
                self.told = self.seconds
                log.info(
                    "cached shards: %.1f GB hashed in %.0f s of work, now %s",
                    self.bytes / 1e9,
                    self.seconds,
                    shard.name,
                )
        file.seek(0)
        if digest.hexdigest() == shard.sha256:
            self.files.add(identity)
            return True
        return False


@dataclass(frozen=True)
class ShardCache:
    """Where remote shards are kept, and how many bytes of them at most."""

    directory: Path
    limit: int
    _hashed: _Hashed = field(default_factory=_Hashed, compare=False, repr=False)

    def __reduce__(self) -> tuple[type["ShardCache"], tuple[Path, int]]:
        return type(self), (self.directory, self.limit)

    def open(self, url: str, shard: ShardFile) -> BinaryIO:
        """A shard as a local file, downloaded if it is missing or incomplete.

        Raises UserError and IntegrityError as `download` does, and UserError if the cache cannot be written,
        or others may write there.
        """
        while True:
            try:
                with self._locked():
                    found = self._find(shard)
                    part = None if found else self._claim(shard)
                if found:
                    if self._hashed.is_whole(found, shard):
                        return found
                    with found, self._locked():
                        if not self.is_gone(shard, os.fstat(found.fileno()).st_ino):
                            self._drop(self.path(shard), "has changed since it was downloaded")
                    continue
                if part:
                    return self._download(url, shard, part)
            except OSError as error:
                raise UserError(
                    f"data.cache_dir {error.filename or self.directory}: {error.strerror or error}"
                ) from None
            time.sleep(LOOK_SECONDS)

    def path(self, shard: ShardFile) -> Path:
        """The path of a shard while it is cached."""
        return self.directory / f"{shard.sha256}.tar"

    def is_gone(self, shard: ShardFile, inode: int) -> bool:
        """Whether the file was evicted: a process that has it mapped keeps its bytes on disk."""
        try:
            return self.path(shard).stat().st_ino != inode
        except FileNotFoundError:
            return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        make_private_folder(self.directory)
        with open(open_private(self.directory / "lock", os.O_RDWR | os.O_CREAT), "r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _find(self, shard: ShardFile) -> BinaryIO | None:
        path = self.path(shard)
        try:
            file = open(open_private(path, os.O_RDONLY), "rb")  # noqa: SIM115 - the caller's
        except FileNotFoundError:
            return None
        except UnfitFileError as error:
            self._drop(path, error.reason)
            return None
        found = os.fstat(file.fileno())
        if found.st_size != shard.size:  # the disk was full, or somebody changed the file
            file.close()
            self._drop(path, f"holds {found.st_size} bytes instead of {shard.size}")
            return None
        # the access time orders evictions; the modification time is kept to detect changes
        os.utime(path, ns=(time.time_ns(), found.st_mtime_ns))
        return file

    def _drop(self, path: Path, reason: str) -> None:
        log.warning("data.cache_dir %s: %s %s; it is downloaded again", self.directory, path.name, reason)
        path.unlink()

    def _claim(self, shard: ShardFile) -> BinaryIO | None:
        """A file of the shard's size to download into; None while another process has it, or there is no
        room."""
        path = self._part(shard)
        try:
            part = open(open_private(path, os.O_RDWR | os.O_CREAT), "r+b")  # noqa: SIM115 - the caller's
        except UnfitFileError as error:
            self._drop(path, error.reason)
            return None
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.truncate(0)
            if self._make_room(shard.size):
                part.truncate(shard.size)  # reserves the space: others count it as used
                return part
            path.unlink()
        except BlockingIOError:
            pass
        part.close()
        return None

    def _make_room(self, size: int) -> bool:
        """Remove what was opened longest ago until `size` bytes are free; False if running downloads use
        them."""
        kept = []
        for path in self.directory.iterdir():
            if path.suffix in (".tar", ".part") and HEX_DIGEST.fullmatch(path.stem):
                found = path.lstat()
                kept.append((found.st_atime_ns, found.st_size, path))
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
                    self._hashed.files.add(_identity(part))
                    return open(open_private(self.path(shard), os.O_RDONLY), "rb")
            except BaseException:  # after success the name may already belong to another process
                with self._locked():
                    self._part(shard).unlink(missing_ok=True)
                raise

    def _part(self, shard: ShardFile) -> Path:
        return self.directory / f"{shard.sha256}.part"


def _is_abandoned(part: Path) -> bool:
    """Whether no process is downloading into a file."""
    try:
        file = open(open_private(part, os.O_RDONLY), "rb")  # noqa: SIM115 - closed below
    except UnfitFileError:
        return True
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _identity(file: BinaryIO) -> tuple[int, int, int, int]:
    """Device, inode, size and time of the last change; the last two describe what is on disk now."""
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class CachedShards(ShardStore):
    """The shards of a remote directory."""

    def __init__(self, url: str, cache: ShardCache) -> None:
        self._url, self._cache = url.rstrip("/"), cache

    def location(self, shard: ShardFile) -> str:
        return f"{self._url}/{shard.name}"

    def check(self, shard: ShardFile) -> None:
        """Raise UserError for a shard that is larger than the cache."""
        if shard.size > self._cache.limit:
            raise UserError(
                f"{self.location(shard)}: {shard.size:,} bytes are more than data.cache_bytes "
                f"{self._cache.limit:,}; the nearest legal is {shard.size}"
            )

    def open(self, shard: ShardFile) -> BinaryIO:
        """The shard's file; raises as `ShardCache.open` does."""
        return self._cache.open(self.location(shard), shard)

    def is_gone(self, shard: ShardFile, inode: int) -> bool:
        return self._cache.is_gone(shard, inode)
