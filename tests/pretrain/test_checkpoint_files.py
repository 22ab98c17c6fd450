"""Files that go past the page cache hold what was written, whatever its size, and their record is theirs."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from pretrain.checkpoint.files import CHUNK, DurableFile, FileRecord, file_record

SIZES = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 4097)


@pytest.mark.parametrize("size", SIZES)
def test_a_file_is_what_was_written_in_parts(tmp_path: Path, size: int) -> None:
    """Parts that end nowhere near a block of the disk."""
    data = os.urandom(size)
    with DurableFile(tmp_path / "file") as file:
        file.write(data[:10])
        file.write(memoryview(data)[10 : size - 7 if size > 17 else 10])
        file.write(data[max(10, size - 7) :])
    assert (tmp_path / "file").read_bytes() == data
    assert file.record == FileRecord(size, hashlib.sha256(data).hexdigest()) == file_record(tmp_path / "file")


def test_a_file_system_that_wants_other_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that refuses a direct write gets the bytes through the cache."""
    write, refused = os.write, []

    def picky(descriptor: int, data: memoryview) -> int:
        if not refused:
            refused.append(len(data))
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(descriptor, data[: CHUNK // 3])  # and takes less than it is given

    monkeypatch.setattr(os, "write", picky)
    data = os.urandom(2 * CHUNK + 5)
    with DurableFile(tmp_path / "file") as file:
        file.write(data)
    assert refused == [CHUNK] and (tmp_path / "file").read_bytes() == data
    assert file.record == file_record(tmp_path / "file")
