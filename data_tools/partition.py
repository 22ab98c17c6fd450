"""Divides the input into partitions of work, by the sizes of the files alone.

Each partition writes its own shards, so the bytes of a build depend on the partitions and never on the number
of workers. Small files share a partition. A large line-oriented file is divided into byte ranges (a line
belongs to the range in which it begins), and a large parquet file into ranges of row groups.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from data_tools.megatron_input import document_bounds
from data_tools.parquet import DamagedParquet, open_parquet
from data_tools.sources import TOKENS, InputFile

SMALLEST_TARGET = 4 << 20
LARGEST_TARGET = 256 << 20
TARGET_PARTITIONS = 64


@dataclass(frozen=True)
class Unit:
    """A file, or a part [start, stop) of it: bytes of a line-oriented file, row groups of parquet, documents
    of Megatron's.

    `stop` None is the end; `weight` is in bytes of stored input.
    """

    file: InputFile
    start: int
    stop: int | None
    weight: int


@dataclass(frozen=True)
class Partition:
    """The units that one task turns into shards, in order."""

    number: int
    units: tuple[Unit, ...]

    @property
    def weight(self) -> int:
        return sum(unit.weight for unit in self.units)


def make_partitions(files: tuple[InputFile, ...], document: str) -> list[Partition]:
    """Partitions of about total/64 bytes, at least 4 MiB and at most 256 MiB, in the order of the files."""
    total = sum(file.size for file in files)
    target = min(max(total // TARGET_PARTITIONS, SMALLEST_TARGET), LARGEST_TARGET)
    partitions: list[Partition] = []
    pending: list[Unit] = []
    weight = 0
    for file in files:
        for unit in _units(file, document, target):
            pending.append(unit)
            weight += unit.weight
            if weight >= target:
                partitions.append(Partition(len(partitions), tuple(pending)))
                pending, weight = [], 0
    if pending:
        partitions.append(Partition(len(partitions), tuple(pending)))
    return partitions


def _units(file: InputFile, document: str, target: int) -> list[Unit]:
    by_lines = file.format == "jsonl" or (file.format == "txt" and document == "line")
    if file.size > target and by_lines and file.compression is None:
        starts = range(0, file.size, target)
        return [
            Unit(file, start, min(start + target, file.size), min(target, file.size - start))
            for start in starts
        ]
    if file.format == TOKENS:
        return _token_units(file, target)
    if file.size > target and file.format == "parquet":
        return _row_group_units(file, target)
    return [Unit(file, 0, None, file.size)]


def _token_units(file: InputFile, target: int) -> list[Unit]:
    bounds = document_bounds(file.url)
    firsts = sorted({int(at) for at in np.searchsorted(bounds[:-1], range(0, file.size, target))})
    return [
        Unit(file, first, last, int(bounds[last] - bounds[first]))
        for first, last in pairwise([*firsts, len(bounds) - 1])
    ]


def _row_group_units(file: InputFile, target: int) -> list[Unit]:
    try:
        with open_parquet(file) as table:
            metadata = table.metadata
    except DamagedParquet:  # whoever reads the unit reports the damage as a bad record
        return [Unit(file, 0, None, file.size)]
    units, start, weight = [], 0, 0
    share = file.size // max(metadata.num_row_groups, 1)
    for group in range(metadata.num_row_groups):
        weight += share
        if weight >= target:
            units.append(Unit(file, start, group + 1, weight))
            start, weight = group + 1, 0
    if start < metadata.num_row_groups or not units:
        units.append(Unit(file, start, metadata.num_row_groups, weight))
    return units
