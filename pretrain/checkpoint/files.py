"""Files that are durable when we say so: hashed while written, fsynced, replaced and removed atomically."""

import errno
import fcntl
import hashlib
import mmap
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from data_tools.atomic import sync_folder
from data_tools.typed import Natural
from pretrain.errors import UserError, named

CHUNK = 8 << 20
"""Bytes per write and per hash update."""
_DIRECT: int = getattr(os, "O_DIRECT", 0)  # not available on every system


@dataclass(frozen=True)
class FileRecord:
    """What the manifest records about one file."""

    size: Natural
    sha256: str


class DurableFile:
    """A new file that hashes what is written to it and is fsynced when its `with` block succeeds.

    Bytes are collected in a buffer, and a full buffer is written with direct I/O, past the page cache, while
    another thread hashes it. The page cache would cost a copy, memory that training needs, and kernel time to
    manage its pages: more than the disk takes to write them.
    """

    def __init__(self, path: Path, opener: Callable[[str, int], int] | None = None) -> None:
        self._file = open(path, "xb", buffering=0, opener=opener)  # noqa: SIM115 (closed by __exit__)
        self._hash = hashlib.sha256()
        self._size = 0
        self._buffer = memoryview(mmap.mmap(-1, CHUNK))  # page-aligned, as direct I/O requires
        self._filled = 0
        self._direct = False
        self._hasher: ThreadPoolExecutor | None = None

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        self._size += len(view)
        while view:
            part = view[: CHUNK - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == CHUNK:
                self._write_chunk()

    def _write_chunk(self) -> None:
        if self._hasher is None:
            self._hasher = ThreadPoolExecutor(1)
            self._pass_the_cache(True)
        hashed = self._hasher.submit(self._hash.update, self._buffer)
        try:
            with named(self._file.name):
                self._put(self._buffer)
        finally:
            hashed.result()
        self._filled = 0

    def _write_rest(self) -> None:
        rest = self._buffer[: self._filled]
        self._hash.update(rest)
        self._pass_the_cache(False)  # direct I/O takes only whole blocks
        self._put(rest)
        self._filled = 0

    def _put(self, view: memoryview) -> None:
        while view:
            try:
                view = view[os.write(self._file.fileno(), view) :]
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._pass_the_cache(False)  # this file system requires other sizes

    def _pass_the_cache(self, wanted: bool) -> None:
        """Turn direct I/O on where the file system supports it, or off."""
        if wanted == self._direct:
            return
        descriptor = self._file.fileno()
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~_DIRECT
        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | (_DIRECT if wanted else 0))
            self._direct = wanted

    @property
    def record(self) -> FileRecord:
        """Size and checksum of what was written, once the `with` block has ended."""
        return FileRecord(self._size, self._hash.hexdigest())

    def __enter__(self) -> "DurableFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with named(self._file.name):
                    self._write_rest()
                    os.fsync(self._file.fileno())
        finally:
            if self._hasher is not None:
                self._hasher.shutdown()
            with suppress(OSError) if kind else named(self._file.name):
                self._file.close()


def write_durably(path: Path, data: bytes, opener: Callable[[str, int], int] | None = None) -> FileRecord:
    """Create `path` with `data`, fsynced; `opener` as for `open`."""
    with DurableFile(path, opener) as file:
        file.write(data)
    return file.record


def copy_durably(source: Path, target: Path) -> FileRecord:
    with open(source, "rb") as data, DurableFile(target) as file:
        while chunk := data.read(CHUNK):
            file.write(chunk)
    return file.record


def file_record(path: Path) -> FileRecord:
    """Size and checksum of a file on disk; every byte is read once."""
    digest, size = hashlib.sha256(), 0
    buffer = memoryview(bytearray(CHUNK))
    with open(path, "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):  # enlarges the read-ahead, so that disk and hash work in parallel
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            size += count
    return FileRecord(size, digest.hexdigest())


@contextmanager
def told() -> Iterator[None]:
    """Turn an error of the file system into a message for the user: UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or 'checkpoints'}: {error.strerror or error}") from error


def walk(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is not a directory, and every symlink, in sorted order."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from walk(path)
        else:
            yield path


def remove(path: Path, on_trash: Callable[[], None] = lambda: None) -> None:
    """Delete a folder so that a kill at any moment leaves nothing in it that could be mistaken for a good
    checkpoint.

    The folder first gets a hidden name, synced to disk, and loses its manifest before anything else.
    """
    trash = path
    if not path.name.startswith(".trash-"):
        trash = path.with_name(f".trash-{path.name.lstrip('.')}-{secrets.token_hex(4)}")
        os.rename(path, trash)
        sync_folder(path.parent)
    if trash.is_dir() and not trash.is_symlink():
        (trash / "manifest.json").unlink(missing_ok=True)
        on_trash()
        shutil.rmtree(trash)
    else:
        trash.unlink()
