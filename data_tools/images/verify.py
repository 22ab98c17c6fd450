"""Reads a whole directory of image shards and lists everything that is wrong with it."""

import mmap
import tarfile
from dataclasses import dataclass
from pathlib import Path

from data_tools.errors import IntegrityError
from data_tools.images.index import ImageIndex, ImageShard, image_key, read_image_index
from data_tools.images.pixels import BadImage, decode
from data_tools.maps import check_shard_size
from data_tools.pool import Report, run_tasks
from data_tools.progress import Progress
from data_tools.verify import (
    VerifyReport,
    checksum_faults,
    few,
    foreign_shards,
    member_places,
)


def verify_images(directory: str, workers: int = 1) -> VerifyReport:
    """Check every checksum and decode every image of a directory of image shards.

    Raises UserError or IntegrityError only if the index itself cannot be read; all else is listed in the
    report.
    """
    index = read_image_index(directory)
    faults = foreign_shards(Path(directory), index.shards)
    found: dict[int, tuple[str, ...]] = {}
    numbers = list(range(len(index.shards)))
    with Progress("verifying shards", sum(shard.size for shard in index.shards), "B") as progress:
        for number, shard_faults in run_tasks(_VerifyShard(directory), numbers, workers, progress.advance):
            found[number] = shard_faults
    for number in numbers:
        faults += [f"{index.shards[number].name}: {fault}" for fault in found[number]]
    counts = f"{len(index.shards)} shards, {index.images:,} images, {len(index.classes):,} classes"
    return VerifyReport(counts, tuple(faults))


@dataclass(frozen=True)
class _VerifyShard:
    """Verifies the shard of a number; a callable that workers can be sent."""

    directory: str

    def __call__(self, number: int, report: Report) -> tuple[int, tuple[str, ...]]:
        index = read_image_index(self.directory)
        shard = index.shards[number]
        path = Path(self.directory) / shard.name
        faults: list[str] = []
        try:
            check_shard_size(Path(self.directory), shard)
            faults += checksum_faults(path, shard, report)
            faults += _image_faults(path, shard, index)
        except IntegrityError as error:
            faults.append(str(error).removeprefix(f"{path}: "))
        except (OSError, tarfile.TarError) as error:
            faults.append(f"cannot be read as a tar: {error}")
        return number, few(faults)


def _image_faults(path: Path, shard: ImageShard, index: ImageIndex) -> list[str]:
    keys = [image_key(shard.name, number) for number in range(len(shard.sizes))]
    parts = (*(("cls",) if index.classes else ()), index.encoding)
    places = member_places(path, [f"{key}.{part}" for key in keys for part in parts])
    faults = []
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        for number, key in enumerate(keys):
            offset, size = places[f"{key}.{index.encoding}"]
            if (offset, size) != (shard.offsets[number], shard.sizes[number]):
                expected = f"{shard.sizes[number]} bytes at {shard.offsets[number]}"
                faults.append(f"image {key} is {size} bytes at {offset}, the index expects {expected}")
                continue
            try:
                decode(view[offset : offset + size], index.image_size, index.channels)
            except BadImage as error:
                faults.append(f"image {key} {error}")
            if index.classes:
                at, length = places[f"{key}.cls"]
                label = view[at : at + min(length, 32)]
                if label != str(shard.labels[number]).encode():
                    expected = str(shard.labels[number])
                    faults.append(f"image {key} is of class {label!r}, the index expects {expected}")
    return faults
