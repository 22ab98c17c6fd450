"""Files that are replaced as a whole: a reader, or a crash, sees the old content or the new, never a part.

Two processes that write at once do not mix their content either: each has a temporary name of its own.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from data_tools.errors import named
from data_tools.names import storable, temporary_name

Opener = Callable[[str, int], int]


@contextmanager
def in_place_of(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary name beside `path` for a new file or folder, which replaces `path` if the block succeeds.

    `durable`: the new name is on disk then; the caller is responsible for syncing the content.
    """
    temporary = path.with_name(temporary_name(path.name))
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


@contextmanager
def replacing(path: Path, *, durable: bool = True, opener: Opener | None = None) -> Iterator[BinaryIO]:
    """A file to write the new content of `path` to; with `durable`, it is on disk before it gets its name."""
    with (
        in_place_of(path, durable=durable) as temporary,
        named(path),
        open(temporary, "xb", opener=opener) as file,  # never follow a link that somebody else put there
    ):
        yield file
        file.flush()
        if durable:
            os.fsync(file.fileno())


def write_atomically(
    path: Path, content: str | bytes, *, durable: bool = True, opener: Opener | None = None
) -> None:
    """Replace `path` by `content`, in UTF-8 if it is text; `opener` as for `open`.

    A byte of a file name that is not UTF-8 is kept as \\udcNN, which is how JSON writes it too.
    """
    with replacing(path, durable=durable, opener=opener) as file:
        file.write(storable(content).encode() if isinstance(content, str) else content)


def sync_folder(path: Path) -> None:
    """Fsync a directory, so that the names in it are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with named(path):
            os.fsync(descriptor)
    except OSError as error:
        # some file systems do not support fsync of a directory
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
