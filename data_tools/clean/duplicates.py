"""The second stage: documents of all partitions with an equal key, and which of them are removed.

The keys of a band are divided into ranges of about `AT_ONCE` documents; a task reads one range from every
partition and pairs each document with the first that has its key. So neither memory use nor the pairs depend
on the size of the input. Only the joined groups are in memory at once: some bytes for each duplicate, none
for other documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_tools.clean.files import StoredFile, store_array
from data_tools.clean.filtering import FilterResult, keys_name
from data_tools.pool import Report

AT_ONCE = 1 << 20
PARTITION_BIT = 32
"""A document's number is (number of the partition << 32) | number within those that passed the filters."""

Pairs = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Slice:
    """Range `number` of `ranges` of the keys of a band."""

    band: int
    number: int
    ranges: int

    @property
    def name(self) -> str:
        return f"{self.band:04d}-{self.number:06d}.npy"


def slices(bands: int, documents: int) -> list[Slice]:
    ranges = -(-documents // AT_ONCE)
    return [Slice(band, number, ranges) for band in range(bands) for number in range(ranges)]


@dataclass(frozen=True)
class PairJob:
    """Pairs the documents of a slice; a callable that can be sent to workers."""

    directory: str
    stage: str
    """Folder for the pairs, below the output directory."""
    partitions: int

    def __call__(self, part: Slice, report: Report) -> Slice:
        """Write [2, pairs]: the first document with a key, and another. Reports one slice done."""
        name = f"{self.stage}/{part.name}"
        if not (Path(self.directory) / name).exists():
            found = [self._read(partition, part) for partition in range(self.partitions)]
            store_array(Path(self.directory), name, _pairs(np.concatenate(found, axis=1)))
        report(1)
        return part

    def _read(self, partition: int, part: Slice) -> Pairs:
        """The keys of one partition in the slice, [3, documents]."""
        path = Path(self.directory) / keys_name(partition)
        # memory-mapped: only the slice is read
        stored = np.load(path, mmap_mode="r", allow_pickle=False)[:, part.band]
        edges = [(edge << 64) // part.ranges for edge in (part.number, part.number + 1)]
        first, last = (
            len(stored[0]) if edge >> 64 else int(stored[0].searchsorted(np.uint64(edge))) for edge in edges
        )
        found = np.array(stored[:, first:last])
        found[2] |= np.uint64(partition << PARTITION_BIT)
        return found


def _pairs(keys: Pairs) -> Pairs:
    high, low, documents = keys[:, np.lexsort(keys[::-1])]
    same = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    new = np.concatenate([[True], ~same])
    first = documents[new][np.cumsum(new) - 1]
    return np.stack([first[~new], documents[~new]])


@dataclass(frozen=True)
class Removals:
    """The documents to remove, ascending, and which of them are exact copies of another."""

    documents: Pairs
    exact: npt.NDArray[np.bool_]


def removals(folder: Path, parts: Sequence[Slice], exact: bool) -> Removals:
    """Of all documents that pairs join, directly or through others, the first stays.

    Args:
        exact: whether band 0 is that of whole texts.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = copies = np.empty((2, 0), np.uint64)
    for part in parts:
        found = np.load(folder / part.name, allow_pickle=False)
        if exact and part.band == 0:
            copies = np.concatenate([copies, found], axis=1)
        pairs = _unique(np.concatenate([pairs, found], axis=1))
    if not pairs.size:
        return Removals(pairs[1], np.empty(0, np.bool_))
    documents = np.unique(pairs)
    ends = documents.searchsorted(pairs)
    joined = coo_array((np.ones(ends.shape[1], np.bool_), tuple(ends)), (len(documents), len(documents)))
    _, clusters = connected_components(joined, directed=False)
    stays = np.zeros(len(documents), np.bool_)
    stays[np.unique(clusters, return_index=True)[1]] = True
    removed = documents[~stays]
    return Removals(removed, np.isin(removed, copies[1]))


def _unique(pairs: Pairs) -> Pairs:
    """Each pair once: several bands find the same pairs."""
    if not pairs.size:
        return pairs
    pairs = pairs[:, np.lexsort(pairs[::-1])]
    new = np.any(pairs[:, 1:] != pairs[:, :-1], axis=0)
    return pairs[:, np.concatenate([[True], new])]


def store_removals(directory: Path, stage: str, found: Removals) -> StoredFile:
    """Write [2, documents]: the documents, and 1 for a copy."""
    return store_array(
        directory, f"{stage}/removals.npy", np.stack([found.documents, found.exact.astype(np.uint64)])
    )


def removed_from(directory: Path, stage: str, partition: int) -> Pairs:
    """The removed documents of one partition, [2, documents], numbered within it."""
    stored = np.load(directory / stage / "removals.npy", mmap_mode="r", allow_pickle=False)
    edges = [np.uint64(number << PARTITION_BIT) for number in (partition, partition + 1)]
    first, last = stored[0].searchsorted(edges)
    mine: Pairs = np.array(stored[:, first:last])
    mine[0] -= edges[0]
    return mine


def kept_documents(results: Sequence[FilterResult]) -> int:
    """How many documents passed the filters, over all partitions."""
    return sum(result.kept for result in results)
