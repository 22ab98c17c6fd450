"""Reads a whole directory of image shards and lists everything that is wrong with it."""

import mmap
from dataclasses import dataclass
from typing import BinaryIO

from data_tools.cache import ShardCache
from data_tools.counts import counted
from data_tools.directory import ShardDirectory, open_directory
from data_tools.images.index import ImageIndex, ImageShard, image_key, read_image_index
from data_tools.images.pixels import BadImage, decode
from data_tools.pool import Report
from data_tools.verify import (
    ShardVerdict,
    VerifyReport,
    checksum_faults,
    few,
    foreign_shards,
    gathered,
    member_places,
    verify_shards,
)


def verify_images(directory: str, workers: int = 1, cache: ShardCache | None = None) -> VerifyReport:
    """Check every checksum and decode every image of a directory; one by URL is read through a `cache`.

    Raises UserError or IntegrityError only if the index itself cannot be read; everything else is listed in
    the report.
    """
    opened = open_directory(directory, cache)
    index = read_image_index(opened.local, opened.named)
    faults = foreign_shards(opened, index.shards)
    for verdict in verify_shards(_VerifyShard(opened), index.shards, workers):
        faults += [f"{index.shards[verdict.number].name}: {fault}" for fault in verdict.faults]
    counts = (
        f"{counted(len(index.shards), 'shard')}, {counted(index.images, 'image')}, "
        f"{counted(len(index.classes), 'class')}"
    )
    return VerifyReport(counts, tuple(faults))


@dataclass(frozen=True)
class _VerifyShard:
    """Verifies a shard by number; a callable that can be sent to workers."""

    directory: ShardDirectory

    def __call__(self, number: int, report: Report) -> ShardVerdict:
        index = read_image_index(self.directory.local)
        shard = index.shards[number]
        faults: list[str] = []
        with gathered(faults, self.directory, shard), self.directory.store.open(shard) as file:
            faults += checksum_faults(file, shard, report)
            faults += _image_faults(file, shard, index)
        return ShardVerdict(number, few(faults))


def _image_faults(file: BinaryIO, shard: ImageShard, index: ImageIndex) -> list[str]:
    keys = [image_key(shard.name, number) for number in range(len(shard.sizes))]
    parts = (*(("cls",) if index.classes else ()), index.encoding)
    members = member_places(file, [f"{key}.{part}" for key in keys for part in parts])
    faults = []
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        for number, key in enumerate(keys):
            offset, size = members[f"{key}.{index.encoding}"]
            if (offset, size) != (shard.offsets[number], shard.sizes[number]):
                expected = f"{shard.sizes[number]} bytes at {shard.offsets[number]}"
                faults.append(f"image {key} is {size} bytes at {offset}, the index expects {expected}")
                continue
            try:
                decode(view[offset : offset + size], index.image_size, index.channels)
            except BadImage as error:
                faults.append(f"image {key} {error}")
            if index.classes:
                at, length = members[f"{key}.cls"]
                label = view[at : at + min(length, 32)]
                if label != str(shard.labels[number]).encode():
                    expected = str(shard.labels[number])
                    faults.append(f"image {key} is of class {label!r}, the index expects {expected}")
    return faults
