"""Shards in memory, in place: mapped when first touched, and few at a time.

At most `MAX_OPEN_SHARDS` stay mapped, so a corpus of any number of shards needs few file handles.
"""

import mmap
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from data_tools.errors import IntegrityError
from data_tools.index_file import ShardFile

MAX_OPEN_SHARDS = 256


class MappedShards:
    """The shards of a directory by number; `forget` is told which one was let go."""

    def __init__(
        self, directory: Path, shards: Sequence[ShardFile], forget: Callable[[int], None] = lambda _: None
    ) -> None:
        """Check every shard's size; raises IntegrityError as `check_shard_size` does."""
        for shard in shards:
            check_shard_size(directory, shard)
        self._directory, self._shards, self._forget = directory, shards, forget
        self._maps: dict[int, mmap.mmap] = {}

    def __len__(self) -> int:
        """Shards in memory now."""
        return len(self._maps)

    def find(self, number: int) -> mmap.mmap:
        """The shard in memory; makes room by forgetting the one that was mapped first."""
        found = self._maps.get(number)
        if found is not None:
            return found
        shard = self._shards[number]
        check_shard_size(self._directory, shard)
        with open(self._directory / shard.name, "rb") as file:
            found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._maps) >= MAX_OPEN_SHARDS:
            oldest = next(iter(self._maps))
            del self._maps[oldest]
            self._forget(oldest)
        self._maps[number] = found
        return found


def check_shard_size(directory: Path, shard: ShardFile) -> None:
    """Check that a shard is a plain file of the size in the index.

    Raises:
        IntegrityError: it is missing, a link, unreadable, or has another size.
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
