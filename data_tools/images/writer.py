"""Writes the images of one partition into WebDataset tars: `KEY.cls` and `KEY.png` (or `.webp`)."""

from pathlib import Path

from data_tools.atomic import sync_folder
from data_tools.images.index import ImageShard, image_key
from data_tools.tar import TarFileWriter

SHARD_BYTES = 256 << 20


class ImageWriter:
    """Collects encoded images into shards `PPPPPP-NNN.tar` of about `SHARD_BYTES`."""

    def __init__(self, directory: Path, scratch: Path, partition: int, encoding: str) -> None:
        self._directory, self._scratch, self._partition = directory, scratch, partition
        self._encoding = encoding
        self._shards: list[ImageShard] = []
        self._tar: TarFileWriter | None = None
        self._offsets: list[int] = []
        self._sizes: list[int] = []
        self._labels: list[int] = []

    def add(self, data: bytes, label: int | None) -> None:
        """Append an image; `label` None for images without classes."""
        if self._tar is None:
            stem = f"{self._partition:06d}-{len(self._shards):03d}"
            self._tar = TarFileWriter(self._directory, self._scratch, stem)
            self._offsets, self._sizes, self._labels = [], [], []
        key = image_key(self._tar.stem, len(self._sizes))
        if label is not None:
            self._tar.add(f"{key}.cls", str(label).encode())
            self._labels.append(label)
        self._offsets.append(self._tar.add(f"{key}.{self._encoding}", data))
        self._sizes.append(len(data))
        if self._offsets[-1] + len(data) >= SHARD_BYTES:
            self._close_shard()

    def close(self) -> tuple[ImageShard, ...]:
        """Write what is left and return the partition's shards (none if it has no images)."""
        if self._tar is not None:
            self._close_shard()
        sync_folder(self._directory)
        return tuple(self._shards)

    def _close_shard(self) -> None:
        assert self._tar is not None
        written = self._tar.close()
        images = (tuple(self._offsets), tuple(self._sizes), tuple(self._labels))
        self._shards.append(ImageShard(written.name, written.size, written.sha256, *images))
        self._tar = None
