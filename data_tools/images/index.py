"""The index of a directory of image shards: what it says and how it is checked.

It names every shard with its size and checksum, and for every image the byte offset and length of its file in
the tar and its class, so that a reader finds an image without scanning the tars. Sample i of a shard has the
key `STEM-IIIIII`.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from data_tools.index_file import (
    Index,
    Offset,
    Positive,
    Sha256,
    ShardName,
    read_index_file,
    sealed,
    write_index_file,
)
from data_tools.typed import Natural

ENCODINGS = ("png", "webp")
CHANNELS = (1, 3)
MAX_SIZE = 4096
MAX_CLASSES = 1_000_000
CLASS_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,255}")


def _class_name(name: str) -> str:
    if not CLASS_NAME.fullmatch(name):
        raise ValueError("is not a name: 1 to 255 printable characters")
    return name


@dataclass(frozen=True)
class ImageShard:
    """One tar file: its size in bytes, its sha256 and its images in order.

    offsets, sizes: of the file of each image. labels: the class of each image; empty without classes.
    """

    name: ShardName
    size: Positive
    sha256: Sha256
    offsets: tuple[Offset, ...]
    sizes: Annotated[tuple[Positive, ...], Field(min_length=1)]
    labels: tuple[Natural, ...]

    def fault(self, classes: int) -> str | None:
        """What does not fit together; None if everything does."""
        if len(self.offsets) != len(self.sizes):
            return f"sizes: has {len(self.sizes)} entries for {len(self.offsets)} images"
        end = max(offset + length for offset, length in zip(self.offsets, self.sizes, strict=True))
        if end > self.size:
            return f"offsets: has an image that ends at byte {end} of a shard of {self.size}"
        if len(self.labels) != (len(self.sizes) if classes else 0):
            return f"labels: has {len(self.labels)} entries for {len(self.sizes)} images of {classes} classes"
        if max(self.labels, default=0) >= max(classes, 1):
            return f"labels: has class {max(self.labels)} of {classes}"
        return None


@dataclass(frozen=True)
class ImageIndex(Index):
    """What a directory of image shards holds: square images of `image_size` pixels per side.

    classes: names of the classes in the order of their numbers; empty for images without labels.
    """

    KIND: ClassVar[str] = "images"
    format_version: Literal[1]
    kind: Literal["images"]
    image_size: Annotated[int, Field(ge=1, le=MAX_SIZE)]
    channels: Literal[1, 3]
    encoding: Literal["png", "webp"]
    images: Positive
    classes: tuple[Annotated[str, AfterValidator(_class_name)], ...]
    shards: tuple[ImageShard, ...]
    fingerprint: Sha256

    def fault(self) -> str | None:
        """What does not fit together; None if everything does."""
        if len(set(self.classes)) != len(self.classes):
            return "classes: names a class twice"
        for shard in self.shards:
            if fault := shard.fault(len(self.classes)):
                return f"{shard.name}: {fault}"
        found = sum(len(shard.sizes) for shard in self.shards)
        return None if found == self.images else f"images: is {self.images}, but the shards add up to {found}"


def image_key(shard: str, number: int) -> str:
    """The WebDataset key of an image by its number in a shard."""
    return f"{shard.removesuffix('.tar')}-{number:06d}"


def make_image_index(**content: Any) -> ImageIndex:
    """Build an index from its fields; those that follow from them are added."""
    images = sum(len(shard.sizes) for shard in content["shards"])
    return sealed(ImageIndex(format_version=1, kind="images", images=images, fingerprint="", **content))


def write_image_index(directory: Path, index: ImageIndex) -> None:
    write_index_file(directory, index, separators=(",", ":"))


def read_image_index(directory: str | os.PathLike[str], named: str | None = None) -> ImageIndex:
    """Read and check the `index.json` of image shards; arguments and errors as for `read_index_file`."""
    return read_index_file(directory, ImageIndex, named)
