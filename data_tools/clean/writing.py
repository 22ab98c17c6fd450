"""The third stage: the texts of each partition that remain."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools.clean.duplicates import removed_from
from data_tools.clean.files import StoredFile, describe, store_lines
from data_tools.clean.filtering import sizes_name, texts_name
from data_tools.pool import Report
from data_tools.workspace import Workspace


@dataclass(frozen=True)
class WriteResult:
    """What remains of a partition; no file if nothing does."""

    number: int
    shards: tuple[StoredFile, ...]
    documents: int
    bytes: int
    exact: int
    """Documents removed as copies of another."""
    near: int
    """Documents removed as near duplicates of another."""


@dataclass(frozen=True)
class WriteJob:
    """Writes a partition without duplicates; a callable that can be sent to workers."""

    directory: str
    stage: str

    def __call__(self, number: int, report: Report) -> WriteResult:
        """Write the remaining texts of partition `number`; reports one partition done."""
        directory = Path(self.directory)
        removed, exact = removed_from(directory, self.stage, number)
        sizes = np.load(directory / sizes_name(number), allow_pickle=False)
        stays = np.ones(len(sizes), np.bool_)
        stays[removed] = False
        name = f"{number:06d}.jsonl.zst"
        if stays.any():
            _copy(directory, texts_name(number), name, stays.tolist())
        result = WriteResult(
            number,
            (describe(directory, name),) if stays.any() else (),
            int(stays.sum()),
            int(sizes[stays].sum()),
            int(exact.sum()),
            len(exact) - int(exact.sum()),
        )
        Workspace(directory, work=self.stage).save(number, result)
        report(1)
        return result


def _copy(directory: Path, source: str, target: str, stays: list[bool]) -> None:
    import zstandard

    with (
        open(directory / source, "rb") as packed,
        zstandard.ZstdDecompressor().stream_reader(packed) as stream,
        store_lines(directory, target) as lines,
    ):
        for keep, line in zip(stays, io.BufferedReader(stream), strict=True):
            if keep:
                lines.write(line)
