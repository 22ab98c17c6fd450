"""Files of a cleaning: compressed lines and arrays, which get their names only when they are complete."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.atomic import replacing


@dataclass(frozen=True)
class StoredFile:
    """A file by its name below the output directory, its size in bytes and its sha256."""

    name: str
    size: int
    sha256: str


def store_array(directory: Path, name: str, array: npt.NDArray[Any]) -> StoredFile:
    with replacing(directory / name) as file:
        np.save(file, array, allow_pickle=False)
    return describe(directory, name)


@contextlib.contextmanager
def store_lines(directory: Path, name: str) -> Iterator[Any]:
    """A file to write bytes to, compressed as they are written."""
    import zstandard

    with (
        replacing(directory / name) as file,
        zstandard.ZstdCompressor(write_checksum=True).stream_writer(file, closefd=False) as packed,
    ):
        yield packed


def describe(directory: Path, name: str) -> StoredFile:
    with open(directory / name, "rb") as file:
        return StoredFile(
            name, os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
        )
