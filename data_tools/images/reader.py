"""Random access to the images of a shard directory, memory-mapped in place.

The directory is one list of images: its shards in the order of the index. At start only the index and the
sizes of the shards are read.
"""

import os
import threading
from bisect import bisect_right
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from data_tools.cache import ShardCache
from data_tools.directory import open_directory
from data_tools.errors import IntegrityError
from data_tools.images.index import ImageIndex, image_key, read_image_index
from data_tools.images.pixels import BadImage, Pixels, decode
from data_tools.maps import MappedShards


class ImageReader:
    """Reads a directory of image shards: a local one, or one by URL, whose shards are kept in a `cache`.

    Raises:
        UserError: `path` is not a directory of image shards, or a URL without a cache, or cannot be read.
        IntegrityError: the index is damaged, or a shard is missing, truncated or not a plain file.
    """

    def __init__(self, path: str | os.PathLike[str], cache: ShardCache | None = None) -> None:
        self.path, self._cache = os.fspath(path), cache
        directory = open_directory(self.path, cache)
        self.index: ImageIndex = read_image_index(directory.local, self.path)
        self._store = directory.store
        self._maps = MappedShards(self._store, self.index.shards)
        self._starts = [0, *accumulate(len(shard.sizes) for shard in self.index.shards)]
        self._lock = threading.Lock()
        self.labels: npt.NDArray[np.int64] | None = None
        """The class of every image, int64 [images]; None without classes."""
        if self.index.classes:
            self.labels = np.concatenate([np.array(s.labels, np.int64) for s in self.index.shards])

    def __reduce__(self) -> tuple[type["ImageReader"], tuple[str, ShardCache | None]]:
        return ImageReader, (self.path, self._cache)

    def __len__(self) -> int:
        return self.index.images

    @property
    def fingerprint(self) -> str:
        """The sha256 that identifies the content: it covers every shard's checksum."""
        return self.index.fingerprint

    def encoded(self, number: int) -> bytes:
        """The image's file as stored. Raises IndexError outside the directory."""
        shard, index = self._find(number)
        offset, size = self.index.shards[shard].offsets[index], self.index.shards[shard].sizes[index]
        with self._lock:
            return self._maps.find(shard)[offset : offset + size]

    def pixels(self, number: int) -> Pixels:
        """One image, uint8 [C, H, W].

        Raises:
            IndexError: it is outside the directory.
            IntegrityError: its file is damaged; names shard and key.
        """
        try:
            return decode(self.encoded(number), self.index.image_size, self.index.channels)
        except BadImage as error:
            which, index = self._find(number)
            shard = self.index.shards[which]
            raise IntegrityError(
                f"{self._store.location(shard)}: image {image_key(shard.name, index)} {error}; copy the "
                "shard again or build the directory again"
            ) from None

    def _find(self, number: int) -> tuple[int, int]:
        """The number of the shard that holds an image, and the image's number in it."""
        if not 0 <= number < len(self):
            raise IndexError(f"image {number} of {len(self)}")
        shard = bisect_right(self._starts, number) - 1
        return shard, number - self._starts[shard]
