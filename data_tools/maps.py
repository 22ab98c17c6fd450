"""Memory-mapped shards: mapped when first used, and few at a time.

At most `MAX_OPEN_SHARDS` stay mapped, so a corpus of any number of shards needs few file handles.
"""

import mmap
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from data_tools.errors import IntegrityError
from data_tools.index_file import ShardFile

MAX_OPEN_SHARDS = 256


class ShardStore(Protocol):
    """Where the shards of a directory are opened."""

    def location(self, shard: ShardFile) -> str:
        """Path or URL of a shard, for messages."""

    def check(self, shard: ShardFile) -> None:
        """Raise UserError or IntegrityError for a shard that could not be opened."""

    def open(self, shard: ShardFile) -> BinaryIO:
        """The shard's file; raises as `check` does."""

    def is_gone(self, shard: ShardFile, inode: int) -> bool:
        """Whether a file that was opened has since been removed, so that its map should be released."""


class LocalShards(ShardStore):
    """Shards in a local directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def location(self, shard: ShardFile) -> str:
        return str(self._directory / shard.name)

    def check(self, shard: ShardFile) -> None:
        check_shard_size(self._directory, shard)

    def open(self, shard: ShardFile) -> BinaryIO:
        self.check(shard)
        return open(self._directory / shard.name, "rb")

    def is_gone(self, shard: ShardFile, inode: int) -> bool:
        return False


class MappedShards:
    """The shards of a directory by number; `forget` is told which one was released."""

    def __init__(
        self, store: ShardStore, shards: Sequence[ShardFile], forget: Callable[[int], None] = lambda _: None
    ) -> None:
        """Check every shard; raises as the store's `check` does."""
        for shard in shards:
            store.check(shard)
        self._store, self._shards, self._forget = store, shards, forget
        self._maps: dict[int, mmap.mmap] = {}
        self._inodes: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._maps)

    def find(self, number: int) -> mmap.mmap:
        """The mapped shard; releases those that are gone, and the one mapped first to make room."""
        found = self._maps.get(number)
        if found is not None:
            return found
        with self._store.open(self._shards[number]) as file:
            found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            inode = os.fstat(file.fileno()).st_ino
        for other in [n for n in self._maps if self._store.is_gone(self._shards[n], self._inodes[n])]:
            self._let_go(other)
        if len(self._maps) >= MAX_OPEN_SHARDS:
            self._let_go(next(iter(self._maps)))
        self._maps[number], self._inodes[number] = found, inode
        return found

    def _let_go(self, number: int) -> None:
        del self._maps[number], self._inodes[number]
        self._forget(number)


def check_shard_size(directory: Path, shard: ShardFile) -> None:
    """Check that a shard is a regular file of the size in the index.

    Raises IntegrityError: it is missing, a link, unreadable, or has another size.
    """
    path = directory / shard.name
    remedy = "copy the shard again or build the directory again"
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        raise IntegrityError(f"{path}: missing, the index expects {shard.size} bytes; {remedy}") from None
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read: {error.strerror}; {remedy}") from None
    if not stat.S_ISREG(found.st_mode):
        raise IntegrityError(f"{path}: is a link or a folder and not a plain file; {remedy}")
    if found.st_size != shard.size:
        raise IntegrityError(f"{path}: {found.st_size} bytes, the index expects {shard.size}; {remedy}")
    if not os.access(path, os.R_OK):
        raise IntegrityError(f"{path}: no permission to read it")
