"""Reads small files that others may have written, without blocking forever or reading more than a limit.

A FIFO, a device or a socket is refused before anything is read from it: it may never begin, or never end. A
refusal raises OSError with the reason in `strerror`, as a file that cannot be opened does, and text that is
not JSON raises ValueError: whoever reads a file has to handle both in any case.
"""

import errno
import json
import math
import os
import stat
from collections import Counter
from io import BufferedReader
from typing import Any, NoReturn

SMALL_FILE = 16 << 20
"""The limit for a file that people or this project write, in bytes. As JSON it takes 25 times as much memory
at worst."""


class UnfitFileError(OSError):
    """A file that can be opened but must not be read; `strerror` says why."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(errno.EINVAL, reason, os.fspath(path))
        self.reason = reason


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Raises OSError, UnfitFileError for anything else.
    """
    check_regular(path, os.stat(path))
    # O_NONBLOCK: a FIFO that appears between the check and the open does not block either.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        check_regular(path, os.fstat(handle))
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def check_regular(path: str | os.PathLike[str], found: os.stat_result) -> None:
    """Raise an OSError for anything but a regular file."""
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(found.st_mode):
        raise UnfitFileError(path, f"is {_kind(found.st_mode)} and not a plain file")


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """The whole content of a regular file of at most `limit` bytes. Raises OSError."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # files in /proc report a size of 0
        content = file.read((size or limit) + 1) if size <= limit else b""
    found = max(size, len(content))
    if found > limit:
        raise UnfitFileError(path, f"holds {found:,} bytes, more than the {limit:,} allowed")
    return content


def read_json(path: str | os.PathLike[str], limit: int = SMALL_FILE) -> Any:
    """The value in a regular file of at most `limit` bytes. Raises OSError, and ValueError as `parse_json`
    does."""
    return parse_json(read_bytes(path, limit))


def last_lines(path: str | os.PathLike[str], most: int) -> list[bytes]:
    """The lines in the last `most` bytes of a file, without a first one that is cut off; [] without it."""
    try:
        with open(path, "rb") as file:
            start = file.seek(max(0, file.seek(0, os.SEEK_END) - most))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    return lines[1:] if start else lines


def parse_json(text: bytes | str) -> Any:
    """The value of a JSON text.

    Raises ValueError for bytes that are not UTF-8, for nesting that is too deep, a key that occurs twice in
    an object, and numbers that are not finite.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        return json.loads(
            decoded, object_pairs_hook=_object, parse_float=_finite, parse_constant=_refuse_constant
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"the key {_short(twice)} occurs twice")
    return mapping


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {_short(text)} is too large")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _short(text: str) -> str:
    shown = ascii(text)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")
