"""Batches of images: training batches by step, and every image of a directory once, in order.

Both are pure functions of the config and the shards: which image sample i is follows from the seed, as for
text (`order.py`), so a loader's whole state is one integer.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_tools.cache import ShardCache
from data_tools.images.pixels import Pixels
from data_tools.images.reader import ImageReader
from pretrain.data.order import InSteps, SampleOrder, make_order
from pretrain.errors import UserError

CACHE_BYTES = 256 << 20


class ImageBatch(NamedTuple):
    """Images as torch tensors on the CPU."""

    images: Tensor
    """uint8 [B, C, H, W]."""
    labels: Tensor | None
    """int64 [B]; None without classes."""


class ImageSource:
    """The images of one shard directory, by number.

    The first images that are decoded are cached, up to `cache_bytes`: in a random order, no other policy
    would have more cache hits.
    """

    def __init__(self, reader: ImageReader, cache_bytes: int = CACHE_BYTES) -> None:
        self.reader = reader
        index = reader.index
        self._room = cache_bytes // (index.channels * index.image_size**2)
        self._kept: dict[int, Pixels] = {}

    def __len__(self) -> int:
        return len(self.reader)

    def pixels(self, number: int) -> Pixels:
        """One image, uint8 [C, H, W]. Raises IntegrityError if its file is damaged."""
        found = self._kept.get(number)
        if found is None:
            found = self.reader.pixels(number)
            if len(self._kept) < self._room:
                self._kept[number] = found
        return found

    def take(self, numbers: Sequence[int]) -> ImageBatch:
        return _stack([(self, number) for number in numbers])

    def micro_batches(self, rank: int, size: int, micro_size: int, count: int) -> Iterator[ImageBatch]:
        """The first `count` images, each on one of `size` ranks, in batches of up to `micro_size`.

        Ranks take whole batches in turn, so that batches do not depend on the number of ranks. Some ranks may
        get one batch fewer.
        """
        for first in range(rank * micro_size, count, size * micro_size):
            yield self.take(range(first, min(first + micro_size, count)))


@dataclass(frozen=True)
class ImageData(InSteps):
    """The training images of a run. Immutable: what comes next follows from the step alone."""

    sources: tuple[ImageSource, ...]
    order: SampleOrder
    global_size: int
    micro_size: int
    fingerprint: str
    """Equal fingerprints give equal samples at every index."""

    @classmethod
    def open(
        cls,
        sources: Sequence[tuple[str, float]],
        seed: int,
        global_size: int,
        micro_size: int,
        cache_bytes: int = CACHE_BYTES,
        shards: ShardCache | None = None,
    ) -> "ImageData":
        """Open shard directories, each with its weight; `shards` caches those that are named by a URL.

        Raises UserError or IntegrityError, naming the path, for one that cannot be read or does not fit the
        others in size, channels and classes.
        """
        readers = open_images([path for path, _ in sources], "data.train", shards)
        weights = [weight for _, weight in sources]
        identity = {
            "sources": [reader.fingerprint for reader in readers],
            "weights": weights,
            "seed": seed,
        }
        return cls(
            tuple(ImageSource(reader, cache_bytes // len(readers)) for reader in readers),
            make_order(seed, [len(reader) for reader in readers], weights),
            global_size,
            micro_size,
            hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        )

    @property
    def samples_per_epoch(self) -> int:
        return sum(self.order.sizes)

    @property
    def channels(self) -> int:
        return self.sources[0].reader.index.channels

    @property
    def size(self) -> int:
        """Pixels per side."""
        return self.sources[0].reader.index.image_size

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by number; empty for images without labels."""
        return self.sources[0].reader.index.classes

    @property
    def num_classes(self) -> int:
        """Number of classes that the labels name; 0 for images without labels."""
        return len(self.classes)

    def batch(self, step: int, micro_batch: int, rank: int, size: int) -> ImageBatch:
        """Micro-batch `micro_batch` of step `step` (both from 0) for data-parallel rank `rank` of `size`."""
        return self.images(self.ids(step, micro_batch, rank, size))

    def images(self, sample_ids: Sequence[int]) -> ImageBatch:
        sources, found = self.order.locate(np.asarray(sample_ids, dtype=np.int64))
        return _stack(
            [(self.sources[k], number) for k, number in zip(sources.tolist(), found.tolist(), strict=True)]
        )


def _stack(places: Sequence[tuple[ImageSource, int]]) -> ImageBatch:
    images = torch.from_numpy(np.stack([source.pixels(number) for source, number in places]))
    labels = [source.reader.labels[number] for source, number in places if source.reader.labels is not None]
    return ImageBatch(images, torch.from_numpy(np.array(labels)) if labels else None)


def open_images(
    paths: Sequence[str], key: str, shards: ShardCache | None, like: ImageReader | None = None
) -> list[ImageReader]:
    """Readers of image shards that match each other, and `like`; `key` is for messages.

    shards: cache for those that are named by a URL.

    Raises UserError or IntegrityError, naming key and path.
    """
    readers = []
    for path in paths:
        try:
            readers.append(ImageReader(path, shards))
        except UserError as error:
            raise type(error)(str(error), key) from None
    first = like or readers[0]
    for reader in readers:
        require_alike(reader, first, key)
    return readers


def require_alike(reader: ImageReader, first: ImageReader, key: str) -> None:
    """Raise UserError if the images of a directory have another size, channels or classes than `first`."""
    mine, theirs = reader.index, first.index
    for what, option in (("image_size", "--size"), ("channels", "--channels")):
        if getattr(mine, what) != getattr(theirs, what):
            raise UserError(
                f"{reader.path}: {what} is {getattr(mine, what)}, that of {first.path} is "
                f"{getattr(theirs, what)}; build it with {option} {getattr(theirs, what)}",
                key,
            )
    if mine.classes != theirs.classes:
        raise UserError(
            f"{reader.path}: its {len(mine.classes)} classes are not the {len(theirs.classes)} of "
            f"{first.path}; build it with --classes {first.path}",
            key,
        )
