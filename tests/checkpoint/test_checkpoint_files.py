"""Files that go past the page cache hold what was written, whatever its size, and their record is theirs."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_tools.atomic import replacing, write_atomically
from data_tools.tar import TarFileWriter
from pretrain.checkpoint import LocalCoordinator, Saver, ShardedTensor
from pretrain.checkpoint.files import (
    CHUNK,
    DurableFile,
    FileRecord,
    copy_durably,
    file_record,
    write_durably,
)
from pretrain.config.sections import CheckpointConfig
from pretrain.gan.trainer import save_network
from pretrain.run import folder
from pretrain.tracking.journal import Journal
from slurm.findings import RankFinding, write_finding

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


class Disk:
    """What the kernel was asked to put on the disk or to name, in order; inodes stay the same when named."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, int]] = []
        fsync = os.fsync

        def synced(descriptor: int) -> None:
            fsync(descriptor)
            self.calls.append(("fsync", os.fstat(descriptor).st_ino))

        monkeypatch.setattr(os, "fsync", synced)
        for name in ("rename", "replace"):
            monkeypatch.setattr(os, name, self._recorded(getattr(os, name)))

    def _recorded(self, honest: Callable[..., None]) -> Callable[..., None]:
        def named(source: Any, target: Any) -> None:
            self.calls.append(("name", os.stat(source).st_ino))
            honest(source, target)

        return named

    def when(self, what: str, path: Path) -> list[int]:
        """Places in the order of calls."""
        asked = what, path.stat().st_ino
        return [place for place, call in enumerate(self.calls) if call == asked]


def write_in_parts(path: Path) -> None:
    with DurableFile(path) as file:
        file.write(b"a" * 10)


def copy(path: Path) -> None:
    path.with_name("source").write_bytes(b"a")
    copy_durably(path.with_name("source"), path)


def write_tar(path: Path) -> None:
    (path.parent / "scratch").mkdir()
    writer = TarFileWriter(path.parent, path.parent / "scratch", path.stem)
    writer.add("a", b"a")
    writer.close()


def write_part_of_a_cleaning(path: Path) -> None:
    with replacing(path) as file:
        file.write(b"a")


def write_journal(path: Path) -> None:
    journal = Journal(path)
    journal.append(1, {"loss": 1.0})
    journal.sync()
    journal.close()


def wind_journal_back(path: Path) -> None:
    write_journal(path)
    Journal(path).truncate_after(0)


WRITERS: dict[str, Callable[[Path], object]] = {
    "in parts": write_in_parts,
    "whole": lambda path: write_durably(path, b"a"),
    "copied": copy,
    "status": lambda path: folder.write_atomically(path, "a"),
    "index": lambda path: write_atomically(path, "a"),
    "shard": write_tar,
    "cleaning": write_part_of_a_cleaning,
    "journal": write_journal,
    "journal wound back": wind_journal_back,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_is_on_the_disk_before_it_gets_its_name(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, path = Disk(monkeypatch), tmp_path / "file.tar"
    WRITERS[writer](path)
    synced, named = disk.when("fsync", path), disk.when("name", path)
    assert synced and all(any(before < place for before in synced) for place in named), disk.calls
    assert bool(named) == (writer in ("status", "index", "shard", "cleaning", "journal wound back"))


REPLACED: dict[str, Callable[[Path], object]] = {
    **{name: WRITERS[name] for name in ("status", "index", "cleaning", "journal wound back")},
    "a rank's finding": lambda path: write_finding(path.parent, RankFinding(0, "n1")),
    "a generator": lambda path: save_network(path, {"w": torch.zeros(2)}),
}


@pytest.mark.parametrize("writer", REPLACED)
def test_a_name_is_on_the_disk_with_what_it_names(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the content, then the name, then the folder in which the name is; nothing else stays there."""
    disk, path = Disk(monkeypatch), tmp_path / "rank-0000.json"
    REPLACED[writer](path)
    content, named = disk.when("fsync", path), disk.when("name", path)
    assert content and named and content[0] < named[-1] < disk.when("fsync", tmp_path)[-1], disk.calls
    assert not list(tmp_path.glob(".*"))


def test_a_checkpoint_is_on_the_disk_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, then the folders that hold them, then its name, then the folder of all, then `latest`."""
    disk = Disk(monkeypatch)
    saver = Saver(tmp_path, CheckpointConfig(), 0, 1, LocalCoordinator())
    pieces = [ShardedTensor.whole("w", torch.zeros(3)), ShardedTensor.whole("m", torch.zeros(3), "optimizer")]
    saver.save(1, pieces, {"step": 1}, {"tokenizer/tokenizer.json": b"{}", "config.yaml": b""})
    everything, step = tmp_path / "checkpoints", tmp_path / "checkpoints" / "step-00000001"
    (published,) = disk.when("name", step)
    files = [path for path in step.rglob("*") if path.is_file()]
    assert len(files) == 7
    written = [min(disk.when("fsync", path)) for path in files]
    assert max(written) == min(disk.when("fsync", step / "manifest.json")), "the manifest is the last"
    for path in (step, step / "tokenizer"):
        assert max(written) < max(disk.when("fsync", path)) < published
    (latest,) = disk.when("name", everything / "latest")
    assert min(disk.when("fsync", everything / "latest")) < latest
    assert any(published < place < latest for place in disk.when("fsync", everything))
    assert latest < max(disk.when("fsync", everything))
