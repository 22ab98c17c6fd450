"""Writes one tar: regular members at known offsets, hashed while written, under its final name only when
complete.

The tars are what `webdataset.TarWriter(..., mtime=0)` writes, byte for byte (a test compares them), but
written with the standard library: importing webdataset imports torch, which would cost every worker two
seconds and hundreds of megabytes.
"""

import hashlib
import io
import os
import secrets
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data_tools.errors import named

TAR_BLOCK = 512


@dataclass(frozen=True)
class WrittenTar:
    """A finished tar: its name, its size in bytes and its sha256."""

    name: str
    size: int
    sha256: str


class _Hashed:
    """An append-only file that computes its sha256 while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.size


class TarFileWriter:
    """A tar `STEM.tar` being written: a temporary file in `scratch` until `close` moves it to `directory`."""

    def __init__(self, directory: Path, scratch: Path, stem: str) -> None:
        self.stem = stem
        self._position = 0
        self._target = directory / f"{stem}.tar"
        self._temporary = scratch / f"{stem}.{secrets.token_hex(4)}.tmp"
        self._file = open(self._temporary, "xb")  # noqa: SIM115 - closed by `close`
        self._hashed = _Hashed(self._file)
        self._tar = tarfile.TarFile(fileobj=self._hashed, mode="w", format=tarfile.USTAR_FORMAT)  # type: ignore[arg-type]

    def add(self, name: str, data: bytes) -> int:
        """Append a file; returns the byte offset of its data."""
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = len(data), 0, 0o444
        member.uname = member.gname = "bigdata"
        with named(self._target):
            self._tar.addfile(member, io.BytesIO(data))
        offset = self._position + TAR_BLOCK
        self._position = offset + -(-len(data) // TAR_BLOCK) * TAR_BLOCK
        return offset

    def close(self) -> WrittenTar:
        """Finish the tar, sync it to disk and give it its name."""
        with named(self._target):
            self._tar.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        os.replace(self._temporary, self._target)
        return WrittenTar(self._target.name, self._hashed.size, self._hashed.digest.hexdigest())
